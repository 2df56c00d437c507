"""The texts that there are to an item: its own, its file name, a field of its metadata, what a primitive recognised."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from manyeyes.primitives.base import Features
from manyeyes.primitives.lines import texts_in
from manyeyes.primitives.naming import METADATA
from manyeyes.types import Item

_QUERY: Final = re.compile(r"\?[\w.-]+=[^/]*$")


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
    if path.startswith(("http://", "https://")):
        path = urlsplit(path).path
    elif "://" in path:  # keys of buckets may hold ? and #; only what reads as a query is none of the name
        path = _QUERY.sub("", path)
    if "\\" in path:
        path = path.replace("\\", "/")
    return path.rstrip("/").rpartition("/")[2]


def texts_of(items: Sequence[Item], on: str, blocks: Mapping[str, Features]) -> list[str | None]:
    """Return one text of each item, None where there is none.

    on: "text", "filename", "metadata." and the name of a field, or a feature that gives text, such as "ocr". A number
    in a field is read as it is written. blocks: feature → features.
    """
    if on == "text":
        return [item.text for item in items]
    if on == "filename":
        return [file_name(item) for item in items]
    if not on.startswith(METADATA):
        return texts_in(blocks[on])
    field = on.removeprefix(METADATA)
    values = [item.metadata.get(field) for item in items]
    return [value if value is None or isinstance(value, str) else str(value) for value in values]
