"""The feature cache: what primitives saw, kept under the digest of what they looked at and their own version.

Shared by the command line, the service and jobs, in any number of processes. A row that is not exactly what was written
counts as missing and is computed again. The file underneath is :class:`manyeyes.primitives.store.Store`.

>>> cache = Cache(folder)
>>> cache.put("toy 1", {content_digest(b"a file"): b"a row"})
>>> cache.get("toy 1", [content_digest(b"a file"), content_digest(b"another")]).values()
dict_values([b'a row'])
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
import weakref
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from manyeyes import settings
from manyeyes.primitives.store import lend_store, return_store

if TYPE_CHECKING:
    import lmdb

_ROW: Final = b"r"  # + version hash + content digest → bytes of the rows
_META: Final = b"m"  # + version hash → JSON of the primitive
_SEEN: Final = b"s"  # + hash of a path → the file's state when it was digested, and its digest
_CHECK: Final = struct.Struct("<I")
_SEEN_STATE: Final = struct.Struct("<QQqq")  # inode, size, mtime_ns, ctime_ns

# Bytes followed by their own CRC-32 always have this CRC, whatever the seed, so one pass checks a value.
_RESIDUE: Final = 0x2144DF1C
_RACY_NS: Final = 2_000_000_000


def content_digest(data: bytes | memoryview) -> bytes:
    """Return what names a content in the cache: 16 bytes, BLAKE2b."""
    return hashlib.blake2b(data, digest_size=16).digest()


@dataclass(frozen=True, slots=True)
class CachedPrimitive:
    """What the cache holds of one version of a primitive. rows: contents; n_bytes: of their features."""

    version: str
    rows: int
    n_bytes: int
    meta: Mapping[str, Any]


class Cache:
    """Rows of bytes by primitive version and content digest.

    path: a folder of its own; ``settings.home() / "cache"`` by default. map_bytes: the address space to begin with.
    Safe to use from many threads and processes, and across forks. Every method raises CacheUnusable if the folder
    cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, *, map_bytes: int | None = None) -> None:
        self.path = Path(path) if path is not None else settings.home() / "cache"
        self._store = (
            lend_store(self.path) if map_bytes is None else lend_store(self.path, map_bytes=map_bytes)
        )
        self._returned = weakref.finalize(self, return_store, self._store)
        # Stores close themselves at exit, in an order of their own.
        self._returned.atexit = False

    @classmethod
    def shared(cls, path: str | os.PathLike[str] | None = None) -> Cache:
        """Return a cache on a folder; all those of one process stand on one open file."""
        return cls(path)

    def close(self) -> None:
        """Let go of the file; the cache cannot be used any more."""
        self._returned()

    def get(self, version: str, digests: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return what is known of some contents: digest → bytes of the rows; missing or damaged ones are left out."""
        prefix = _ROW + _hash(version)
        found = self._fetch([prefix + digest for digest in digests])
        start = len(prefix)
        return {key[start:]: value for key, value in found.items()}

    def put(self, version: str, rows: Mapping[bytes, bytes]) -> None:
        """Keep rows of one primitive: digest → bytes; all of them, or none after a crash."""
        self.put_many({version: rows})

    def put_many(self, rows: Mapping[str, Mapping[bytes, bytes]]) -> None:
        """Keep rows of several primitives in one transaction: version → digest → bytes."""
        self._store_values(
            (_ROW + _hash(version) + digest, value)
            for version, values in rows.items()
            for digest, value in values.items()
        )

    def meta_get(self, version: str) -> dict[str, Any] | None:
        """Return what was kept about a version of a primitive (its dtype and info), or None."""
        key = _META + _hash(version)
        value = self._fetch([key]).get(key)
        return None if value is None else json.loads(value)["meta"]

    def meta_put(self, version: str, meta: Mapping[str, Any]) -> None:
        """Keep JSON-ready facts about a version of a primitive, so that they need no model next time."""
        value = json.dumps({"version": version, "meta": meta}).encode()
        self._store_values([(_META + _hash(version), value)])

    def recall(self, files: Sequence[tuple[str, os.stat_result]]) -> list[bytes | None]:
        """Return the content digest of each file that was digested before and has not changed since, else None.

        files: absolute path and ``os.stat`` of each. As in git's index, a file counts as unchanged if inode, size,
        mtime and ctime are the same.
        """
        keys = [_path_key(path) for path, _ in files]
        found = self._fetch(keys)
        pack = _SEEN_STATE.pack
        digests: list[bytes | None] = []
        for key, (_, stat) in zip(keys, files, strict=True):
            value = found.get(key)
            if value is not None and value[:32] == pack(*_seen_state(stat)):
                digests.append(value[32:])
            else:
                digests.append(None)
        return digests

    def remember(self, files: Iterable[tuple[str, os.stat_result, bytes]]) -> None:
        """Keep the digests of files: absolute path, ``os.stat`` from before and after reading, digest.

        A file that changed in the last two seconds may change again within the clock's resolution, unseen; its
        digest is not kept.
        """
        now = time.time_ns()
        self._store_values(
            (_path_key(path), _SEEN_STATE.pack(*_seen_state(stat)) + digest)
            for path, stat, digest in files
            if max(stat.st_mtime_ns, stat.st_ctime_ns) < now - _RACY_NS
        )

    def listing(self) -> list[CachedPrimitive]:
        """Return what is cached of every version of every primitive, largest first."""

        def walk(transaction: lmdb.Transaction[bytes]) -> dict[bytes, list[int]]:
            sizes: dict[bytes, list[int]] = {}
            cursor = transaction.cursor()
            if cursor.set_range(_ROW):
                for key, value in cursor.iternext():
                    if key[:1] != _ROW:
                        break
                    counted = sizes.setdefault(key[1:17], [0, 0])
                    counted[0] += 1
                    counted[1] += len(value) - _CHECK.size
            return sizes

        def metas(transaction: lmdb.Transaction[bytes]) -> list[bytes]:
            cursor = transaction.cursor()
            keys: list[bytes] = []
            if cursor.set_range(_META):
                for key in cursor.iternext(values=False):
                    if key[:1] != _META:
                        break
                    keys.append(key)
            return keys

        sizes = self._store.read(walk)
        listed = []
        for value in self._fetch(self._store.read(metas)).values():
            known = json.loads(value)
            rows, n_bytes = sizes.pop(_hash(known["version"]), [0, 0])
            listed.append(CachedPrimitive(known["version"], rows, n_bytes, known["meta"]))
        listed += [
            CachedPrimitive(f"unknown {key.hex()}", rows, n_bytes, {})
            for key, (rows, n_bytes) in sizes.items()
        ]
        return sorted(listed, key=lambda entry: (-entry.n_bytes, entry.version))

    def _fetch(self, keys: list[bytes]) -> dict[bytes, bytes]:
        """Return the intact values of those keys that are there."""
        if not keys:
            return {}

        def look_up(transaction: lmdb.Transaction[bytes]) -> list[tuple[bytes, bytes]]:
            return transaction.cursor().getmulti(keys)

        found = self._store.read(look_up)
        # Seeded with the key, so that an intact value in the wrong place is noticed too.
        crc = zlib.crc32
        return {key: value[:-4] for key, value in found if crc(value, crc(key)) == _RESIDUE}

    def _store_values(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        sealed = [(key, value + _CHECK.pack(zlib.crc32(value, zlib.crc32(key)))) for key, value in pairs]
        if not sealed:
            return

        def insert(transaction: lmdb.Transaction[bytes]) -> None:
            transaction.cursor().putmulti(sealed)

        self._store.write(insert)


@lru_cache(maxsize=1024)
def _hash(version: str) -> bytes:
    return hashlib.blake2b(version.encode(), digest_size=16).digest()


def _path_key(path: str) -> bytes:
    return _SEEN + hashlib.blake2b(os.fsencode(path), digest_size=16).digest()


def _seen_state(stat: os.stat_result) -> tuple[int, int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
