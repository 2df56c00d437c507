"""Shards of a manifest: rows as objects of Parquet, each named by the digest of its bytes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from manyeyes.errors import InvalidItem, NotFound, StorageFailed
from manyeyes.service.jobs import layout
from manyeyes.service.jobs.manifests.ids import Ids
from manyeyes.service.jobs.places.commits import from_json, to_json
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Manifest, Row, Shard

MAX_SHARD_BYTES: Final = 32 * 2**20
"""Of texts and metadata: a shard of long texts is closed before it has all its rows, so that it fits in memory."""
_BATCH: Final = 1024
_TEXTS: Final = ("id", "uri", "member", "etag", "text", "metadata", "error_code", "error")
_NUMBERS: Final = ("offset", "length", "size")

Tell = Callable[[int], None]


def read_manifest(storage: Storage, manifest_id: str) -> Manifest:
    """Return a manifest. Raises NotFound if there is none of that id."""
    path = layout.manifest_file(manifest_id)
    return from_json(Manifest, storage.get(path), what=f"{path!r} of {storage.uri}")


def read_rows(storage: Storage, shard: Shard) -> list[Row]:
    """Return the rows of a shard, without those that are skipped. Raises StorageFailed if they are not as written."""
    skip = frozenset(shard.skip)
    return [row for position, row in enumerate(read_part(storage, shard)) if position not in skip]


def read_part(storage: Storage, shard: Shard) -> list[Row]:
    """Return the rows of a shard, with those that are skipped. Raises StorageFailed if they are not as written."""
    import pyarrow.parquet as pq

    try:
        data = storage.get(shard.part)
    except NotFound as error:
        raise StorageFailed(
            f"{shard.part!r} of {storage.uri}, which holds rows of the job, is gone; put it back, or run the job anew"
            " in an empty place"
        ) from error
    if hashlib.sha256(data).hexdigest() != shard.digest:
        raise StorageFailed(
            f"{shard.part!r} of {storage.uri} is not what was written; put it back, or run the job anew in an empty"
            " place"
        )
    columns = pq.read_table(io.BytesIO(data)).to_pydict()
    errors = zip(columns.pop("error_code"), columns.pop("error"), strict=True)
    names = list(columns)
    return [
        Row(**dict(zip(names, values, strict=True)), error=None if code is None else (code, message))
        for values, (code, message) in zip(zip(*columns.values(), strict=True), errors, strict=True)
    ]


def unique(rows: Iterable[Row], ids: Ids) -> Iterator[Row]:
    """Yield rows with ids of their own: one whose id is taken becomes an error under another."""
    for batch in batched(map(_clean, rows), _BATCH):
        names = ids.take([row.id for row in batch])
        for row, name in zip(batch, names, strict=True):
            if name == row.id:
                yield row
                continue
            error = InvalidItem(
                f"the id {row.id!r} is taken by an earlier row; ids name rows, so make each one unique"
            )
            yield Row(id=name, metadata=row.metadata, error=(error.code, str(error)))


def write_shards(
    rows: Iterable[Row], storage: Storage, *, shard_rows: int, first: int = 0, progress: Tell | None = None
) -> Iterator[Shard]:
    """Write rows in shards, a shard at a time. first: the place of the first one in its job."""
    n_rows = 0
    for n, part in enumerate(_parts(rows, shard_rows)):
        data = shard_bytes(part)
        digest = hashlib.sha256(data).hexdigest()
        path = layout.manifest_rows(digest)
        if not storage.create(path, data):
            storage.put(path, data)  # Damaged: its name says what it should hold.
        n_rows += len(part)
        if progress is not None:
            progress(n_rows)
        yield Shard(first + n, path, digest, len(part))


def shard_bytes(rows: Sequence[Row]) -> bytes:
    """Return rows as Parquet: the same rows, the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {}
    for name in ("id", "uri", "member", "offset", "length", "size", "etag", "text", "metadata"):
        kind = pa.int64() if name in _NUMBERS else pa.large_string()
        columns[name] = pa.array([getattr(row, name) for row in rows], kind)
    columns["error_code"] = pa.array([row.error and row.error[0] for row in rows], pa.large_string())
    columns["error"] = pa.array([row.error and row.error[1] for row in rows], pa.large_string())
    stream = io.BytesIO()
    pq.write_table(
        pa.table(columns),
        stream,
        version="2.6",
        compression="zstd",
        compression_level=3,
        use_dictionary=False,
        write_statistics=False,
        row_group_size=max(1, len(rows)),
    )
    return stream.getvalue()


def batched(rows: Iterable[Row], n: int) -> Iterator[list[Row]]:
    """Yield lists of up to n rows."""
    iterator = iter(rows)
    while batch := list(islice(iterator, n)):
        yield batch


def keep_manifest(manifest: Manifest, storage: Storage) -> Manifest:
    """Write the shards of a manifest under its id, which is a hash of them; return it with its id."""
    manifest = sealed(manifest)
    path = layout.manifest_file(manifest.id)
    if not storage.create(path, to_json(manifest)):
        # The same rows, listed before, maybe under another spelling of the address.
        return read_manifest(storage, manifest.id)
    return manifest


def sealed(manifest: Manifest) -> Manifest:
    """Return a manifest under its id: a hash of its shards."""
    digest = hashlib.sha256()
    for shard in manifest.shards:
        digest.update(f"{shard.digest}:{','.join(map(str, shard.skip))}\n".encode())
    return replace(manifest, id=digest.hexdigest()[:20])


def _parts(rows: Iterable[Row], shard_rows: int) -> Iterator[list[Row]]:
    part: list[Row] = []
    n_bytes = 0
    for row in rows:
        part.append(row)
        n_bytes += len(row.text or "") + len(row.metadata)
        if len(part) >= shard_rows or n_bytes >= MAX_SHARD_BYTES:
            yield part
            part, n_bytes = [], 0
    if part:
        yield part


def _clean(row: Row) -> Row:
    """Return a row whose texts UTF-8 can say."""
    try:
        for name in ("id", "uri", "member", "etag", "text", "metadata"):
            value = getattr(row, name)
            if value is not None and not value.isascii():
                value.encode()
        if row.error is not None:
            row.error[1].encode()
    except UnicodeEncodeError:
        changes: dict[str, Any] = {}
        for name in ("id", "uri", "member", "etag", "text", "metadata"):
            value = getattr(row, name)
            changes[name] = None if value is None else _said(value)
        if row.error is not None:
            changes["error"] = (row.error[0], _said(row.error[1]))
        return replace(row, **changes)
    return row


def _said(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
