"""Values out of texts: as they are written, of any length, nothing cut off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from manyeyes.primitives.fields import KIND, Fields, FieldsSpec
from manyeyes.primitives.lines import joined
from manyeyes.primitives.values import finder, number_of


def fields(**named: Any) -> Fields:
    built = KIND.build("f", FieldsSpec.model_validate({"kind": "fields", "fields": named}))["f"]
    assert isinstance(built, Fields)
    return built


def found(text: str, **named: Any) -> dict[str, float | str]:
    primitive = fields(**named)
    (rows,) = primitive.compute([text])
    told: dict[str, float | str] = {}
    for place in np.unique(rows["line"]).tolist():
        own = rows[rows["line"] == place]
        number = float(own["number"][0])
        told[primitive.facts[place]] = joined(own)[0] if np.isnan(number) else number
    return told


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("7", 7), ("1,299.00", 1299), ("1.299,00", 1299), ("1.299", 1299), ("1,299", 1299), ("1’299", 1299),
        ("1\u00a0299,5", 1299.5), ("1.299.000", 1299000), ("12,5", 12.5), ("12.50", 12.5), ("0.125", 0.125),
        ("0,125", 0.125), ("1234.567", 1234.567), ("-3", -3), ("−3,5", -3.5), ("+4", 4), ("007", 7),
        ("", None), ("a", None), ("3 kg", None), ("-", None), ("1e5", None), (".", None), (",5", 0.5),
    ],
)  # fmt: skip
def test_numbers_as_they_are_written(written: str, number: float | None) -> None:
    assert number_of(written) == number


@given(st.decimals(min_value=0, max_value=10**9, places=2))
def test_both_ways_to_write_a_number(value: Any) -> None:
    english = f"{value:,.2f}"
    german = english.replace(",", " ").replace(".", ",").replace(" ", ".")
    assert number_of(english) == number_of(german) == float(value)


@pytest.mark.parametrize(
    ("text", "units", "prices"),
    [
        ("only € 7,50 today", (), [7.5]),
        ("was 1.299,00 €, now EUR 999", (), [1299, 999]),
        ("$5 or US$ 6.50 or 7 dollars", ("USD",), [5, 6.5, 7]),
        ("20€ + 3€", ("EUR",), [20, 3]),
        ("5 euros, 6 pounds", ("GBP",), [6]),
        ("5 euros, 6 pounds", ("GBP", "EUR"), [5, 6]),
        ("5 pieces, size 42", (), []),
        ("¥1,200 and 300円", ("JPY",), [1200, 300]),
        ("europe 5", (), []),
    ],
)
def test_prices(text: str, units: tuple[str, ...], prices: list[float]) -> None:
    assert finder("price", pattern=None, units=units, order="dmy")(text) == prices


@pytest.mark.parametrize(
    ("text", "units", "numbers"),
    [
        ("3 kg or 4,5kg or 6 k", ("kg",), [3, 4.5]),
        ("3 kg, 2 kilos, 1 kgs", ("kg", "kilos"), [3, 2]),
        ("one 1 two 2, three 3.", (), [1, 2, 3]),
        ("A4 and x5 and v1.2.3", (), []),
        ("10-20 cm, -5 cm", ("cm",), [20, -5]),
    ],
)
def test_numbers_with_units(text: str, units: tuple[str, ...], numbers: list[float]) -> None:
    assert finder("number", pattern=None, units=units, order="dmy")(text) == numbers


@pytest.mark.parametrize(
    ("text", "order", "dates"),
    [
        ("on 2026-03-04.", "dmy", ["2026-03-04"]),
        ("3.4.2026 and 3/4/2026", "dmy", ["2026-04-03", "2026-04-03"]),
        ("3.4.2026 and 3/4/2026", "mdy", ["2026-04-03", "2026-03-04"]),
        (
            "24th December, 2026 or Jan 2nd 2027 or 5 Sept. 2027",
            "dmy",
            ["2026-12-24", "2027-01-02", "2027-09-05"],
        ),
        ("31.2.2026, 2026-13-01, 99/99/2026", "dmy", []),
    ],
)
def test_dates(text: str, order: Any, dates: list[str]) -> None:
    assert finder("date", pattern=None, units=(), order=order)(text) == dates


def test_addresses() -> None:
    text = "See https://example.org/a?b=c, (www.example.com) or write to a.b+c@mail.example.org."
    assert found(text, url={"type": "url"}, last={"type": "url", "take": "last"}, mail={"type": "email"}) == {
        "url": "https://example.org/a?b=c",
        "last": "www.example.com",
        "mail": "a.b+c@mail.example.org",
    }


def test_patterns_and_what_is_taken() -> None:
    text = "Size 42, size 38, size L; code #ab12 #CD"
    assert found(
        text,
        first=r"size (\w+)",
        last={"pattern": r"size (\w+)", "take": "last"},
        least={"pattern": r"size (\d+)", "take": "smallest"},
        most={"pattern": r"size (\w+)", "take": "largest"},
        n={"pattern": r"#\w+", "take": "count"},
        none="colour (\\w+)",
        no={"pattern": "colour", "take": "count"},
        typed={"type": "number", "pattern": r"size (\w+)", "take": "last"},
        whole=r"#\w+",
        day={"type": "date", "pattern": "until (.*)"},
    ) == {
        "first": 42,
        "last": "L",
        "least": 38,
        "most": "L",
        "n": 3 - 1,
        "no": 0,
        "typed": 38,
        "whole": "#ab12",
    }


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\n\r"), min_size=1, max_size=400)
)
def test_nothing_is_cut_off(text: str) -> None:
    assert found(text, all={"type": "text", "pattern": "(?s)^(.*)$"}) == {"all": text}


def test_a_hostile_pattern_takes_linear_time() -> None:
    assert found("a" * 50_000 + "!", x=r"(a+)+$", n={"pattern": "a", "take": "count"})["n"] == 50_000


def test_the_version_follows_the_fields() -> None:
    versions = {
        fields(a="x").version,
        fields(b="x").version,
        fields(a={"pattern": "x", "take": "last"}).version,
        fields(a="y").version,
    }
    assert len(versions) == 4


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({}, "at least 1"),
        ({"a": "("}, "cannot be used"),
        ({"a b": "x"}, "should match pattern"),
        ({"a": {}}, "needs a pattern"),
        ({"a": {"type": "prize"}}, "'price'"),
        ({"a": {"type": "price", "units": "EURO"}}, "did you mean 'EUR'?"),
        ({"a": {"type": "date", "units": "kg"}}, "units belong to numbers"),
        ({"a": {"type": "number", "units": "kg", "pattern": "x"}}, "without a pattern"),
        ({"a": "(?=x)"}, "RE2"),
        ({f"f{i}": "x" for i in range(101)}, "at most 100"),
    ],
)
def test_what_is_refused(named: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FieldsSpec.model_validate({"kind": "fields", "fields": named})
    assert told in str(caught.value)
