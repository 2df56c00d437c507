"""What a call to label holds, read from JSON or from a form.

What is wrong with the call as a whole (no items, two equal ids, not JSON) refuses it. What is wrong with one item
becomes an :class:`ItemError` in its place, and the others are labeled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

from pydantic_core import from_json

from manyeyes.errors import InvalidRequest, ItemError, RequestTooLarge, nearest
from manyeyes.service.errors import Refusal
from manyeyes.service.intake.items import (
    JSON_KEYS,
    MAX_ID_CHARS,
    Read,
    address_name,
    file_number,
    form_item,
    is_id,
    json_item,
    kind_of,
    plain_item,
)
from manyeyes.service.intake.multipart import Part
from manyeyes.service.schemas.labels import EXAMPLE_CALL
from manyeyes.types import Item

_FIELDS: Final = ("items", "files", "texts")


@dataclass(frozen=True, slots=True)
class Asks:
    """What a kind of call holds beside its items.

    recipe: whether it names a recipe. options: other fields, each a value of JSON, or a text in a form. lists: those of
    them that a form may repeat. one: whether a call of JSON may be an item itself, instead of holding `items`.
    example: a sound call, shown with a refusal.
    """

    recipe: bool = True
    options: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    one: bool = False
    example: Any = None

    @property
    def named(self) -> tuple[str, ...]:
        """The fields beside the items."""
        return ("recipe", *self.options) if self.recipe else self.options


class FormOptions(dict[str, Any]):
    """Options from a form, where every value is a text."""


TO_LABEL: Final = Asks(example=EXAMPLE_CALL)


@dataclass(frozen=True, slots=True)
class Call:
    """A call with items.

    recipe: a name, a YAML or JSON text, or a mapping; empty where such a call names none. rows: (id, item or what is
    wrong with it). options: what else the call holds, not checked yet.
    """

    recipe: str | Mapping[str, Any]
    rows: tuple[tuple[str, Read], ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def call_from_json(body: bytes, *, max_items: int, asks: Asks = TO_LABEL) -> Call:
    """Read ``{"recipe": …, "items": [{"id", "image", "url", "object", "text", "metadata"}, …]}``; an image is base64.

    Raises InvalidRequest if the call is malformed, RequestTooLarge if it holds too many items.
    """
    return _shown(asks, lambda: _from_json(body, max_items, asks))


def call_from_form(parts: Sequence[Part], *, max_items: int, asks: Asks = TO_LABEL) -> Call:
    """Read a form: `recipe`, and either `files` and/or `texts`, or `files` and `items`.

    files: image files, repeated. texts: plain texts, repeated; beside files, one for each file, in order.
    items: a JSON list of ``{"id", "file", "url", "object", "text", "metadata"}``, where ``file`` counts the `files`
    from 0; it says of each item what it is made of, and takes the place of `texts`.
    Raises InvalidRequest if the form is malformed, RequestTooLarge if it holds too many items.
    """
    return _shown(asks, lambda: _from_form(parts, max_items, asks))


def _shown(asks: Asks, read: Callable[[], Call]) -> Call:
    """Read a call; a refusal shows an example."""
    try:
        return read()
    except RequestTooLarge:
        raise
    except InvalidRequest as error:
        raise Refusal(error, example=asks.example) from error


def _from_json(body: bytes, max_items: int, asks: Asks) -> Call:
    told = parse_json(body, what="the body")
    if not isinstance(told, dict):
        wanted = " and ".join(f"`{name}`" for name in (*asks.named[:1], "items"))
        raise InvalidRequest(f"the body must be one JSON object with {wanted}, got {kind_of(told)}")
    alone = asks.one and "items" not in told
    allowed = (*asks.named, *(JSON_KEYS if alone else ("items",)))
    for key in told:
        if key not in allowed:
            raise InvalidRequest(
                f"unknown key {key!r} in the call; allowed: {', '.join(allowed)}{nearest(key, allowed)}"
            )
    single = {key: told[key] for key in JSON_KEYS if alone and key in told}
    rows = _listed([single] if single else told.get("items"), max_items=max_items)
    reads = [json_item(row) for row in rows]
    if single and isinstance(reads[0], ItemError):
        raise InvalidRequest(str(reads[0]))
    return Call(
        recipe=_recipe(told.get("recipe")) if asks.recipe else "",
        rows=_named(rows, reads, names=[address_name(read) for read in reads]),
        options={name: told[name] for name in asks.options if name in told},
    )


def _from_form(parts: Sequence[Part], max_items: int, asks: Asks) -> Call:
    allowed = (*asks.named, *_FIELDS)
    for part in parts:
        if part.name not in allowed:
            raise InvalidRequest(
                f"unknown form field {part.name!r}; allowed: {', '.join(allowed)}{nearest(part.name, allowed)}"
            )
    by_name = {name: [part for part in parts if part.name == name] for name in allowed}
    for name in (*asks.named, "items"):
        if len(by_name[name]) > 1 and name not in asks.lists:
            raise InvalidRequest(f"the form field {name!r} may come once, got it {len(by_name[name])} times")
    said = {
        name: [_text(part, what=f"`{name}`") for part in by_name[name]]
        for name in asks.named
        if by_name[name]
    }
    recipe = _recipe(said.get("recipe", [None])[0]) if asks.recipe else ""
    options = FormOptions(
        {name: said[name] if name in asks.lists else said[name][0] for name in asks.options if name in said}
    )
    files, texts = by_name["files"], by_name["texts"]
    if by_name["items"]:
        if texts:
            raise InvalidRequest("`texts` and `items` cannot be combined; write each text into its item")
        rows = _listed(parse_json(bytes(by_name["items"][0].data), what="`items`"), max_items=max_items)
        reads = [form_item(row, files) for row in rows]
        used = {file_number(row, len(files)) for row in rows}
        if unused := [n for n in range(len(files)) if n not in used]:
            raise InvalidRequest(
                f"files {unused[:10]} belong to no item; say which item each file is for, as in"
                f' [{{"id": "a", "file": {unused[0]}}}]'
            )
        names = [
            of_file or address_name(read)
            for of_file, read in zip(_file_names(rows, files), reads, strict=True)
        ]
        named = _named(rows, reads, names=names)
        return Call(recipe=recipe, rows=named, options=options)
    if files and texts and len(files) != len(texts):
        raise InvalidRequest(
            f"{len(files)} `files` and {len(texts)} `texts` cannot be paired; send one text for each file, in the same"
            " order, or say in `items` what belongs together"
        )
    n_items = max(len(files), len(texts))
    _counted(n_items, max_items)
    rows = [{} for _ in range(n_items)]
    reads = [plain_item(files[n] if files else None, texts[n] if texts else None) for n in range(n_items)]
    named = _named(rows, reads, names=[_base_name(part) for part in files])
    return Call(recipe=recipe, rows=named, options=options)


def _named(
    rows: Sequence[Any], reads: Sequence[Read], *, names: Sequence[str | None] = ()
) -> tuple[tuple[str, Read], ...]:
    """Give every row its id: the caller's, else its file's name, else ``item-<position>``, made unique by ``#2``, ….

    names: the file's name of each row. Where the id does not say it, it goes into the metadata: LFs may read it.
    Raises InvalidRequest if the caller gave the same id twice: no answer could tell such rows apart.
    """
    given = [
        row["id"] if isinstance(row, dict) and row.get("id") and is_id(row["id"]) else None for row in rows
    ]
    repeated = [
        name for name, count in Counter(name for name in given if name is not None).items() if count > 1
    ]
    if repeated:
        where = [n for n, name in enumerate(given) if name == repeated[0]]
        raise InvalidRequest(
            f"items {where} have the same id {repeated[0]!r}; give every item an id of its own, or none"
        )
    taken = {name for name in given if name is not None}
    named: list[tuple[str, Read]] = []
    for position, (own, read) in enumerate(zip(given, reads, strict=True)):
        file_name = names[position] if position < len(names) else None
        name = own
        if name is None:
            made = file_name or f"item-{position}"
            name, count = made, 1
            while name in taken:
                count += 1
                name = f"{made}#{count}"
            taken.add(name)
        if isinstance(read, Item):
            metadata = dict(read.metadata)
            if file_name not in (None, name):
                metadata.setdefault("filename", file_name)
            read = Item(id=name, image=read.image, text=read.text, metadata=metadata)
        named.append((name, read))
    return tuple(named)


def _file_names(rows: Sequence[Any], files: Sequence[Part]) -> list[str | None]:
    numbers = [file_number(row, len(files)) for row in rows]
    return [None if number is None else _base_name(files[number]) for number in numbers]


def _base_name(part: Part) -> str | None:
    # Old browsers send whole paths, with the separators of their own system.
    return PurePosixPath((part.filename or "").replace("\\", "/")).name[:MAX_ID_CHARS] or None


def _recipe(value: Any) -> str | Mapping[str, Any]:
    if value is None or value == "" or value == {}:
        raise InvalidRequest(
            "the call names no recipe; `recipe` is the name of a stored one (GET /v1/recipes), or a whole one"
        )
    if not isinstance(value, (str, dict)):
        raise InvalidRequest(f"`recipe` must be a name, a YAML text or an object, got {kind_of(value)}")
    return value


def _listed(value: Any, *, max_items: int) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise InvalidRequest(f"`items` must be a list of objects, got {kind_of(value)}")
    _counted(len(value or ()), max_items)
    return value or []


def _counted(n_items: int, max_items: int) -> None:
    if n_items == 0:
        raise InvalidRequest("the call holds no items; send at least one")
    if n_items > max_items:
        raise RequestTooLarge(
            f"the call holds {n_items:,} items; this service takes {max_items:,} at once. Send them in several calls"
        )


def parse_json(data: bytes, *, what: str) -> Any:
    """Return the value of a text of JSON. Raises InvalidRequest if it is none. what: how to call it then."""
    try:
        return from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"{what} is not JSON: {error}") from error


def _text(part: Part, *, what: str) -> str:
    try:
        return part.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{what} is not UTF-8: byte 0x{part.data[error.start]:02x} at {error.start}"
        ) from error
