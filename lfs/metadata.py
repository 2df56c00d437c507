"""``kind: metadata``: conditions over metadata, the item's text and names, and plain facts of its image.

::

    {name: brand, kind: metadata, when: "brand == 'Hatters' or price < 10", vote: hat}

A bare name is a metadata field. ``id``, ``filename`` and ``text`` are the item's own; a fact of the image, such as
``width``, stands in where the metadata has no field of that name. What is missing is unknown, and unknown is no reason
to vote; see :mod:`manyeyes.lfs.columns`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Final, Literal

import numpy as np
from pydantic import Field

from manyeyes.lfs.base import VoteColumn
from manyeyes.lfs.columns import Column
from manyeyes.lfs.fields import file_name
from manyeyes.lfs.patterns import compile_pattern
from manyeyes.lfs.rules import Rule, RulesLF, RulesSpec
from manyeyes.lfs.vocabulary import Function, Vocabulary
from manyeyes.primitives.base import Features, FeatureSet
from manyeyes.registry import load
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
    """A condition and a vote, or rules; the first that holds decides."""

    vocabulary: ClassVar[Vocabulary] = VOCABULARY

    kind: Literal["metadata"] = "metadata"
    rules: Annotated[tuple[MetadataRule, ...], Field(max_length=1_000)] = ()


class MetadataLF(RulesLF):
    """Votes where a condition is known to hold; hard votes."""

    kind: ClassVar[str] = "metadata"
    Spec = MetadataSpec
    spec: MetadataSpec

    @property
    def reads(self) -> tuple[str, ...]:
        return ("image",) if self.variables() & image_facts() else ()

    def vote(self, features: FeatureSet) -> VoteColumn:
        facts = features["image"] if self.reads else None
        return self.decide(_Fields(features.items, facts), np.ones(len(features), dtype=np.bool_))


class _Fields:
    """Metadata and facts of some items, as a source of values for expressions. See ``columns.Source``."""

    def __init__(self, items: Sequence[Item], facts: Features | None) -> None:
        self._items = items
        self._facts = facts

    def variable(self, name: str) -> Column:
        if name in _OWN:
            return Column.of([_OWN[name](item) for item in self._items])
        values = self._field(name)
        if self._facts is not None and name in image_facts():
            return values.or_else(_fact(self._facts, name))
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


@cache
def image_facts() -> frozenset[str]:
    """Return what the ``image`` primitive tells of an image; asking loads no image library."""
    kind = load("manyeyes.primitives", "image")
    spec = kind.Spec(kind="image", model="facts")
    return frozenset(kind.build("image", spec)["image"].info["columns"])


def _fact(facts: Features, name: str) -> Column:
    values: Any = facts[name]
    if values.dtype.kind in "SU":
        texts = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in values.tolist()]
        return Column.of(
            [text or None if here else None for text, here in zip(texts, facts.present, strict=True)]
        )
    if values.dtype.kind == "b":
        return Column.truths(values, facts.present)
    return Column.numbers(np.where(facts.present, values.astype(np.float64), np.nan))
