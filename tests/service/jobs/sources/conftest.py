"""The same files in a folder and in a bucket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from manyeyes.errors import ItemError
from manyeyes.service.jobs.manifests.fetch import Fetcher
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Row, Source
from manyeyes.service.jobs.sources import open_source
from tests.service.jobs.faulty_s3 import FaultyS3


class Listed(NamedTuple):
    """What a source gave. got: of each row its bytes, its error, or None."""

    rows: list[Row]
    skipped: Counter[str]
    got: list[bytes | ItemError | None]

    @property
    def told(self) -> list[tuple[Any, ...]]:
        """What must be the same wherever the files are: no addresses, no etags."""
        return [
            (row.id, row.text, row.metadata, row.error and row.error[0],
             one.code if isinstance(one, ItemError) else one)
            for row, one in zip(self.rows, self.got, strict=True)
        ]  # fmt: skip

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.id == name)

    def bytes_of(self, name: str) -> bytes | ItemError | None:
        return next(one for row, one in zip(self.rows, self.got, strict=True) if row.id == name)


def read(uri: str, **options: Any) -> Listed:
    """List a source and fetch its rows."""
    listing = open_source(Source(uri=uri, **options))
    rows = list(listing.rows())
    with Fetcher(pause_s=0.01) as fetcher:
        fetched = list(fetcher.fetch(rows, attempts=2))
    assert [position for position, _, _ in fetched] == list(range(len(rows)))
    return Listed(rows, Counter(listing.skipped), [one for _, one, _ in fetched])


Lay = Callable[[Mapping[str, bytes]], str]


@pytest.fixture(params=["folder", "bucket"])
def lay(request: pytest.FixtureRequest, tmp_path: Path, data_s3: FaultyS3) -> Lay:
    """Return what lays files somewhere, and says where."""
    folder = tmp_path / "files"

    def lay(files: Mapping[str, bytes]) -> str:
        if request.param == "folder":
            for key, data in files.items():
                (folder / key).parent.mkdir(parents=True, exist_ok=True)
                (folder / key).write_bytes(data)
            return str(folder)
        uri = f"s3://data/{tmp_path.name}/files"
        storage = Storage.open(uri)
        for key, data in files.items():
            storage.put(key, data)
        return uri

    return lay
