"""How fast features come back from the cache, beside the same rows in SQLite.

python -m benchmarks.cache [--json] [--quick]
"""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.bars import Bar, arguments, at_least, show, told
from manyeyes.primitives.cache import Cache, content_digest
from manyeyes.primitives.embeddings import dtype_of
from manyeyes.primitives.features import Layout

DIM = 512
CHUNK = 512
"""Rows asked for at once, as a Labeler does."""
VERSION = "benchmark/1"

Fetch = Callable[[Sequence[bytes]], dict[bytes, bytes]]


def rate(fetch: Fetch, digests: Sequence[bytes], layout: Layout) -> float:
    """Return how many vectors a second come back as columns, in an order that is not that of the disk."""
    start = time.perf_counter()
    for first in range(0, len(digests), CHUNK):
        asked = digests[first : first + CHUNK]
        features = layout.assemble(asked, fetch(asked))
        if not features.present.all():
            raise RuntimeError("the cache lost a row")
    return len(digests) / (time.perf_counter() - start)


def cache_bars(folder: Path, n_rows: int) -> list[Bar]:
    """Write vectors, then read them from both stores in turn: medians of five."""
    rng = np.random.default_rng(0)
    layout = Layout(dtype_of(DIM), ragged=False)
    rows = {
        content_digest(str(i).encode()): rng.normal(size=DIM).astype(np.float32).tobytes()
        for i in range(n_rows)
    }
    cache = Cache(folder / "cache")
    cache.put(VERSION, rows)
    peer = sqlite3.connect(folder / "peer.sqlite")
    peer.execute("PRAGMA journal_mode=WAL")
    peer.execute("CREATE TABLE feature (digest BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
    with peer:
        peer.executemany("INSERT INTO feature VALUES (?, ?)", rows.items())

    def from_sqlite(digests: Sequence[bytes]) -> dict[bytes, bytes]:
        marks = ",".join("?" * len(digests))
        return dict(peer.execute(f"SELECT digest, value FROM feature WHERE digest IN ({marks})", digests))

    digests = [list(rows)[i] for i in rng.permutation(n_rows)]
    ours, theirs = [], []
    for _ in range(5):
        ours.append(rate(lambda asked: cache.get(VERSION, asked), digests, layout))
        theirs.append(rate(from_sqlite, digests, layout))
    peer.close()
    fast, beside = statistics.median(ours), statistics.median(theirs)
    return [
        at_least(
            f"cache: vectors of {DIM} numbers read a second", fast, 50_000, peer=f"SQLite: {beside:,.0f}"
        ),
        told("cache: times as fast as SQLite", fast / beside, unit="×"),
    ]


def main() -> int:
    """Measure and print; return the exit code."""
    options = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        bars = cache_bars(Path(name), 5_000 if options.quick else 50_000)
    return show("The cache", bars, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
