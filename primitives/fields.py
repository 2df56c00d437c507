"""Named values out of texts, which ``metadata`` LFs then read like metadata.

::

    primitives:
      offer:
        kind: fields
        fields:
          price: {type: price, units: EUR}
          width: '(\\d+) ?cm'
          links: {type: url, take: count}
    lfs:
      - {name: cheap, kind: metadata, when: "price < 10 and links == 0", vote: hat}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from manyeyes.errors import InvalidRecipe, nearest
from manyeyes.primitives.base import Modality, Primitive, PrimitiveKind, PrimitiveSpec, Rows
from manyeyes.primitives.lines import LINE_COLUMN, TEXT_COLUMN, rows_of_lines
from manyeyes.primitives.patterns import compile_pattern
from manyeyes.primitives.values import CURRENCIES, DateOrder, Value, ValueType, finder

DTYPE: Final = np.dtype(
    [
        LINE_COLUMN,  # which field, by its place in info["fields"]
        TEXT_COLUMN,  # the value where it is a text; a longer one goes on in the next row
        ("number", "<f8"),  # the value where it is a number; else NaN
    ]
)
MAX_FIELDS: Final = 100
_VERSION: Final = 1


def _check_pattern(value: str | None) -> str | None:
    if value is not None:
        compile_pattern(value)
    return value


class FieldSpec(BaseModel):
    """What one field is.

    type: ``auto`` is a number where what was found spells one, else a text; see :mod:`manyeyes.primitives.values`.
    pattern: what to find (RE2, letters' case ignored): its first group, or all of it. units: words of which one stands
    after a number; of a price, codes of currencies. take: which of several values, or how many there are. order: of day
    and month in 3/4/2026.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: ValueType = "auto"
    pattern: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_check_pattern)] | None = None
    units: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=50)], ...],
        Field(max_length=50),
        BeforeValidator(
            lambda value: [value] if isinstance(value, str) else value, json_schema_input_type=str | list[str]
        ),
    ] = ()
    take: Literal["first", "last", "largest", "smallest", "count"] = "first"
    order: DateOrder = "dmy"

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.type in ("auto", "text") and self.pattern is None:
            raise InvalidRecipe(f"a field of type {self.type} needs a pattern; or name another type")
        if self.units and (self.type not in ("number", "price") or self.pattern is not None):
            raise InvalidRecipe("units belong to numbers and prices without a pattern; write them into it")
        if self.type == "price":
            for code in self.units:
                if code not in CURRENCIES:
                    raise InvalidRecipe(
                        f"unknown currency {code!r}; allowed: {', '.join(CURRENCIES)}{nearest(code, CURRENCIES)}"
                    )
        return self


class FieldsSpec(PrimitiveSpec):
    """Which fields a text has.

    on: the text: the item's own (``text``), one that a primitive gives (``ocr``), ``filename`` or ``metadata.<field>``.
    fields: name → a pattern, or what the field is. The names are one word each, as conditions read them.
    """

    model: Literal["patterns"] = "patterns"
    on: Annotated[str, Field(min_length=1, max_length=200)] = "text"
    fields: Annotated[
        dict[
            Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)],
            Annotated[
                FieldSpec,
                BeforeValidator(
                    lambda value: {"pattern": value} if isinstance(value, str) else value,
                    json_schema_input_type=str | FieldSpec,
                ),
            ],
        ],
        Field(min_length=1, max_length=MAX_FIELDS),
    ]


class Fields:
    """Values found in texts: as many rows of DTYPE as they take; none for a field that was not found."""

    modality: Modality = "text"
    dtype = DTYPE
    ragged = True

    def __init__(self, name: str, spec: FieldsSpec) -> None:
        self.name = name
        self.spec = spec
        self.facts = tuple(spec.fields)

    @property
    def version(self) -> str:
        told = json.dumps(
            {name: field.model_dump(mode="json") for name, field in self.spec.fields.items()}
        ).encode()
        return f"fields/{hashlib.sha256(told).hexdigest()[:32]} {_VERSION}"

    @property
    def info(self) -> Mapping[str, Any]:
        return {"fields": list(self.facts)}

    @cached_property
    def _finders(self) -> Sequence[tuple[Callable[[str], list[Value]], str]]:
        return [
            (finder(field.type, pattern=field.pattern, units=field.units, order=field.order), field.take)
            for field in self.spec.fields.values()
        ]

    def setup(self) -> None:
        """Compile the patterns."""
        _ = self._finders

    def compute(self, batch: Sequence[str]) -> list[Rows]:
        return [self._rows(text) for text in batch]

    def _rows(self, text: str) -> Rows:
        found = [(i, _taken(find(text), take)) for i, (find, take) in enumerate(self._finders)]
        known = [(i, value) for i, value in found if value is not None]
        rows, owner = rows_of_lines([value if isinstance(value, str) else "" for _, value in known], DTYPE)
        rows["line"] = np.array([i for i, _ in known], dtype=np.int64)[owner]
        numbers = [value if isinstance(value, float) else np.nan for _, value in known]
        rows["number"] = np.array(numbers, dtype=np.float64)[owner]
        return rows


def _taken(values: Sequence[Value], take: str) -> Value | None:
    """Return the value that counts; None where there is none."""
    if take == "count":
        return float(len(values))
    if not values:
        return None
    if take in ("first", "last"):
        return values[0 if take == "first" else -1]
    # Numbers before texts, so that values of both types have an order.
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    return ordered[-1 if take == "largest" else 0]


def build(name: str, spec: FieldsSpec) -> Mapping[str, Primitive]:
    """Return ``{name: values}``."""
    return {name: Fields(name, spec)}


KIND: Final = PrimitiveKind(Spec=FieldsSpec, build=build)
