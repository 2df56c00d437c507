"""A finished dataset, as programs read it: rows, labels, stored features, and what made them.

::

    dataset = Dataset.open("s3://photos/labels")
    for row, label in dataset.rows():
        print(row.uri, label.label, label.confidence)

The labels are plain Parquet, too, which pandas, polars, pyarrow and DuckDB read without any of this:
``pandas.read_parquet(f"{out}/labels")``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from manyeyes.errors import LabelNotFound, NotFound, StorageFailed
from manyeyes.primitives.base import Features
from manyeyes.primitives.reading import ahead
from manyeyes.recipe import Recipe
from manyeyes.service.jobs.datasets.provenance import read_published, winner
from manyeyes.service.jobs.datasets.published import LabelsFile, Published
from manyeyes.service.jobs.manifests.manifest import read_manifest, read_rows
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Counts, Manifest, Row, Shard
from manyeyes.service.jobs.work.features import FeatureRows, feature_key
from manyeyes.service.jobs.work.parts import digest_of
from manyeyes.service.jobs.work.stored import read_features
from manyeyes.sinks import labels_of_table
from manyeyes.types import Label, Versions

if TYPE_CHECKING:
    import pyarrow as pa

    from manyeyes.service.fetching.buckets import Buckets
    from manyeyes.service.jobs.manifests.fetch import Fetcher

_AHEAD: Final = 4
T = TypeVar("T")


class Dataset:
    """What ``manyeyes.json`` names, and nothing else. Make one with ``Dataset.open``.

    storage: where it is. published: all that ``manyeyes.json`` said when it was opened. A dataset that is replaced
    meanwhile stays what it was, as long as the job's own files are there.

    Shards are read one at a time, a few ahead, so memory does not grow with the dataset. All that is read is held to
    its digest; StorageFailed is raised where it is not what was published.
    """

    def __init__(self, storage: Storage, published: Published, *, buckets: Buckets | None = None) -> None:
        self.storage = storage
        self.published = published
        self._buckets = buckets

    @classmethod
    def open(cls, out: str | os.PathLike[str] | Storage, *, buckets: Buckets | None = None) -> Dataset:
        """Open what a job wrote.

        out: the folder or the bucket's prefix. buckets: an operator's, where not everything may be read.
        Raises NotFound where no job has finished, telling how far it is; InvalidRequest if what it says is damaged.
        """
        storage = out if isinstance(out, Storage) else Storage.open(os.fspath(out), buckets=buckets)
        return cls(storage, read_published(storage), buckets=buckets)

    def __len__(self) -> int:
        """Rows, errors included."""
        return self.published.counts.rows

    def __repr__(self) -> str:
        return f"Dataset({self.storage.uri!r}, job {self.job}, {len(self):,} rows)"

    @property
    def job(self) -> str:
        """The id of the job that made it."""
        return self.published.job

    @property
    def classes(self) -> tuple[str, ...]:
        """The recipe's classes, in its order."""
        return self.published.classes

    @property
    def counts(self) -> Counts:
        """Rows, by what became of them."""
        return self.published.counts

    @property
    def versions(self) -> Versions:
        """What made the labels."""
        return self.published.versions

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that the job used. Raises InvalidRecipe if this version of manyeyes cannot read it."""
        return Recipe.parse(self.published.recipe, source=f"recipe of job {self.job}")

    @cached_property
    def manifest(self) -> Manifest:
        """The rows that the job was given, as shards."""
        return read_manifest(self.storage, self.published.manifest)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the labels, one Arrow table a shard, in the order of the rows.

        columns: only these. ``manyeyes.sinks`` says which there are; beside them there is ``attempts``, how often a row
        with an error was tried.
        """
        yield from _in_threads(partial(self._table, columns=columns), self.published.files)

    def labels(self) -> Iterator[Label]:
        """Yield the label of every row, errors included, in order."""
        for table in self.tables():
            yield from labels_of_table(table)

    def rows(self) -> Iterator[tuple[Row, Label]]:
        """Yield every row of the manifest with its label, in order."""
        pairs = zip(self.published.files, self.manifest.shards, strict=True)
        for rows, table in _in_threads(lambda pair: self.shard(*pair), pairs):
            yield from zip(rows, labels_of_table(table), strict=True)

    def shard(
        self, file: LabelsFile, shard: Shard, columns: Sequence[str] | None = None
    ) -> tuple[list[Row], pa.Table]:
        """Return the rows of a shard and the table of their labels; raises StorageFailed if these are not theirs.

        columns: only these, the id among them.
        """
        rows, table = read_rows(self.storage, shard), self._table(file, columns)
        if table["id"].to_pylist() != [row.id for row in rows]:
            raise StorageFailed(
                f"{file.path!r} of {self.storage.uri} does not hold the labels of shard {shard.index}; run manyeyes"
                " verify"
            )
        return rows, table

    def find(self, id: str) -> tuple[Row, Label]:
        """Return one row and its label. Raises LabelNotFound if no row has that id."""
        for file, shard in zip(self.published.files, self.manifest.shards, strict=True):
            if id in self._ids(file):
                rows, table = self.shard(file, shard)
                place = [row.id for row in rows].index(id)
                return rows[place], next(labels_of_table(table.slice(place, 1)))
        raise LabelNotFound(
            f"no row of {self.storage.uri} has the id {id!r}; ids are keys below the source, or those of its table"
        )

    def features(self, feature: str) -> Iterator[Features] | None:
        """Return what a primitive saw, one block a shard, in the order of ``rows()``; None where nothing is stored.

        feature: as a recipe names it, such as ``clip``, ``clip.text`` or ``detector``. A row that it does not see, or
        that was not kept, is not present.
        """
        if feature not in self.versions.primitives:
            return None
        key = feature_key(feature, self.versions.primitives)
        read = partial(read_features, self.storage, key=key)
        layout = next((rows.layout for rows in map(read, self.manifest.shards) if rows is not None), None)
        if layout is None:
            return None
        missing = partial(FeatureRows.empty, layout)
        return (
            _kept_rows(shard, rows if rows is not None else missing(shard.n_rows))
            for shard, rows in _in_threads(lambda shard: (shard, read(shard)), self.manifest.shards)
        )

    def fetcher(self) -> Fetcher:
        """Return what fetches the bytes of rows from where the job found them; close it, or use it in a ``with``."""
        from manyeyes.service.jobs.manifests.fetch import Fetcher

        return Fetcher(buckets=self._buckets)

    def _table(self, file: LabelsFile, columns: Sequence[str] | None = None) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pq.read_table(
            pa.BufferReader(self._bytes(file)), columns=None if columns is None else list(columns)
        )

    def _bytes(self, file: LabelsFile) -> bytes:
        """Return what was published; from the job's own folder where another job is being published just now."""
        for is_published in (True, False):
            try:
                path = file.path if is_published else winner(self.storage, self.published, file)
                data = self.storage.get(path)
            except NotFound:
                continue
            if digest_of(data) == file.sha256:
                return data
        raise StorageFailed(
            f"{file.path!r} of {self.storage.uri} is not what was published, and the job keeps no copy; open the"
            " dataset again if a job has replaced it just now, or run manyeyes verify"
        )

    def _ids(self, file: LabelsFile) -> Sequence[str]:
        """Return the ids of a file, reading little else of it, where it is not being replaced."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            if (meta := self.storage.head(file.path)) is not None and meta.size == file.size:
                source = pa.PythonFile(_Ranges(self.storage, file.path, file.size), mode="r")
                found: list[str] = pq.ParquetFile(source).read(columns=["id"])["id"].to_pylist()
                return found
        except (NotFound, pa.ArrowException, OSError, KeyError):
            pass
        return self._table(file, ["id"])["id"].to_pylist()  # type: ignore[no-any-return]


class _Ranges(io.RawIOBase):
    """An object as a file of which only what is asked for is read."""

    def __init__(self, storage: Storage, path: str, size: int) -> None:
        self._storage, self._path, self._size, self._place = storage, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._size - self._place))
        data = self._storage.get_range(self._path, self._place, wanted) if wanted else b""
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def _kept_rows(shard: Shard, rows: FeatureRows) -> Features:
    kept = np.delete(np.arange(shard.n_rows, dtype=np.int64), list(shard.skip))
    return rows.features(kept, np.zeros(len(kept), dtype=np.bool_))


def _in_threads(work: Callable[[Any], T], over: Iterable[Any]) -> Iterator[T]:
    """Yield results in order, while a few more are being made."""
    with ThreadPoolExecutor(_AHEAD, thread_name_prefix="manyeyes-dataset") as pool:
        yield from ahead(pool, (partial(work, one) for one in over), n_ahead=_AHEAD)  # type: ignore[misc]
