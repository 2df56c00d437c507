"""Removing what attempts wrote that were killed, or came second: nobody reads it, but somebody pays for it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Final

from manyeyes.service.jobs.layout import parts_folder
from manyeyes.service.jobs.places.commits import Commits
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import PassName

_PASSES: Final[tuple[PassName, ...]] = ("votes", "labels")


def sweep_parts(storage: Storage, job: str, generation: int) -> int:
    """Remove the parts of a generation that no commit names; return how many.

    For generations that are published: each of their shards is committed, so whoever still works on one is too late,
    and its part would not be named either. A listing shows which shards have more than one part; only their commits
    are read. Raises StorageFailed.
    """
    lost = [path for pass_ in _PASSES for path in _lost(storage, job, pass_, generation)]
    if lost:
        storage.delete(lost)
    return len(lost)


def _lost(storage: Storage, job: str, pass_: PassName, generation: int) -> Iterator[str]:
    commits = Commits(storage, job, pass_, generation)
    folder = parts_folder(job, pass_, generation)
    listed = (meta.path for meta in storage.list(folder) if _shard_of(meta.path) is not None)
    for shard, paths in groupby(
        listed, key=_shard_of
    ):  # listings are by name, so parts of a shard come together
        found = list(paths)
        if shard is None or len(found) == 1:
            continue
        commit = commits.get(shard)
        if commit is not None:
            named = {path for path, _ in commit.files.values()}
            yield from (path for path in found if path not in named)


def _shard_of(path: str) -> int | None:
    number = path.rpartition("/")[2].partition("-")[0]
    return int(number) if number.isdecimal() else None
