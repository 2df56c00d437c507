"""Reading YAML and JSON from anybody: what words mean, where things stand, and what is refused at once."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from manyeyes.documents import MAX_BYTES, MAX_DEPTH, read_document, resolve, write_yaml
from manyeyes.errors import InvalidRecipe


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("no", "no"),
        ("Yes", "Yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("12", 12),
        ("-3", -3),
        ("+3", 3),
        ("007", "007"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("0.5", 0.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        (".inf", float("inf")),
        ("-.inf", float("-inf")),
        ("1.2.3", "1.2.3"),
        ("t-shirt", "t-shirt"),
        ("9" * 5_000, "9" * 5_000),
    ],
)
def test_unquoted_words_are_yaml_1_2(word: str, value: Any) -> None:
    assert resolve(word) == value
    assert type(resolve(word)) is type(value)
    assert read_document(f"- {word}").value == [value]
    assert read_document(f"'{word}'").value == word


def test_every_value_knows_its_line() -> None:
    document = read_document("a: 1\nb:\n  - x\n  - {c: 2,\n     d: 3}\n")
    assert document.value == {"a": 1, "b": ["x", {"c": 2, "d": 3}]}
    assert [document.line(path) for path in [("a",), ("b",), ("b", 0), ("b", 1, "d")]] == [1, 2, 3, 5]
    assert document.line(("b", 1, "e")) == 4  # what is missing is missed where it should stand
    pretty = json.dumps(document.value, indent=1)
    assert read_document(pretty).line(("b", 1, "d")) == 7


def test_aliases_stand_for_what_they_name() -> None:
    assert read_document("a: &x [1, 2]\nb: *x\n").value == {"a": [1, 2], "b": [1, 2]}


def test_json_with_fewer_quotes_is_yaml() -> None:
    assert read_document('{a: [1, "b"]}').value == {"a": [1, "b"]}
    assert read_document('{"a": "\\ud83d\\ude00"}').value == {"a": "😀"}
    assert read_document('\ufeff{"a": 1}').value == {"a": 1}
    assert read_document(b'\xef\xbb\xbfa: "\xc3\xa9"').value == {"a": "é"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' stands here twice, first on line 1"),
        ('{"a": 1,\n "a": 2}', "line 2: the key 'a' stands here twice"),
        ("1: a", "line 1: the key '1' is not read as a text; put it between quotes: '1'"),
        ("null: a", "put it between quotes: 'null'"),
        ("a: !!python/object:os.system {}", "line 1: the tag !!python/object:os.system is not read"),
        ("a: !thing x", "the tag !thing is not read"),
    ],
)
def test_what_can_be_read_past_is_told_with_the_rest(text: str, told: str) -> None:
    problems = [f"line {problem.line}: {problem.message}" for problem in read_document(text).problems]
    assert any(told in problem for problem in problems), problems


LAUGHS = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("# only a note\n", "empty"),
        ("a: b: c", "line 1: this is no YAML"),
        ("a: [1,\n b", "line 3: this is no YAML"),
        ("a:\n\t- b", "line 2: this is no YAML"),
        ("a: 'x", "a quote or a bracket is not closed"),
        ("a: *b", "line 1: *b stands for nothing above it"),
        ("a: &x [*x]", "*x stands for nothing above it"),
        ("? [a, b]\n: c", "a key is a text"),
        ("x: &m {a: 1}\ny:\n  <<: *m\n", "line 3: merge keys"),
        ("a: 1\n---\nb: 2", "line 2: a second document"),
        ("a: \x00", "line 1: character U+0000"),
        ("a: 1\nb: \x1b[31m", "line 2: character U+001B"),
        ("a: \ud800", "U+D800"),
        ('{"a": "\\u0000"}', "U+0000"),
        ('{"a": "\\ud800"}', "U+D800"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": "x}', "line 1: this is no JSON"),
        ('{"a": 1\n "b": 2}', "line 2: this is no JSON"),
        (b"a: \xff", "line 1: byte 0xff is not UTF-8"),
        ("[" * 5_000, "nested"),
        ('{"a":' * 5_000, "nested"),
        ("- " * 5_000, "nested"),
        ("a:\n" + "".join(f"{' ' * i}a:\n" for i in range(1, MAX_DEPTH + 2)), "nested at most"),
        (LAUGHS, "at most 100000 values"),
        ("[" + "1," * 100_001 + "]", "at most 100000 values"),
        ("x" * (MAX_BYTES + 1), "at most 1000000 bytes"),
    ],
    ids=range(27),
)
def test_what_cannot_be_read_is_refused_at_once(text: str | bytes, told: str) -> None:
    started = time.perf_counter()
    with pytest.raises(InvalidRecipe) as caught:
        read_document(text)
    assert told in str(caught.value)
    assert time.perf_counter() - started < 5.0


@settings(deadline=None)
@given(st.text(max_size=80) | st.binary(max_size=80))
def test_any_text_is_read_or_refused(text: str | bytes) -> None:
    try:
        read_document(text)
    except InvalidRecipe:
        return


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab: -[]{},&*!|>'\"#\n\t%@?<~1.e"), max_size=40))
def test_any_run_of_yaml_signs_is_read_or_refused(text: str) -> None:
    try:
        read_document(text)
    except InvalidRecipe:
        return


printable = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cn"], exclude_characters="\ufffe\uffff"),
    max_size=12,
)
looks_like_something_else = st.sampled_from(
    [
        "no",
        "on",
        "y",
        "true",
        "null",
        "~",
        "1",
        "1e3",
        "1E5",
        "+1e-3",
        ".5",
        "5.",
        "0x1",
        "1_0",
        "12:30",
        "2024-01-31",
        "=",
        "<<",
    ]
)
words = printable | looks_like_something_else
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words
values = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(words, values, max_size=4))
def test_what_is_written_reads_back_as_it_was(value: dict[str, Any]) -> None:
    text = write_yaml(value)
    assert read_document(text).value == value
    assert not read_document(text).problems
    assert yaml.safe_load(text) == value  # other people's tools read YAML 1.1


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        printable,
        st.recursive(
            plain.filter(lambda v: v not in (float("inf"), float("-inf"))),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(printable, inner, max_size=4),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_json_reads_back_as_it_was(value: dict[str, Any]) -> None:
    for ascii_only in (False, True):
        assert read_document(json.dumps(value, ensure_ascii=ascii_only)).value == value
