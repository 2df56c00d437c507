"""``kind: metadata``: conditions over metadata, the item's text and names, and facts of its image and text.

::

    {name: brand, kind: metadata, when: "brand == 'Hatters' or price < 10", vote: hat}
    {name: terse, kind: metadata, when: "language == 'de' and n_words < 5", vote: hat}

A bare name is a metadata field. ``id``, ``filename`` and ``text`` are the item's own. A fact stands in where the
metadata has no field of that name: of the image, such as ``width``, of the text, such as ``language``, or a field that
a declared primitive of kind ``fields`` takes out of a text. What is missing is unknown, and unknown is no reason to
vote; see :mod:`manyeyes.lfs.columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Final, Literal, Self

import numpy as np
from pydantic import Field, ValidationInfo, model_validator

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.base import VoteColumn
from manyeyes.lfs.columns import Column
from manyeyes.lfs.facts import fact, has_fact, usual_facts
from manyeyes.lfs.fields import file_name
from manyeyes.lfs.patterns import compile_pattern
from manyeyes.lfs.rules import Rule, RulesLF, RulesSpec
from manyeyes.lfs.vocabulary import Function, Vocabulary
from manyeyes.primitives.base import Features, FeatureSet
from manyeyes.primitives.naming import parts
from manyeyes.types import Item

VOCABULARY: Final = Vocabulary(
    functions={
        "lower": Function(("text",), "text", "the text in lower case"),
        "len": Function(("text",), "number", "how many characters the text has"),
        "number": Function(
            ("text",), "number", "the number that the text spells; unknown where it spells none"
        ),
        "contains": Function(("text", "text"), "truth", "whether the second text occurs in the first"),
        "startswith": Function(("text", "text"), "truth", "whether the first text starts with the second"),
        "endswith": Function(("text", "text"), "truth", "whether the first text ends with the second"),
        "matches": Function(("text", "pattern"), "truth", "whether the RE2 pattern is found in the text"),
        "has": Function(("field",), "truth", "whether the metadata has the field, and it is not None"),
        "field": Function(
            ("field",), "any", "a metadata field whose name is not one word: field('Price (USD)')"
        ),
    },
    variables=True,
    check_pattern=compile_pattern,
)


class MetadataRule(Rule):
    """One condition over metadata and its vote."""

    vocabulary: ClassVar[Vocabulary] = VOCABULARY


class MetadataSpec(RulesSpec):
    """A condition and a vote, or rules; the first that holds decides.

    using: features whose facts conditions name beside the usual ones, such as ``text_facts@ocr``; what the recipe's
    primitives of kind ``fields`` give is added where a condition names it. The first that tells a fact counts.
    """

    vocabulary: ClassVar[Vocabulary] = VOCABULARY

    kind: Literal["metadata"] = "metadata"
    rules: Annotated[tuple[MetadataRule, ...], Field(max_length=1_000)] = ()
    using: Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=50)] = ()

    @model_validator(mode="after")
    def _find_facts(self, info: ValidationInfo) -> Self:
        told = (info.context or {}).get("facts")
        declared: Mapping[str, Sequence[str]] = told() if told is not None else {}
        using = list(self.using)
        for name in sorted({name for when, _ in self.conditions() for name in when.variables}):
            features = declared.get(name, ())
            if not features or set(features) & set(using):
                continue
            if len(features) > 1:
                raise InvalidRecipe(
                    f"{name!r} is a field of {' and of '.join(features)}; say which is meant: using: [{features[0]}]"
                )
            using.append(features[0])
        # Pydantic's frozen models have no other way to fill in a field that depends on others.
        object.__setattr__(self, "using", tuple(dict.fromkeys(using)))
        return self


class MetadataLF(RulesLF):
    """Votes where a condition is known to hold; hard votes."""

    kind: ClassVar[str] = "metadata"
    Spec = MetadataSpec
    spec: MetadataSpec

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(
            dict.fromkeys(read for feature in self._facts() for read in (feature, *parts(feature)[1:]))
        )

    def _facts(self) -> list[str]:
        """Return the features whose facts the conditions may name; the first that tells one counts."""
        usual = usual_facts()
        return [*self.spec.using, *sorted({usual[name] for name in self.variables() & set(usual)})]

    def vote(self, features: FeatureSet) -> VoteColumn:
        facts = [features[feature] for feature in self._facts()]
        return self.decide(_Fields(features.items, facts), np.ones(len(features), dtype=np.bool_))


class _Fields:
    """Metadata and facts of some items, as a source of values for expressions. See ``columns.Source``."""

    def __init__(self, items: Sequence[Item], facts: Sequence[Features]) -> None:
        self._items = items
        self._facts = facts

    def variable(self, name: str) -> Column:
        if name in _OWN:
            return Column.of([_OWN[name](item) for item in self._items])
        values = self._field(name)
        for block in self._facts:
            if has_fact(block, name):
                return values.or_else(fact(block, name))
        return values

    def call(self, function: str, arguments: Sequence[str | Column]) -> Column:
        if function in ("has", "field"):
            values = self._field(str(arguments[0]))
            return Column.truths(~values.missing()) if function == "has" else values
        text, *others = (argument for argument in arguments if isinstance(argument, Column))
        if not others:
            return text.map_texts(_OF_TEXTS[function])
        if function == "matches":
            pattern = compile_pattern(others[0].words[0])
            return text.map_texts(lambda word: pattern.search(word) is not None)
        return text.map_pairs(others[0], _OF_PAIRS[function])

    def _field(self, name: str) -> Column:
        return Column.of([item.metadata.get(name) for item in self._items])


def _number(text: str) -> float | None:
    # Python's float also reads "nan", "1_000" and digits of every script; a field that says so is still no number.
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) and "_" not in text else None


_OWN: Final[dict[str, Callable[[Item], object]]] = {
    "id": lambda item: item.id,
    "filename": file_name,
    "text": lambda item: item.text,
}
_OF_TEXTS: Final[dict[str, Callable[[str], object]]] = {"lower": str.lower, "len": len, "number": _number}
_OF_PAIRS: Final[dict[str, Callable[[str, str], bool]]] = {
    "contains": lambda text, part: part in text,
    "startswith": str.startswith,
    "endswith": str.endswith,
}
