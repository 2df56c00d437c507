"""What calls hold: which faults refuse a call, and which ones are a row in its answer."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyeyes.errors import InvalidItem, ItemError, RequestTooLarge
from manyeyes.service.errors import Refusal
from manyeyes.service.intake.calls import Call, call_from_form, call_from_json
from manyeyes.service.intake.multipart import Part
from manyeyes.service.schemas.labels import EXAMPLE_CALL, LabelCall
from manyeyes.types import Item

PNG = b"\x89PNG not really"
CODED = base64.b64encode(PNG).decode()


def _call(*items: Any, max_items: int = 10) -> Call:
    return call_from_json(json.dumps({"recipe": "r", "items": items}).encode(), max_items=max_items)


def _form(*parts: tuple[str, bytes] | tuple[str, bytes, str], recipe: bytes | None = b"r") -> Call:
    told = [Part(p[0], p[2] if len(p) > 2 else None, bytearray(p[1])) for p in parts]
    if recipe is not None:
        told.append(Part("recipe", None, bytearray(recipe)))
    return call_from_form(told, max_items=10)


def test_the_example_that_refusals_show_is_a_valid_call() -> None:
    call = call_from_json(json.dumps(EXAMPLE_CALL).encode(), max_items=10)
    LabelCall.model_validate(EXAMPLE_CALL)
    assert all(isinstance(read, Item) for _, read in call.rows)


def test_a_json_call_is_read_as_it_was_written() -> None:
    call = _call(
        {"id": "a", "image": CODED, "text": "t", "metadata": {"price": 1.5, "new": True, "brand": None}},
        {"text": "é"},
        {"image": "data:image/png;base64," + CODED},
        {"image": CODED[:4] + "\n" + CODED[4:] + "\n", "id": None},
    )
    assert call.rows[0] == ("a", Item("a", PNG, "t", {"price": 1.5, "new": True, "brand": None}))
    assert call.rows[1] == ("item-1", Item("item-1", text="é"))
    assert call.rows[2] == ("item-2", Item("item-2", PNG))
    assert call.rows[3] == ("item-3", Item("item-3", PNG))


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ({"image": "not base64!"}, "not base64"),
        ({"image": CODED[:-3]}, "not base64"),
        ({"image": "/etc/passwd.png"}, "never read over HTTP"),
        ({"image": "https://example.org/a.png"}, "never read over HTTP"),
        ({"image": "file:///etc/passwd"}, "never read over HTTP"),
        ({"image": "data:image/png," + CODED}, "data URL"),
        ({"image": "é" * 8}, "not base64"),
        ({"image": 5}, "`image` must be a string of base64, got a number"),
        ({"image": [CODED]}, "got a list"),
        ({"text": 5}, "`text` must be a string"),
        ({"text": {"a": 1}}, "got an object"),
        ({"imgae": CODED}, "did you mean 'image'?"),
        ({"id": 5}, "an id must be a string"),
        ({"id": ""}, "an id must be a string"),
        ({"id": "x" * 2000}, "an id must be a string"),
        ({"metadata": []}, "`metadata` must be an object"),
        ({"metadata": {"a": {"b": 1}}}, "flatten it"),
        ({"metadata": {"a": 10**30}}, "64 bits"),
        ("a string", "an item must be a JSON object"),
        (None, "an item must be a JSON object"),
        (["a"], "got a list"),
    ],
)
def test_what_is_wrong_with_one_item_is_its_row(item: Any, told: str) -> None:
    call = _call({"id": "first", "text": "t"}, item, {"id": "last", "text": "t"})
    assert [isinstance(read, Item) for _, read in call.rows] == [True, False, True]
    name, error = call.rows[1]
    assert name == "item-1"
    assert isinstance(error, InvalidItem)
    assert told in str(error)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b'{"recipe": "r", "items": [{"text": "\xff"}]}', "not JSON"),
        (b'{"recipe": "r", "items": [{"text": "\\ud800"}]}', "not JSON"),
        (b'{"recipe": "r", "items": [{"metadata": {"a": NaN}}]}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "one JSON object"),
        (b"null", "one JSON object"),
        (b'{"items": [{"text": "t"}]}', "names no recipe"),
        (b'{"recipe": null, "items": [{"text": "t"}]}', "names no recipe"),
        (b'{"recipe": 5, "items": [{"text": "t"}]}', "`recipe` must be"),
        (b'{"recipe": "r"}', "no items"),
        (b'{"recipe": "r", "items": []}', "no items"),
        (b'{"recipe": "r", "items": {"a": 1}}', "must be a list"),
        (b'{"recipe": "r", "itmes": []}', "did you mean 'items'?"),
        (
            b'{"recipe": "r", "items": [{"id": "a"}, {"id": "b"}, {"id": "a"}]}',
            "items [0, 2] have the same id 'a'",
        ),
    ],
)
def test_a_malformed_call_is_refused_with_an_example(body: bytes, told: str) -> None:
    with pytest.raises(Refusal) as caught:
        call_from_json(body, max_items=10)
    assert told in str(caught.value)
    assert caught.value.error.code == "invalid_request"
    assert caught.value.example == EXAMPLE_CALL


def test_too_many_items_are_too_large() -> None:
    with pytest.raises(RequestTooLarge, match="holds 4 items; this service takes 3"):
        _call(*[{"text": "t"}] * 4, max_items=3)
    assert len(_call(*[{"text": "t"}] * 3, max_items=3).rows) == 3


def test_made_up_ids_keep_clear_of_given_ones() -> None:
    call = _call({"text": "t"}, {"id": "item-0", "text": "t"}, {"id": "item-0#2", "text": "t"})
    assert [name for name, _ in call.rows] == ["item-0#3", "item-0", "item-0#2"]


def test_files_alone_are_named_after_themselves() -> None:
    call = _form(
        ("files", PNG, "a.png"),
        ("files", PNG, "b/a.png"),
        ("files", PNG, "C:\\photos\\a.png"),
        ("files", PNG),
    )
    assert [name for name, _ in call.rows] == ["a.png", "a.png#2", "a.png#3", "item-3"]
    assert call.rows[0][1] == Item("a.png", PNG)
    assert call.rows[1][1] == Item("a.png#2", PNG, metadata={"filename": "a.png"})


def test_texts_alone_and_texts_beside_files() -> None:
    assert _form(("texts", "né".encode())).rows == (("item-0", Item("item-0", text="né")),)
    paired = _form(("files", PNG, "a.png"), ("texts", b"one"), ("files", b"", "b.png"), ("texts", b"two"))
    assert paired.rows[0] == ("a.png", Item("a.png", PNG, "one"))
    assert paired.rows[1] == ("b.png", Item("b.png", b"", "two"))


def test_items_say_what_belongs_together() -> None:
    told = [{"file": 1, "metadata": {"price": 3}}, {"id": "b", "file": 0, "text": "t"}, {"text": "alone"}]
    call = _form(
        ("files", b"0", "zero.png"), ("files", b"1", "one.png"), ("items", json.dumps(told).encode())
    )
    assert [name for name, _ in call.rows] == ["one.png", "b", "item-2"]
    assert [read for _, read in call.rows] == [
        Item("one.png", b"1", metadata={"price": 3}),
        Item("b", b"0", "t", {"filename": "zero.png"}),
        Item("item-2", text="alone"),
    ]


@pytest.mark.parametrize("number", [2, -1, True, "0", 0.0, [], {}])
def test_a_file_that_is_not_there_is_its_items_row(number: Any) -> None:
    told = [{"file": 0}, {"file": 1}, {"id": "x", "file": number}]
    call = _form(("files", b"0"), ("files", b"1"), ("items", json.dumps(told).encode()))
    assert isinstance(call.rows[2][1], InvalidItem)
    assert "`file` must be the number" in str(call.rows[2][1])


def test_text_that_is_not_utf8_is_its_row() -> None:
    call = _form(("texts", b"fine"), ("texts", b"caf\xe9"), ("texts", b"fine too"))
    assert [isinstance(read, Item) for _, read in call.rows] == [True, False, True]
    assert "not UTF-8: byte 0xe9 at 3" in str(call.rows[1][1])


@pytest.mark.parametrize(
    ("parts", "recipe", "told"),
    [
        ([("texts", b"t")], None, "names no recipe"),
        ([("texts", b"t")], b"\xff", "`recipe` is not UTF-8"),
        ([], b"r", "no items"),
        ([("file", PNG, "a.png")], b"r", "did you mean 'files'?"),
        ([("texts", b"t"), ("recipe", b"r")], b"r", "may come once"),
        ([("files", PNG), ("files", PNG), ("texts", b"t")], b"r", "cannot be paired"),
        ([("items", b"[{}]"), ("texts", b"t")], b"r", "cannot be combined"),
        ([("items", b"[{")], b"r", "`items` is not JSON"),
        ([("items", b"{}")], b"r", "must be a list"),
        ([("items", b'[{"file": 1}]'), ("files", PNG), ("files", PNG)], b"r", "files [0] belong to no item"),
        (
            [("items", b'[{"file": true}]'), ("files", PNG), ("files", PNG)],
            b"r",
            "files [0, 1] belong to no item",
        ),
    ],
)
def test_a_malformed_form_is_refused(parts: list[Any], recipe: bytes | None, told: str) -> None:
    with pytest.raises(Refusal) as caught:
        _form(*parts, recipe=recipe)
    assert told in str(caught.value)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["id", "image", "text", "metadata", "file", "x"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_JSON, max_size=6))
def test_whatever_the_items_are_each_one_has_a_row_or_the_call_is_refused(items: list[Any]) -> None:
    body = json.dumps({"recipe": "r", "items": items}).encode()
    parts = [
        Part("recipe", None, bytearray(b"r")),
        Part("items", None, bytearray(json.dumps(items).encode())),
    ]
    for read in (lambda: call_from_json(body, max_items=5), lambda: call_from_form(parts, max_items=5)):
        try:
            call = read()
        except (Refusal, RequestTooLarge):
            continue
        assert len(call.rows) == len(items)
        assert len({name for name, _ in call.rows}) == len(items)
        assert all(isinstance(read, (Item, ItemError)) for _, read in call.rows)
