"""A finished dataset, as programs read it: rows, labels, stored features, and what made them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from manyeyes.service.jobs.published import Published
from manyeyes.service.jobs.shapes import Counts, Manifest, Row
from manyeyes.service.jobs.storage import Storage
from manyeyes.types import Label, Versions

if TYPE_CHECKING:
    import pyarrow as pa

    from manyeyes.recipe import Recipe
    from manyeyes.service.fetching.buckets import Buckets
    from manyeyes.service.jobs.fetch import Fetcher


class Dataset:
    """What ``manyeyes.json`` names, and nothing else. Make one with ``Dataset.open``.

    Shards are read one at a time, so memory does not grow with the dataset; what is read is held to its digest.
    """

    storage: Storage
    published: Published

    @classmethod
    def open(cls, out: str | os.PathLike[str] | Storage, *, buckets: Buckets | None = None) -> Dataset:
        """Open what a job wrote. Raises NotFound where no job has finished, telling how far it is."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Rows, errors included."""
        raise NotImplementedError

    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def counts(self) -> Counts: ...
    @property
    def versions(self) -> Versions: ...
    @property
    def recipe(self) -> Recipe: ...
    @property
    def manifest(self) -> Manifest: ...

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the labels, one Arrow table a shard, in the order of the rows. columns: only these."""
        raise NotImplementedError

    def labels(self) -> Iterator[Label]:
        """Yield the label of every row, errors included, in order."""
        raise NotImplementedError

    def rows(self) -> Iterator[tuple[Row, Label]]:
        """Yield every row of the manifest with its label, in order."""
        raise NotImplementedError

    def find(self, id: str) -> tuple[Row, Label]:
        """Return one row and its label. Raises LabelNotFound."""
        raise NotImplementedError

    def features(self, feature: str) -> Iterator[Any]:
        """Yield what a primitive saw, shard by shard, from the stored parts."""
        raise NotImplementedError

    def fetcher(self) -> Fetcher:
        """Return what fetches the bytes of rows from where the job found them."""
        raise NotImplementedError
