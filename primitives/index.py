"""An index of embeddings on disk: the nearest of millions by cosine, in little memory.

Up to 20,000 vectors are kept as float16 and compared with all of them. From there on they are put into lists around
centroids, and a search looks into some lists only (RaBitQ: there, a bit a dimension is compared of many vectors at
once, and six bits a dimension of those that may be near). An index can be added to; a vector whose item has changed
takes the place of the old one.

>>> index = VectorIndex.build([(["a", "b"], np.eye(2, dtype=np.float32))], version="toy 1")
>>> index.save(folder)
>>> [(found.id, round(found.cosine, 2)) for found in VectorIndex.open(folder).search([[0.8, 0.6]], 2)[0]]
[('a', 0.8), ('b', 0.6)]
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Self
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from manyeyes.errors import IndexUnusable, InvalidRequest
from manyeyes.primitives.index_names import Names

EXACT_UP_TO: Final = 20_000
_FORMAT: Final = 1
_HEAD: Final = "index.json"
_BITS: Final = 6
_SEED: Final = 20_260_101
_MOST_LISTS: Final = 8_192
_PER_LIST: Final = 250
_SAMPLE: Final = 262_144
"""Vectors that centroids and codes are learned from, at most."""
_CHUNK: Final = 16_384
_PROBED: Final = 48
"""Lists looked into by default; benchmarks/search.py measures what that finds."""

Vectors = npt.NDArray[np.floating[Any]]
Chunk = tuple[Sequence[str], Vectors]


class Found(NamedTuple):
    """One item that a search found."""

    id: str
    cosine: float


class VectorIndex:
    """Vectors of length 1, each with an id, searched by cosine.

    version: of the primitive that made them; an index answers only for queries of the same one.
    Make one with ``build`` or ``open``.
    """

    def __init__(self, dim: int, version: str, index: Any, names: Names) -> None:
        self.dim = dim
        self.version = version
        self._index = index
        self._names = names

    @classmethod
    def build(
        cls, chunks: Iterable[Chunk], *, version: str, folder: str | os.PathLike[str] | None = None
    ) -> Self:
        """Return an index of a stream of ids and vectors.

        chunks: ids, all different, and float vectors of shape (n, dim), of any length but 0; read once and forgotten.
        folder: where the vectors wait, as float16, until their centroids are known; the system's temporary folder by
        default. Memory is that of the index and of a sample, whatever the stream holds.
        Raises InvalidRequest if there is nothing, a vector has no direction, or an id comes twice.
        """
        names = Names.empty()
        dim = 0
        with tempfile.TemporaryFile(dir=folder) as spool:
            for ids, vectors in chunks:
                unit = _unit(vectors, dim or None)
                dim = unit.shape[1]
                names.add(ids, _marks(unit))
                spool.write(unit.astype(np.float16).tobytes())
            if not len(names):
                raise InvalidRequest("there is nothing to index: not one item has an embedding")
            spool.flush()
            kept = np.memmap(spool, dtype=np.float16, mode="r", shape=(len(names), dim))
            return cls(dim, version, _made(kept), names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def exact(self) -> bool:
        """Whether a search compares with every vector."""
        return not hasattr(self._index, "nlist")

    def update(self, ids: Sequence[str], vectors: Vectors) -> int:
        """Add vectors, and put those of known ids in the place of the old ones; return how many were new or changed.

        ids: all different. vectors: shape (n, dim).
        """
        unit = _unit(vectors, self.dim)
        marks = _marks(unit)
        fresh, outdated = self._names.compare(ids, marks)
        if outdated:
            self._names.drop(outdated)
        if len(fresh):
            self._add(unit[fresh])
            self._names.add([ids[i] for i in fresh.tolist()], marks[fresh])
        return len(fresh)

    def remove_others(self, ids: Iterable[str]) -> int:
        """Forget every item that is not among some ids; return how many that were."""
        outdated = self._names.others(ids)
        self._names.drop(outdated)
        return len(outdated)

    def search(self, queries: Any, count: int, *, effort: float = 1.0) -> list[list[Found]]:
        """Return the nearest items of each query, nearest first.

        queries: shape (n, dim), of any length but 0. count: how many items. effort: how many lists are looked into,
        as a multiple of the usual; more finds more of the true neighbours, and takes longer.
        """
        rows, cosines = self.nearest(queries, count, effort=effort)
        return [
            [
                Found(self._names[row], float(cosine))
                for row, cosine in zip(near, told, strict=True)
                if row >= 0
            ]
            for near, told in zip(rows.tolist(), cosines.tolist(), strict=True)
        ]

    def nearest(
        self, queries: Any, count: int, *, effort: float = 1.0
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return rows and cosines of the nearest items: int64 and float32, shape (n_queries, count).

        Rows count the items in the order in which they were added; -1, with a cosine of -1, where there are fewer.
        """
        import faiss

        if count < 1 or effort <= 0:
            raise InvalidRequest(f"count is at least 1 and effort above 0, got {count} and {effort:g}")
        unit = _unit(np.asarray(queries, dtype=np.float32), self.dim)
        asked = min(count + self._names.n_dropped, self._index.ntotal)
        parameters = None
        if not self.exact:
            parameters = faiss.IVFRaBitQSearchParameters()
            parameters.nprobe = max(1, min(self._index.nlist, round(_PROBED * effort)))
            parameters.qb = 8
        cosines, rows = self._index.search(unit, asked, params=parameters)
        if self._names.n_dropped:
            rows, cosines = self._without_dropped(rows, cosines)
        short = count - rows.shape[1]
        if short > 0:
            rows = np.pad(rows, ((0, 0), (0, short)), constant_values=-1)
            cosines = np.pad(cosines, ((0, 0), (0, short)), constant_values=-1.0)
        rows, cosines = rows[:, :count], cosines[:, :count]
        return rows, np.where(rows < 0, np.float32(-1.0), np.clip(cosines, -1.0, 1.0)).astype(np.float32)

    def ids(self, rows: Iterable[int]) -> list[str]:
        """Return the ids of some rows."""
        return [self._names[row] for row in rows]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the index into a folder of its own. A reader meets the old index or the new one, never half of one.

        Raises IndexUnusable if it cannot be written.
        """
        import faiss

        place = Path(folder)
        try:
            place.mkdir(parents=True, exist_ok=True)
            old = _head(place)
            turn = (old["turn"] + 1) if old else 1
            faiss.write_index(self._index, os.fspath(place / f"vectors.{turn}.faiss"))
            self._names.save(place, turn)
            head = {
                "format": _FORMAT,
                "turn": turn,
                "primitive": self.version,
                "dim": self.dim,
                "items": len(self),
            }
            written = place / f"{_HEAD}.{turn}"
            written.write_text(json.dumps(head, indent=1))
            written.replace(place / _HEAD)
            for file in place.iterdir():
                if old and f".{old['turn']}." in file.name:
                    file.unlink()
        except (OSError, RuntimeError) as error:
            raise IndexUnusable(f"cannot write the index {os.fspath(folder)!r}: {error}") from error

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, version: str | None = None) -> Self:
        """Return the index in a folder.

        version: of the primitive that queries come from. Raises IndexUnusable if there is none, it is damaged, or it
        holds the vectors of another primitive.
        """
        import faiss

        place = Path(folder)
        head = _head(place)
        if head is None:
            raise IndexUnusable(f"there is no index in {os.fspath(folder)!r}; build one from some PATH")
        if version is not None and head["primitive"] != version:
            raise IndexUnusable(
                f"the index {os.fspath(folder)!r} holds vectors of {head['primitive']}, and queries come from"
                f" {version}; name the model that it was built with, or build one in another folder"
            )
        try:
            index = faiss.read_index(os.fspath(place / f"vectors.{head['turn']}.faiss"))
            names = Names.open(place, head["turn"])
        except (OSError, RuntimeError, ValueError, KeyError, BadZipFile) as error:
            raise IndexUnusable(
                f"the index {os.fspath(folder)!r} is damaged ({error}); build it again"
            ) from error
        if index.ntotal != names.n_rows or index.d != head["dim"]:
            raise IndexUnusable(
                f"the index {os.fspath(folder)!r} is damaged: its parts differ; build it again"
            )
        return cls(index.d, head["primitive"], index, names)

    def _add(self, unit: npt.NDArray[np.float32]) -> None:
        for start in range(0, len(unit), _CHUNK):
            self._index.add(unit[start : start + _CHUNK])

    def _without_dropped(
        self, rows: npt.NDArray[np.int64], cosines: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        gone = self._names.dropped(rows)
        order = np.argsort(gone, axis=1, kind="stable")
        rows, cosines = np.where(gone, -1, rows), np.where(gone, np.float32(-1), cosines)
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(cosines, order, axis=1)


def describe(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Return what an index says of itself, without reading its vectors; None where there is no index.

    ``primitive``: the version of what made the vectors; ``dim``; ``items``; ``turn``: how often it was written.
    Raises IndexUnusable if it is damaged.
    """
    return _head(Path(folder))


def _made(kept: npt.NDArray[np.float16]) -> Any:
    """Return a faiss index of some vectors, which may lie on disk: float16, shape (n, dim)."""
    import faiss

    n, dim = kept.shape
    index: Any
    if n <= EXACT_UP_TO:
        index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        index.train(np.zeros((1, dim), dtype=np.float32))
    else:
        n_lists = min(2 ** round(math.log2(n / _PER_LIST)), _MOST_LISTS)
        index = faiss.IndexIVFRaBitQFastScan(
            faiss.IndexFlatIP(dim), dim, n_lists, faiss.METRIC_INNER_PRODUCT, 32, True, _BITS
        )
        index.cp.seed, index.cp.niter, index.cp.min_points_per_centroid = _SEED, 10, 1
        chosen = np.random.default_rng(_SEED).choice(n, min(n, _SAMPLE), replace=False)
        index.train(kept[np.sort(chosen)].astype(np.float32))
    for start in range(0, n, _CHUNK):
        index.add(kept[start : start + _CHUNK].astype(np.float32))
    return index


def _unit(vectors: Any, dim: int | None) -> npt.NDArray[np.float32]:
    """Return vectors scaled to length 1: float32, shape (n, dim)."""
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.ndim != 2 or (dim is not None and array.shape[1] != dim):
        wanted = "n, dim" if dim is None else f"n, {dim}"
        raise InvalidRequest(f"vectors have shape ({wanted}), got {array.shape}")
    length = np.linalg.norm(array, axis=1, keepdims=True)
    if not (np.isfinite(length) & (length > 0)).all():
        raise InvalidRequest("a vector has no direction: it is zero, infinite or not a number")
    return np.asarray(array / length, dtype=np.float32)


def _marks(unit: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """Return what tells whether a vector is the same as before: uint64, shape (n,)."""
    digests = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in unit.astype(np.float16))
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def _head(place: Path) -> dict[str, Any] | None:
    """Return what stands at the head of an index, None where there is none."""
    try:
        head: dict[str, Any] = json.loads((place / _HEAD).read_bytes())
        wanted = {"format": int, "turn": int, "primitive": str, "dim": int, "items": int}
        if any(not isinstance(head.get(field), kind) for field, kind in wanted.items()):
            raise ValueError("a field is missing")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise IndexUnusable(f"the index {os.fspath(place)!r} is damaged ({error}); build it again") from error
    if head["format"] != _FORMAT:
        raise IndexUnusable(
            f"the index {os.fspath(place)!r} has format {head['format']}, and only {_FORMAT} is read; build it again"
        )
    return head


def chunks_of(ids: Sequence[str], vectors: Vectors, *, size: int = _CHUNK) -> Iterator[Chunk]:
    """Yield ids and vectors of an array, which may lie on disk, a few at a time."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size], np.asarray(vectors[start : start + size])
