"""Search over a million vectors, measured: how many of the true neighbours, how fast, in how many bytes on disk.

python -m benchmarks.search [--json] [--quick] [--n 1000000] [--hard]

The vectors are made up after embeddings of photographs: the starter CLIP's of 9,324 photographs (clothing, ImageNet
sample, CIFAR-10, COCO128), where a mean direction holds 0.29 of the squared length, 233 clusters 0.64, and what is left
within a cluster 0.20, spread over some 86 dimensions. Here: 5,000 clusters, of sizes as Zipf has them with exponent
0.7, and the shares 0.25, 0.5 and 0.25. Queries are drawn alike and are in no index. ``--hard`` adds Gaussian noise
without any structure, where neighbours are hardly nearer than anything else and which no embedding looks like.

The peer, and the truth, is faiss comparing with every vector, in the same run, with as many threads.
"""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from benchmarks.bars import Bar, arguments, at_least, at_most, show, told
from manyeyes.primitives.index import VectorIndex, chunks_of

DIM = 512
N_CLUSTERS = 5_000
N_THREADS = 2
COUNT = 10
BLOCK = 50_000

Floats = npt.NDArray[np.float32]


class World:
    """Where vectors are drawn from. hard: Gaussian noise instead."""

    def __init__(self, *, hard: bool = False) -> None:
        rng = np.random.default_rng(0)
        place = np.arange(DIM)
        between, within = 1 / (place + 1.0), 1 / (1 + place / 20) ** 2
        self.hard = hard
        self._within = np.sqrt(within / within.sum() * 0.25).astype(np.float32)
        mean = rng.standard_normal(DIM)
        centres = rng.standard_normal((N_CLUSTERS, DIM)) * np.sqrt(between / between.sum() * 0.5)
        self._centres = (centres + 0.5 * mean / np.linalg.norm(mean)).astype(np.float32)
        self._turn = np.linalg.qr(rng.standard_normal((DIM, DIM)))[0].astype(np.float32)
        self._shares = np.arange(1, N_CLUSTERS + 1) ** -0.7
        self._shares /= self._shares.sum()

    def draw(self, n: int, *, seed: int) -> Floats:
        """Return n vectors of length 1: float32, shape (n, DIM)."""
        rng = np.random.default_rng([1, seed])
        vectors = rng.standard_normal((n, DIM), dtype=np.float32)
        if not self.hard:
            cluster = rng.choice(N_CLUSTERS, size=n, p=self._shares)
            vectors = (vectors * self._within + self._centres[cluster]) @ self._turn
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def median_time(call: Callable[[], object], repeats: int) -> float:
    """Return the median of how long a call took, in seconds."""
    times = []
    for _ in range(repeats):
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def found(rows: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> float:
    """Return the share of the true neighbours among those found."""
    return float(
        np.mean([len({*a} & {*b}) for a, b in zip(rows.tolist(), truth.tolist(), strict=True)]) / COUNT
    )


def measure(world: World, n: int, folder: Path, *, n_queries: int, repeats: int) -> list[Bar]:
    """Return the bars of one world."""
    what = f"{n:,} × {DIM}{', Gaussian noise' if world.hard else ''}"
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(n, DIM))
    for start in range(0, n, BLOCK):
        vectors[start : start + BLOCK] = world.draw(min(BLOCK, n - start), seed=start)
    queries = world.draw(n_queries, seed=-1 % 2**31)
    before = time.perf_counter()
    ids = [f"photos/{i:07}.jpg" for i in range(n)]
    index = VectorIndex.build(chunks_of(ids, vectors), version="benchmark", folder=folder)
    built_s = time.perf_counter() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    index.save(folder / "index")
    on_disk = sum(file.stat().st_size for file in (folder / "index").iterdir())
    index = VectorIndex.open(folder / "index")
    flat = faiss.IndexFlatIP(DIM)
    for start in range(0, n, BLOCK):
        flat.add(np.asarray(vectors[start : start + BLOCK]))
    truth = flat.search(queries, COUNT)[1]
    few = queries[:100]
    exact = len(few) / median_time(partial(flat.search, few, COUNT), 3)
    del flat
    rows, _ = index.nearest(queries, COUNT)
    rate = n_queries / median_time(lambda: index.nearest(queries, COUNT), repeats)
    alone = len(few) / median_time(
        lambda: [index.nearest(few[i : i + 1], COUNT) for i in range(len(few))], repeats
    )
    peer = f"faiss, compared with all: {exact:,.0f}/s"
    recall, quick_enough = found(rows, truth), rate
    note = told if world.hard else None
    bars = [
        told(f"{what}: recall@10", recall) if note else at_least(f"{what}: recall@10", recall, 0.95),
        told(f"{what}: queries/s", quick_enough, peer=peer)
        if note
        else at_least(f"{what}: queries/s", quick_enough, 500, peer=peer),
        at_most(f"{what}: bytes on disk, of the raw vectors'", on_disk / (n * DIM * 4), 0.25),
        told(f"{what}: queries/s, one at a time", alone),
        told(f"{what}: built in", built_s, unit="s"),
        told(f"{what}: peak memory to build, made-up vectors and mapped pages included", peak, unit="MB"),
    ]
    for effort in (0.5, 2.0):
        wide = found(index.nearest(queries, COUNT, effort=effort)[0], truth)
        wide_rate = n_queries / median_time(partial(index.nearest, queries, COUNT, effort=effort), 3)
        bars.append(told(f"{what}: recall@10 at effort {effort:g} ({wide_rate:,.0f} queries/s)", wide))
    return bars


def main() -> int:
    """Print the figures; return 1 where one misses its goal."""
    parser = arguments(__doc__)
    parser.add_argument("--n", type=int, help="how many vectors")
    parser.add_argument("--hard", action="store_true", help="also Gaussian noise")
    options = parser.parse_args()
    faiss.omp_set_num_threads(N_THREADS)
    n = options.n or (50_000 if options.quick else 1_000_000)
    bars: list[Bar] = []
    for hard in (False, True) if options.hard else (False,):
        with tempfile.TemporaryDirectory() as folder:
            bars += measure(
                World(hard=hard),
                n,
                Path(folder),
                n_queries=300 if options.quick else 1_000,
                repeats=3 if options.quick else 5,
            )
    return show("Search", bars, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
