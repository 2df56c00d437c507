"""Labeling functions, measured: eight of them over 10,000 items whose features are there, and a recipe of 100 read.

python -m benchmarks.labeling_functions [--json] [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.bars import Bar, arguments, at_most, show
from manyeyes import Item, Recipe
from manyeyes.lfs.build import build_lfs, collect_votes
from manyeyes.primitives.base import Features, FeatureSet

LABELS = ("person", "dog", "hat", "bus")
WORDS = [
    "red",
    "green",
    "hat",
    "gown",
    "dress",
    "lovely",
    "summer",
    "cotton",
    "wool",
    "size",
    "brand",
    "new",
    "old",
    "shirt",
    "shoes",
]
DIM = 384

LFS: list[dict[str, Any]] = [
    {
        "kind": "prompt",
        "prompts": {"dress": ["dress", "gown"], "hat": "hat"},
        "against": "room",
        "threshold": 0.3,
    },
    {"kind": "prompt", "on": "text", "prompts": {"dress": ["dress", "gown"], "hat": "hat"}, "pool": "max"},
    {"kind": "detect", "when": "count(person) >= 1 and area(person) > 0.2", "vote": "dress"},
    {"kind": "detect", "when": "left_of(person, dog) or overlap(person, hat) > 0.5", "vote": "hat"},
    {"kind": "keyword", "any": ["hat", "cap", "beanie"], "vote": "hat"},
    {"kind": "keyword", "votes": {"hat": ["hat", "cap"], "dress": ["gown", "summer dress"]}},
    {"kind": "metadata", "when": "brand == 'Hatters' or price < 10", "vote": "hat"},
    {"kind": "metadata", "when": "contains(lower(text), 'gown') and price > 3", "vote": "dress"},
]


class Directions:
    """A context that gives every prompt a direction of its own."""

    def encode(self, primitive: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return unit(np.random.default_rng(len(texts)), len(texts))

    def embed(self, feature: str, items: Sequence[Item]) -> npt.NDArray[np.float32]:
        return unit(np.random.default_rng(len(items)), len(items))

    def info(self, primitive: str) -> Mapping[str, Any]:
        return {"names": LABELS, "logit_scale": 20.0}


def unit(rng: np.random.Generator, n: int) -> npt.NDArray[np.float32]:
    """Return n unit vectors: float32, shape (n, DIM)."""
    vectors = rng.normal(size=(n, DIM))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def made_up(n: int) -> FeatureSet:
    """Return items with texts, metadata, boxes and embeddings."""
    rng = np.random.default_rng(0)
    items = [
        Item(
            f"{i}.jpg",
            text=" ".join(rng.choice(WORDS, 8)),
            metadata={"brand": str(rng.choice(["Hatters", "Other"])), "price": float(rng.integers(1, 100))},
        )
        for i in range(n)
    ]
    counts = rng.integers(0, 6, size=n)
    boxes = np.zeros(
        counts.sum(),
        dtype=[("box", "<f4", (4,)), ("fraction", "<f4", (4,)), ("label", "<i2"), ("score", "<f4")],
    )
    corners = np.sort(rng.uniform(size=(len(boxes), 2, 2)), axis=1).reshape(-1, 4)
    boxes["fraction"], boxes["box"] = corners, corners * 640
    boxes["label"], boxes["score"] = rng.integers(0, len(LABELS), size=len(boxes)), 0.8
    here = np.ones(n, dtype=np.bool_)
    blocks = {"detector": Features(boxes, here, np.concatenate([[0], np.cumsum(counts)]), {"names": LABELS})}
    for name in ("clip", "text"):
        rows = np.zeros(n, dtype=[("embedding", "<f4", (DIM,))])
        rows["embedding"] = unit(rng, n)
        blocks[name] = Features(rows, here)
    return FeatureSet(items, blocks)


def recipe(n_lfs: int) -> Recipe:
    """Return a recipe of that many LFs, of all the kinds above in turn."""
    lfs = [{"name": f"lf_{i}", **LFS[i % len(LFS)]} for i in range(n_lfs)]
    return Recipe.parse({"name": "bench", "classes": ["dress", "hat"], "lfs": lfs})


def best_of(repeats: int, call: Callable[[], object]) -> float:
    """Return the least CPU time of some calls, in seconds of this thread: what else runs here does not count."""
    times = []
    for _ in range(repeats):
        before = time.thread_time()
        call()
        times.append(time.thread_time() - before)
    return min(times)


def main() -> int:
    """Print the figures; return 1 where one misses its goal."""
    options = arguments(__doc__).parse_args()
    repeats = 3 if options.quick else 7
    features, lfs = made_up(10_000), build_lfs(recipe(len(LFS)))
    for lf in lfs:
        lf.prepare(Directions())
    text = recipe(100).to_yaml()
    bars: list[Bar] = [
        at_most(
            "eight LFs vote on 10,000 items",
            best_of(repeats, lambda: collect_votes(lfs, features, ("dress", "hat"))),
            0.1,
            unit="s of CPU",
        ),
        at_most(
            "a recipe of 100 LFs is read", best_of(repeats, lambda: Recipe.parse(text)), 1.0, unit="s of CPU"
        ),
    ]
    return show("Labeling functions", bars, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
