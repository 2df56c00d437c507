"""One item of a call: read from JSON or from the parts of a form, or an ItemError that says what is wrong with it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from manyeyes.errors import InvalidItem, ItemError, nearest
from manyeyes.service.fetching.fetcher import Address, address_of
from manyeyes.service.intake.multipart import Part
from manyeyes.types import Item, MetadataValue

Read: TypeAlias = "Item | ItemError"
"""An item, still without its id, or what is wrong with it."""

MAX_ID_CHARS: Final = 1024
JSON_KEYS: Final = ("id", "image", "url", "object", "text", "metadata")
_FORM_KEYS: Final = ("id", "file", "url", "object", "text", "metadata")
_ADDRESSES: Final = ("url", "object")
_MAX_INT: Final = 2**63


def json_item(row: Any) -> Read:
    """Read ``{"id", "image", "url", "object", "text", "metadata"}``; the image is base64.

    Where `url` or `object` says where the image is, the item's image is an Address, until it is fetched.
    """
    try:
        _check_keys(row, JSON_KEYS)
        image = _address(row, "image") or _image(row.get("image"))
        return Item(id="", image=image, text=_optional_text(row), metadata=_metadata(row))
    except ItemError as error:
        return error


def form_item(row: Any, files: Sequence[Part]) -> Read:
    """Read ``{"id", "file", "url", "object", "text", "metadata"}``; file counts the files from 0."""
    try:
        _check_keys(row, _FORM_KEYS)
        number = file_number(row, len(files))
        if number is None and row.get("file") is not None:
            raise InvalidItem(
                f"`file` must be the number of one of the {len(files)} `files`, counted from 0, got"
                f" {_quoted(row['file'])}"
            )
        image = _address(row, "file") or (None if number is None else bytes(files[number].data))
        return Item(id="", image=image, text=_optional_text(row), metadata=_metadata(row))
    except ItemError as error:
        return error


def plain_item(file: Part | None, text: Part | None) -> Read:
    """Make an item of a file, a text, or both."""
    try:
        return Item(
            id="",
            image=None if file is None else bytes(file.data),
            text=None if text is None else _item_text(text),
        )
    except ItemError as error:
        return error


def _check_keys(row: Any, allowed: Sequence[str]) -> None:
    if not isinstance(row, dict):
        raise InvalidItem(f"an item must be a JSON object with {', '.join(allowed)}, got {kind_of(row)}")
    for key in row:
        if key not in allowed:
            raise InvalidItem(
                f"unknown key {key!r} in an item; allowed: {', '.join(allowed)}{nearest(key, allowed)}"
            )
    if not is_id(row.get("id")):
        raise InvalidItem(
            f"an id must be a string of 1 to {MAX_ID_CHARS} characters, got {_quoted(row['id'])}"
        )


def is_id(value: Any) -> bool:
    """Return whether a value can be an id, or says that none is given."""
    return value is None or (isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARS)


def _address(row: Mapping[str, Any], beside: str) -> Any:
    """Return the Address that a row names, or None; typed so that it fits into an item's image."""
    named = [key for key in (beside, *_ADDRESSES) if row.get(key) is not None]
    if len(named) > 1:
        raise InvalidItem(
            f"an item has one image, but this one names {' and '.join(named)}; leave one of them"
        )
    if not named or named[0] == beside:
        return None
    kind: Literal["url", "object"] = "url" if named[0] == "url" else "object"
    text = row[kind]
    if not isinstance(text, str) or not text:
        raise InvalidItem(f"`{kind}` must be a string that is not empty, got {kind_of(text)}")
    return Address(kind, text)


def address_name(read: Read) -> str | None:
    """Return the file name in the address of an item, if it has one."""
    address = address_of(read)
    return address.file_name if address else None


def _image(value: Any) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidItem(f"`image` must be a string of base64, got {kind_of(value)}")
    if value.startswith("data:"):
        head, comma, value = value.partition(",")
        if not comma or not head.endswith(";base64"):
            raise InvalidItem(f"a data URL must read data:image/…;base64,…, got {_quoted(head)}")
    if any(space in value for space in "\r\n \t"):  # `base64` on the command line wraps its lines.
        value = "".join(value.split())
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        hint = ""
        if len(value) < 4096 and any(mark in value for mark in ("://", ".", "\\", "~")):
            hint = " Paths are never read over HTTP: send the bytes of the file, or its address as `url` or `object`."
        raise InvalidItem(f"`image` is not base64 ({error}); it begins {_quoted(value)}.{hint}") from error


def _optional_text(row: Mapping[str, Any]) -> str | None:
    text = row.get("text")
    if text is not None and not isinstance(text, str):
        raise InvalidItem(f"`text` must be a string, got {kind_of(text)}")
    return text


def _metadata(row: Mapping[str, Any]) -> dict[str, MetadataValue]:
    metadata = row.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise InvalidItem(f"`metadata` must be an object of names and plain values, got {kind_of(metadata)}")
    for name, value in metadata.items():
        if value is not None and not isinstance(value, (str, int, float, bool)):
            raise InvalidItem(
                f"metadata {name!r} must be a string, a number, true, false or null, got {kind_of(value)}; flatten it"
            )
        if isinstance(value, int) and not -_MAX_INT <= value < _MAX_INT:
            raise InvalidItem(
                f"metadata {name!r} is a whole number of more than 64 bits; send it as a string"
            )
    return metadata


def file_number(row: Any, n_files: int) -> int | None:
    """Return which file a row names, or None where it names none that is there."""
    number = row.get("file") if isinstance(row, dict) else None
    # JSON's true is Python's 1, and its 0.0 equals 0: neither is the number of a file.
    return number if type(number) is int and 0 <= number < n_files else None


def _item_text(part: Part) -> str:
    try:
        return part.data.decode()
    except UnicodeDecodeError as error:
        raise InvalidItem(
            f"the text is not UTF-8: byte 0x{part.data[error.start]:02x} at {error.start}; send it as UTF-8"
        ) from error


def kind_of(value: Any) -> str:
    """Return what JSON calls a value, with its article."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _quoted(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "…" + shown[-1]
