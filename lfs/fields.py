"""What LFs read of an item beside features: its text, its file name, its metadata."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from manyeyes.errors import InvalidRecipe, nearest
from manyeyes.types import Item

_METADATA = "metadata."


def file_name(item: Item) -> str:
    """Return the last part of where an item's image lies, or of its id where the image came as bytes.

    A metadata field ``filename`` wins: an upload has no path, but its sender may say what the file was called.
    """
    told = item.metadata.get("filename")
    if isinstance(told, str) and told:
        return told
    source = item.image
    if not isinstance(source, str):
        source = os.fsdecode(source) if isinstance(source, os.PathLike) else item.id
    path = source
    if "://" in path:
        path = urlsplit(path).path
    if "\\" in path:
        path = path.replace("\\", "/")
    return path.rstrip("/").rpartition("/")[2]


def texts_of(items: Sequence[Item], on: str) -> list[str | None]:
    """Return the text that an LF reads of each item, None where there is none.

    on: "text", "filename", or "metadata." and the name of a field. A number in a field is read as it is written.
    """
    if on == "text":
        return [item.text for item in items]
    if on == "filename":
        return [file_name(item) for item in items]
    field = on.removeprefix(_METADATA)
    values = [item.metadata.get(field) for item in items]
    return [value if value is None or isinstance(value, str) else str(value) for value in values]


def _check_on(value: str) -> str:
    if value in ("text", "filename") or (value.startswith(_METADATA) and len(value) > len(_METADATA)):
        return value
    allowed = ["text", "filename", "metadata.<field>"]
    raise InvalidRecipe(
        f"on: {value!r} cannot be read; allowed: {', '.join(allowed)}"
        f"{nearest(value, ['text', 'filename']) or f'; for a metadata field write metadata.{value}'}"
    )


TextSource = Annotated[str, Field(max_length=200), AfterValidator(_check_on)]
"""Where an LF finds its text: ``text``, ``filename`` or ``metadata.<field>``."""
