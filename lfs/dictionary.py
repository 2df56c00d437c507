"""``kind: dictionary``: thousands of words with a class and a weight each, in the recipe or in a file beside it.

::

    {name: brands, kind: dictionary, words: {hat: [akubra, stetson], shoes: {clarks: 2, vans: 0.5}}}
    {name: lexicon, kind: dictionary, on: ocr, file: words.csv, least: 2}

The weights of the different words that occur are added up for each class; the class with the greatest sum wins, where
it is at least ``least``, and on a tie the LF abstains. However many words there are, a text is read once.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.base import ClassName, Context, LabelingFunction, LFSpec, Number, VoteColumn, Word
from manyeyes.lfs.fields import TextSource, needed_for, read_texts
from manyeyes.lfs.files import content_of, digest_of
from manyeyes.lfs.terms import Term, TermIndex, read_terms
from manyeyes.lfs.words import comparable
from manyeyes.primitives.base import FeatureSet
from manyeyes.types import ABSTAIN

MAX_INLINE: Final = 10_000


def _weighted(value: object) -> object:
    if isinstance(value, str):
        return {value: 1.0}
    if isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value):
        return dict.fromkeys(value, 1.0)
    return value


Weight = Annotated[Number, Field(ge=-1_000, le=1_000, allow_inf_nan=False)]
Weighted = Annotated[
    dict[Word, Weight],
    Field(min_length=1),
    BeforeValidator(_weighted, json_schema_input_type=str | list[str] | dict[str, float]),
]
"""Words, with their weights where they are not 1."""


class DictionarySpec(LFSpec):
    """Which words, and where.

    words: by class, a list, or a mapping from words to weights; a negative weight speaks against the class. file: more
    words, relative to the recipe: a .csv or .tsv with the columns word, class and, if there are any, weight, or a list
    of words, all for the class ``vote``. sha256: of the file, filled in where the recipe is read. least: the least sum
    of weights to vote. whole_words, ignore_case: as for ``keyword``.
    """

    kind: Literal["dictionary"] = "dictionary"
    on: TextSource = "text"
    words: dict[ClassName, Weighted] = Field(default_factory=dict)
    file: Annotated[str, Field(min_length=1, max_length=4_096)] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    vote: ClassName | None = None
    least: Annotated[Number, Field(gt=0.0, le=1e6)] = 1.0
    whole_words: bool = True
    ignore_case: bool = True

    @model_validator(mode="after")
    def _whole(self, info: ValidationInfo) -> Self:
        if not self.words and self.file is None:
            raise InvalidRecipe("a dictionary needs words: {class: [word, …]}, or a file of them")
        if self.file is None and (self.vote is not None or self.sha256 is not None):
            raise InvalidRecipe(
                "vote and sha256 belong to a file; in words, every word stands under its class"
            )
        for name, words in self.words.items():
            for word in words:
                if not word.split():
                    raise InvalidRecipe(f"a word of {name!r} is empty; leave it out")
        if sum(map(len, self.words.values())) > MAX_INLINE:
            raise InvalidRecipe(f"words may be at most {MAX_INLINE:,} in all; put them into a file")
        folder = (info.context or {}).get("folder")
        if self.file is not None and folder is not None:
            # Pydantic's frozen models have no other way to fill in a field that depends on others.
            object.__setattr__(self, "sha256", digest_of(self.file, self.sha256, folder))
        return self

    def refused_from_outside(self) -> str | None:
        """Refuse a file: nothing of this machine is opened for somebody outside."""
        if self.file is None:
            return None
        return f"file: {self.file!r} is a file of this machine, not opened for somebody outside; use words"


class DictionaryLF(LabelingFunction):
    """Votes for the class whose words weigh most in a text. Hard votes."""

    kind: ClassVar[str] = "dictionary"
    Spec = DictionarySpec
    spec: DictionarySpec

    # Set by `prepare`: which class each term speaks for, by its place in the index, and how much.
    _index: TermIndex
    _speaks: list[list[tuple[int, float]]]

    @property
    def reads(self) -> tuple[str, ...]:
        return needed_for(self.spec.on)

    def prepare(self, context: Context) -> None:
        """Read the file and build the index. Raises InvalidRecipe if the file is not what it should be."""
        del context
        spec = self.spec
        terms = [
            Term(word, name, weight) for name, words in spec.words.items() for word, weight in words.items()
        ]
        if spec.file is not None:
            content = content_of(spec.file, spec.sha256)
            terms += read_terms(content, spec.file, vote=spec.vote, classes=self.classes)
        speaks: dict[str, dict[int, float]] = {}
        for term in terms:
            word = comparable(term.word, ignore_case=spec.ignore_case)
            speaks.setdefault(word, {})[self.class_index(term.vote)] = term.weight
        self._index = TermIndex(list(speaks), whole_words=spec.whole_words, ignore_case=spec.ignore_case)
        self._speaks = [list(classes.items()) for classes in speaks.values()]

    def vote(self, features: FeatureSet) -> VoteColumn:
        column = self.empty(len(features))
        for row, text in enumerate(read_texts(features, self.spec.on)):
            if text:
                column.classes[row] = self._weigh(self._index.find(text))
        return column

    def _weigh(self, found: set[int]) -> int:
        sums: dict[int, float] = {}
        # In the order of the index: a sum's last bit depends on the order.
        for term in sorted(found):
            for index, weight in self._speaks[term]:
                sums[index] = sums.get(index, 0.0) + weight
        most = max(sums.values(), default=0.0)
        if most < self.spec.least:
            return ABSTAIN
        best = [index for index, weight in sums.items() if weight == most]
        return best[0] if len(best) == 1 else ABSTAIN
