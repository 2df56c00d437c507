"""From rows of a manifest to items: what the extractor looks at, and what labeling functions (LFs) get to see."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any, Final, Self

from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.sources.places import local_path, scheme_of
from manyeyes.types import Item

_TABLES: Final = (".parquet", ".csv", ".jsonl")


class Fetched(bytes):
    """The bytes of an image, which know where they came from, so that a file name can be read of them."""

    _address: str

    @classmethod
    def of(cls, data: bytes, address: str) -> Self:
        """Return bytes with their address."""
        self = cls(data)
        self._address = address
        return self

    def __fspath__(self) -> str:
        return self._address


def address_of(row: Row) -> str | None:
    """Return where a row's image is: the path of a file, else its address; None for a text alone.

    A member of an archive is at the archive's address and its own name. The cell of a table is at the row's id there.

    >>> address_of(Row("a", "file:///photos/a%20b.jpg")), address_of(Row("a", "s3://b/x.zip", member="red/1.png"))
    ('/photos/a b.jpg', 's3://b/x.zip/red/1.png')
    """
    if row.uri is None:
        return None
    if row.member is None:
        return os.fsdecode(local_path(row.uri)) if scheme_of(row.uri) == "file" else row.uri
    return f"{row.uri}/{row.id if row.uri.lower().endswith(_TABLES) else row.member}"


def item_of(row: Row, data: bytes | None = None) -> Item:
    """Return the item of a row: with its bytes for an extractor, without for LFs.

    An LF sees the address in place of the image, since a job that has the features already reads no image again, and
    what an LF sees must not hang on that. ``kind: python`` functions that want pixels read the features of a primitive.
    """
    address = address_of(row)
    metadata: Mapping[str, Any] = json.loads(row.metadata) if row.metadata != "{}" else {}
    if data is None or address is None:
        return Item(id=row.id, image=address, text=row.text, metadata=metadata)
    return Item(id=row.id, image=Fetched.of(data, address), text=row.text, metadata=metadata)
