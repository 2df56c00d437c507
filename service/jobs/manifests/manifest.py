"""The manifest: every row of a job, written once as shards of Parquet, and never changed.

A shard's object is named by the digest of its bytes, and the same rows give the same bytes, so whoever lists the same
source twice, or twice at once, writes nothing twice; and a manifest that follows another shares its shards.
"""

from __future__ import annotations

from collections.abc import Iterable

from manyeyes.service.jobs.manifests.earlier import Earlier
from manyeyes.service.jobs.manifests.ids import Ids
from manyeyes.service.jobs.manifests.shards import (
    Tell,
    keep_manifest,
    read_manifest,
    read_part,
    read_rows,
    unique,
    write_shards,
)
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import SHARD_ROWS, Manifest, Row, Shard

__all__ = ["read_manifest", "read_part", "read_rows", "update_manifest", "write_manifest"]


def write_manifest(
    rows: Iterable[Row],
    storage: Storage,
    *,
    uri: str,
    shard_rows: int = SHARD_ROWS,
    progress: Tell | None = None,
) -> Manifest:
    """Write the rows of a source as a manifest; return it. The same rows give the same manifest, whoever writes it.

    rows: read as a stream; memory does not grow with them. One whose id is taken becomes a row with an error and an id
    of its own. shard_rows: rows a shard. progress: told how many rows there are, now and then.
    Raises StorageFailed if ``storage`` fails.
    """
    with Ids() as ids:
        shards = tuple(write_shards(unique(rows, ids), storage, shard_rows=shard_rows, progress=progress))
    return keep_manifest(Manifest("", uri, shards), storage)


def update_manifest(
    previous: Manifest,
    rows: Iterable[Row],
    storage: Storage,
    *,
    uri: str | None = None,
    shard_rows: int = SHARD_ROWS,
    progress: Tell | None = None,
) -> Manifest:
    """Write what a source holds now as a manifest that shares with an earlier one all that did not change.

    A row that is the same in everything (its etag and size, its text and metadata, where it is) stays where it was. One
    that changed, or is gone, is skipped in its shard; the changed and the new ones go into new shards at the end, in
    the order of the source. A shard of which nothing is left is left out. The same sources one after the other give
    the same manifest, and one that did not change gives the earlier manifest itself.

    previous: lies in ``storage``. rows, shard_rows, progress: as for ``write_manifest``. uri: by default the earlier's.
    Memory: one byte a row of the earlier manifest; the rest is on disk, in a temporary folder.
    Raises StorageFailed.
    """
    with Earlier() as earlier, Ids() as ids:
        for shard in previous.shards:
            earlier.add(shard, read_part(storage, shard))
        new = earlier.changed(unique(rows, ids), progress)
        added = list(write_shards(new, storage, shard_rows=shard_rows))
        kept = list(earlier.kept(previous.shards))
    shards = tuple(
        Shard(index, shard.part, shard.digest, shard.n_rows, shard.skip)
        for index, shard in enumerate([*kept, *added])
    )
    return keep_manifest(Manifest("", uri if uri is not None else previous.uri, shards), storage)
