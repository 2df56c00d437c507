"""``kind: keyword`` and ``kind: regex``: words and patterns in a text, metadata, a file name, an image.

::

    {name: title_says_hat, kind: keyword, on: text, any: [hat, cap, beanie], vote: hat}
    {name: words, kind: keyword, votes: {hat: [hat, cap], shoes: [shoe, boots]}}
    {name: code, kind: regex, on: filename, pattern: '^HT-\\d+', vote: hat}

Patterns are RE2's: matching takes time linear in the text whatever the pattern, so one from outside can hurt nobody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, model_validator

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.base import (
    DISTINCT,
    MAX_WORDS,
    ONE_OR_MORE,
    ClassName,
    LabelingFunction,
    LFSpec,
    VoteColumn,
    Word,
    Words,
)
from manyeyes.lfs.fields import TextSource, needed_for, read_texts
from manyeyes.lfs.partial import Named, Vote
from manyeyes.lfs.patterns import compile_pattern
from manyeyes.lfs.words import Texts, words_inside
from manyeyes.primitives.base import FeatureSet
from manyeyes.types import ABSTAIN


class KeywordSpec(LFSpec):
    """Which words, where, and what to vote.

    any, all, none: at least one, every one, not one of the words occurs; what is given must hold together.
    votes: words by class instead; the class with the most different words wins, and on a tie the LF abstains. A word
        inside a longer one of these does not count: "t-shirt" is no "shirt" where both are listed.
    whole_words: whether "hat" leaves "that" alone. ignore_case: compared case-folded, in any script.
    """

    kind: Literal["keyword"] = "keyword"
    on: TextSource = "text"
    any: Words = ()
    all: Words = ()
    none: Words = ()
    vote: Vote | None = None
    votes: dict[ClassName, Words] = Field(default_factory=dict)
    whole_words: bool = True
    ignore_case: bool = True

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        single = self.vote is not None
        if single == bool(self.votes):
            came = "both" if single else "neither"
            raise InvalidRecipe(f"a keyword LF has vote or votes, got {came}; votes is {{class: [word, …]}}")
        if single and not (self.any or self.all or self.none):
            raise InvalidRecipe("a keyword LF needs words: any, all or none")
        if self.votes and (self.any or self.all):
            raise InvalidRecipe("any and all stand beside votes; only none may, the words are in votes")
        _refuse_empty(self.votes, "words")
        for word in (*self.any, *self.all, *self.none, *(w for words in self.votes.values() for w in words)):
            if not word.split():
                raise InvalidRecipe("a word is empty; leave it out")
        return self


class KeywordLF(LabelingFunction):
    """Votes where words occur; abstains where they do not, or where there is no text. Hard votes."""

    kind: ClassVar[str] = "keyword"
    Spec = KeywordSpec
    spec: KeywordSpec

    def __init__(self, spec: KeywordSpec, classes: Sequence[str]) -> None:
        super().__init__(spec, classes)
        listed = [word for words in spec.votes.values() for word in words]
        self._inside = words_inside(listed, ignore_case=spec.ignore_case)
        self._vote = None if spec.vote is None else self.declare(spec.vote)

    @property
    def reads(self) -> tuple[str, ...]:
        return needed_for(self.spec.on)

    def vote(self, features: FeatureSet) -> VoteColumn:
        spec = self.spec
        column = self.empty(len(features))
        texts = Texts(
            read_texts(features, spec.on), ignore_case=spec.ignore_case, whole_words=spec.whole_words
        )
        allowed = texts.present.copy()
        for word in spec.none:
            allowed &= ~texts.contain(word)
        if self._vote is not None:
            for word in spec.all:
                allowed &= texts.contain(word)
            if spec.any:
                allowed &= np.logical_or.reduce([texts.contain(word) for word in spec.any])
            column.classes[allowed] = self._vote
            return column
        hits = {}
        for name, words in spec.votes.items():
            found = np.stack([texts.contain(word, inside=self._inside) for word in words])
            hits[self.class_index(name)] = found.sum(axis=0, dtype=np.int32)
        column.classes[:] = np.where(allowed, _clear_winner(hits, len(features)), ABSTAIN)
        return column


def _check_pattern(value: str) -> str:
    compile_pattern(value)
    return value


Pattern = Annotated[Word, AfterValidator(_check_pattern)]
Patterns = Annotated[tuple[Pattern, ...], Field(max_length=MAX_WORDS), ONE_OR_MORE, DISTINCT]


class RegexSpec(LFSpec):
    """Which patterns, where, and what to vote.

    pattern: one or several, of which one must be found anywhere in the text. votes: patterns by class instead; the
    class with the most patterns found wins, and on a tie the LF abstains.
    """

    kind: Literal["regex"] = "regex"
    on: TextSource = "text"
    pattern: Patterns = ()
    vote: Vote | None = None
    votes: dict[ClassName, Patterns] = Field(default_factory=dict)
    ignore_case: bool = True

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        single = (bool(self.pattern), self.vote is not None)
        if self.votes and any(single):
            raise InvalidRecipe("pattern and vote stand beside votes; write one or the other")
        if not self.votes and not all(single):
            missing = "pattern" if not single[0] else "vote"
            raise InvalidRecipe(f"{missing} is missing; a regex LF needs pattern and vote, or votes")
        _refuse_empty(self.votes, "patterns")
        if len(self.votes) == 1:  # the same LF as its short form, so it must have the same version
            ((vote, patterns),) = self.votes.items()
            for field, value in {"pattern": patterns, "vote": vote, "votes": {}}.items():
                object.__setattr__(self, field, value)
        return self


class RegexLF(LabelingFunction):
    """Votes where a pattern is found; abstains where none is, or where there is no text. Hard votes."""

    kind: ClassVar[str] = "regex"
    Spec = RegexSpec
    spec: RegexSpec

    def __init__(self, spec: RegexSpec, classes: Sequence[str]) -> None:
        super().__init__(spec, classes)
        votes: list[tuple[Named, tuple[str, ...]]] = list(spec.votes.items())
        if spec.vote is not None:
            votes = [(spec.vote, spec.pattern)]
        self._patterns = {
            self.declare(vote): [compile_pattern(p, ignore_case=spec.ignore_case) for p in patterns]
            for vote, patterns in votes
        }

    @property
    def reads(self) -> tuple[str, ...]:
        return needed_for(self.spec.on)

    def vote(self, features: FeatureSet) -> VoteColumn:
        column = self.empty(len(features))
        texts = read_texts(features, self.spec.on)
        n = len(texts)
        hits: dict[int, npt.NDArray[np.int32]] = {}
        for vote, patterns in self._patterns.items():
            hits[vote] = np.zeros(n, dtype=np.int32)
            for pattern in patterns:
                found = (text is not None and pattern.search(text) is not None for text in texts)
                hits[vote] += np.fromiter(found, dtype=np.bool_, count=n)
        column.classes[:] = _clear_winner(hits, n)
        return column


def _clear_winner(hits: Mapping[int, npt.NDArray[np.int32]], n_items: int) -> npt.NDArray[np.int64]:
    """Return the class with the most hits: int64, shape (n_items,); ABSTAIN where there is none or more than one."""
    if not n_items:
        return np.empty(0, dtype=np.int64)
    votes = np.array(list(hits), dtype=np.int64)
    counts = np.stack(list(hits.values()))
    most = counts.max(axis=0)
    clear = (most > 0) & ((counts == most).sum(axis=0) == 1)
    return np.where(clear, votes[counts.argmax(axis=0)], ABSTAIN)


def _refuse_empty(votes: Mapping[str, tuple[str, ...]], what: str) -> None:
    for name, words in votes.items():
        if not words:
            raise InvalidRecipe(f"votes for {name!r} have no {what}; add some, or leave the class out")
