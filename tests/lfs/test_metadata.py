"""What a metadata condition makes of values that are missing, mixed, or no numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.base import LabelingFunction
from manyeyes.lfs.columns import Column
from manyeyes.lfs.facts import usual_facts
from manyeyes.primitives.base import Features, FeatureSet
from manyeyes.types import Item

Decide = Callable[..., list[bool]]


@pytest.mark.parametrize(
    ("when", "metadata", "votes"),
    [
        (
            "brand == 'x' or price < 10",
            {"brand": "x"},
            True,
        ),  # known to be true although the price is missing
        ("brand == 'x' or price < 10", {"brand": "y"}, False),
        ("brand == 'x' and price < 10", {"brand": "y"}, False),
        ("not (price < 10)", {}, False),  # unknown is not false
        ("not (price < 10)", {"price": 12}, True),
        ("price < 10", {"price": "5"}, False),  # a text is no number …
        ("number(price) < 10", {"price": "5"}, True),  # … unless it is read as one
        ("number(price) < 10", {"price": "cheap"}, False),
        ("number(price) < 10", {"price": "nan"}, False),
        ("number(price) < 10", {"price": "1_0"}, False),
        ("price != '5'", {"price": 5}, False),
        ("price == 5", {"price": 5.0}, True),
        ("price == 1", {"price": True}, False),
        ("sale", {"sale": True}, True),
        ("sale", {"sale": "yes"}, False),
        ("not sale", {"sale": False}, True),
        ("sale == True", {"sale": True}, True),
        ("price == None", {}, True),
        ("price == None", {"price": None}, True),
        ("price != None", {"price": 0}, True),
        ("has(price)", {"price": 0}, True),
        ("has(price)", {"price": None}, False),
        ("not has(price)", {}, True),
        ("price / items > 2", {"price": 6, "items": 0}, False),
        ("price % 2 == 1", {"price": 7}, True),
        ("-price < -5", {"price": 6}, True),
        ("price * 2 + 1 > 10", {"price": 5}, True),
        ("1 < price < 3", {"price": 2}, True),
        ("1 < price < 3", {"price": 3}, False),
        ("size in ('S', 'M', 42)", {"size": 42}, True),
        ("size in ('S', 'M')", {"size": "L"}, False),
        ("size not in ('S', 'M')", {"size": "L"}, True),
        ("size not in ('S', 'M')", {"size": 42}, False),
        ("size not in ('S', 'M')", {}, False),
        ("'silk' in title", {"title": "a silk scarf"}, True),
        ("'silk' not in title", {"title": "a scarf"}, True),
        ("contains(lower(title), 'silk')", {"title": "SILK"}, True),
        ("startswith(title, 'A') and endswith(title, 'z')", {"title": "Abz"}, True),
        ("len(title) > 3", {"title": "four"}, True),
        ("len(title) > 3", {"title": 12345}, False),
        ("title < 'b'", {"title": "a"}, True),
        ("title == other", {"title": "a", "other": "a"}, True),
        ("matches(title, '^[A-Z]{2}-\\d+$')", {"title": "HT-17"}, True),
        ("matches(title, '(?i)ht')", {"title": "HT-17"}, True),
        ("field('Price (USD)') < 10", {"Price (USD)": 5}, True),
        ("price > 1000000", {"price": 10**400}, True),
        ("price > 1000000", {"price": -(10**400)}, False),
        ("price < 10", {"price": math.nan}, False),
        ("price < 10", {"price": [1]}, False),
        ("id == '0' and text == 't'", {}, True),
        ("id == '0'", {"id": "another"}, True),
        ("filename == 'a.jpg'", {"filename": "a.jpg"}, True),
        ("True", {}, True),
        ("False or None == price", {}, True),
    ],
)
def test_conditions(decide: Decide, when: str, metadata: dict[str, Any], votes: bool) -> None:
    # The neighbours hold every type, so that the column is a mixed one.
    others: list[dict[str, Any]] = [dict.fromkeys(metadata, value) for value in (None, 1, "x", True)]
    assert decide(when, metadata, *others)[0] is votes


values = (
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.sampled_from(["", "a", "b", "B"])
)
EXPRESSIONS: dict[str, Callable[[Any, Any], bool]] = {
    "x == y": lambda x, y: _comparable(x, y, order=False) and x == y,
    "x != y": lambda x, y: _comparable(x, y, order=False) and x != y,
    "x < y": lambda x, y: _comparable(x, y, order=True) and x < y,
    "x >= y": lambda x, y: _comparable(x, y, order=True) and x >= y,
    "x in (1, 'a', True)": lambda x, y: any(
        _comparable(x, c, order=False) and x == c for c in (1, "a", True)
    ),
    "x + y > 3": lambda x, y: _number(x) and _number(y) and x + y > 3,
    "x and y": lambda x, y: x is True and y is True,
    "x or y": lambda x, y: x is True or y is True,
    "not x": lambda x, y: x is False,
    "not (x or y)": lambda x, y: x is False and y is False,
    "contains(x, y)": lambda x, y: isinstance(x, str) and isinstance(y, str) and y in x,
}


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _kind(value: object) -> str:
    return "number" if _number(value) else type(value).__name__


def _comparable(x: object, y: object, *, order: bool) -> bool:
    same = _kind(x) == _kind(y) != "NoneType"
    return same and not (order and isinstance(x, bool))


@settings(deadline=None)
@given(st.lists(st.tuples(values, values), max_size=8), st.sampled_from(sorted(EXPRESSIONS)))
def test_columns_agree_with_one_item_at_a_time(
    decide: Decide, rows: list[tuple[Any, Any]], when: str
) -> None:
    expected = [EXPRESSIONS[when](x, y) for x, y in rows]
    assert decide(when, *({"x": x, "y": y} for x, y in rows)) == expected


@settings(deadline=None)
@given(st.lists(values | st.just(10**400) | st.just(math.nan), max_size=10))
def test_a_column_of_a_mix_keeps_every_value(mix: list[Any]) -> None:
    column = Column.of(mix)
    for i, value in enumerate(mix):
        one = Column.of([value])
        assert column.kind[i] == one.kind[0]
        assert column.number[i] == one.number[0]
        if isinstance(value, str):
            assert column.words[column.code[i]] == value


def facts(*rows: tuple[int, float] | None) -> Features:
    array = np.zeros(len(rows), dtype=[("width", "<i4"), ("brightness", "<f4"), ("format", "<U8")])
    for row, values_ in zip(array, rows, strict=True):
        if values_ is not None:
            row["width"], row["brightness"] = values_
            row["format"] = "JPEG"
    return Features(
        array, np.array([row is not None for row in rows]), info={"columns": ["width", "brightness"]}
    )


def test_facts_of_the_image_stand_in_where_metadata_says_nothing(tools: Any) -> None:
    lf: LabelingFunction = tools.make_lf(kind="metadata", when="width > 100", vote="hat")
    assert lf.reads == ("image",)
    items = [
        Item("a"),
        Item("b"),
        Item("c", metadata={"width": 5}),
        Item("d"),
        Item("e", metadata={"width": 500}),
    ]
    features = FeatureSet(items, {"image": facts((200, 0.5), (50, 0.5), (200, 0.5), None, None)})
    assert tools.votes_of(lf, features) == ["hat", None, None, None, "hat"]


def test_text_facts_and_float_facts(tools: Any) -> None:
    features = FeatureSet([Item("a"), Item("b")], {"image": facts((1, 0.25), None)})
    for when in ("format == 'JPEG'", "brightness < 0.5", "brightness == 0.25 and len(format) == 4"):
        assert tools.votes_of(tools.make_lf(kind="metadata", when=when, vote="hat"), features) == [
            "hat",
            None,
        ]


def test_without_facts_no_primitive_is_read(tools: Any) -> None:
    assert tools.make_lf(kind="metadata", when="price < 10", vote="hat").reads == ()
    assert {"width", "height", "aspect", "brightness", "sharpness"} <= set(usual_facts())


def test_the_first_rule_that_holds_decides(tools: Any) -> None:
    rules = [
        {"when": "price < 10", "vote": "hat"},
        {"when": "brand == 'D'", "vote": "dress"},
        {"when": "True", "vote": "t-shirt"},
    ]
    lf = tools.make_lf(kind="metadata", rules=rules)
    features = tools.with_metadata({"price": 5, "brand": "D"}, {"brand": "D"}, {"price": 50, "brand": "x"})
    assert tools.votes_of(lf, features) == ["hat", "dress", "t-shirt"]


def test_one_rule_is_its_short_form(tools: Any) -> None:
    long = tools.make_lf(kind="metadata", rules=[{"when": "price<10", "vote": "hat"}])
    short = tools.make_lf(kind="metadata", when="price < 10", vote="hat")
    assert long.spec == short.spec
    assert long.version == short.version


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "when is missing"),
        ({"when": "True"}, "vote is missing"),
        ({"when": "True", "vote": "hat", "rules": [{"when": "True", "vote": "hat"}]}, "beside rules"),
        ({"when": "True", "vote": "hatt"}, "did you mean 'hat'?"),
        ({"rules": [{"when": "True", "vote": "hatt"}]}, "did you mean 'hat'?"),
    ],
)
def test_half_a_rule_is_refused(tools: Any, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tools.make_lf(kind="metadata", **fields)
    assert told in str(caught.value)
    assert isinstance(caught.value.errors()[0]["ctx"]["error"], InvalidRecipe)
