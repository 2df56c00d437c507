"""Commits: the one object of each shard whose creation ends it, and how the shapes of a job are written as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from manyeyes.errors import NotFound, StorageFailed
from manyeyes.service.jobs import layout
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Commit, PassName

_READERS: Final = 16
_READ_AHEAD: Final = 256

T = TypeVar("T")


def to_json(value: Any) -> bytes:
    """Return a Commit, a Shard, a Manifest, or another dataclass as JSON: the same value, the same bytes.

    >>> from manyeyes.service.jobs.shapes import Counts
    >>> to_json(Commit(3, "a", {"votes": ("p.parquet", "00")}, Counts(rows=2)))[:38]
    b'{"attempt":"a","computed":{},"counts":'
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def from_json(kind: type[T], data: bytes, *, what: str = "it") -> T:
    """Return what :func:`to_json` wrote. Raises StorageFailed, which calls it ``what``, if it is not that."""
    try:
        value: T = _reader(cast(Any, kind)).validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise StorageFailed(
            f"{what} is damaged, or of another version of manyeyes: {problem['msg']}. Start the job anew in an empty"
            " place, or put back what was there"
        ) from error
    return value


class Commits:
    """The commits of one pass of a generation. What no commit names does not exist for anybody who reads."""

    def __init__(self, storage: Storage, job: str, pass_: PassName, generation: int) -> None:
        self.storage = storage
        self._names = (job, pass_, generation)
        self._folder = layout.commits_folder(*self._names)

    def done(self) -> set[int]:
        """Return the shards that are committed, from one listing."""
        return {int(name.removesuffix(".json")) for name in self._listed()}

    def get(self, shard: int) -> Commit | None:
        """Return the commit of a shard, or None while there is none."""
        path = layout.commit_file(*self._names, shard)
        try:
            data = self.storage.get(path)
        except NotFound:
            return None
        return from_json(Commit, data, what=f"{path!r} of {self.storage.uri}")

    def create(self, commit: Commit) -> Commit:
        """End a shard. Returns the commit that counts: this one, or one that was there before it."""
        if not commit.attempt:
            raise ValueError("a commit without an attempt cannot be told from another's")
        path = layout.commit_file(*self._names, commit.shard)
        if self.storage.create(path, to_json(commit)):
            return commit
        winner = self.get(commit.shard)
        if winner is None:
            raise StorageFailed(
                f"{path!r} of {self.storage.uri} was deleted while the job ran; run the job again"
            )
        return winner

    def all(self) -> Iterator[Commit]:
        """Yield every commit, by shard; read some at once, ahead of what is asked for."""
        shards = sorted(self.done())
        with ThreadPoolExecutor(_READERS, thread_name_prefix="commits") as pool:
            for start in range(0, len(shards), _READ_AHEAD):
                for commit in pool.map(self.get, shards[start : start + _READ_AHEAD]):
                    if commit is not None:
                        yield commit

    def _listed(self) -> Iterator[str]:
        for meta in self.storage.list(self._folder):
            name = meta.path.rpartition("/")[2]
            if name.endswith(".json") and name.removesuffix(".json").isdecimal():
                yield name


@lru_cache(maxsize=64)
def _reader(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value
