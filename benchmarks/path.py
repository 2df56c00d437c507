"""The whole path, measured: labels of a real recipe, relabelling from the cache, and the same labels by three ways in.

python -m benchmarks.path [--json] [--quick]
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.bars import Bar, arguments, at_least, at_most, show, unpack
from manyeyes import Client, Item, Labeler, Labels, Recipe
from manyeyes.sinks import read_labels
from manyeyes.types import ABSTAIN

GARMENTS = Path(__file__).resolve().parents[1] / "examples" / "garments.yaml"


def photos(folder: Path) -> list[Item]:
    """Return one item a photo under a folder, named by its path, so that the class folder is its gold label."""
    return [Item(path.relative_to(folder).as_posix(), image=path) for path in sorted(folder.rglob("*.jpg"))]


def gold_of(items: list[Item], classes: tuple[str, ...]) -> np.ndarray:
    """Return the class index of every item, read off its folder: int, shape (n_items,)."""
    return np.array([classes.index(item.id.partition("/")[0]) for item in items])


def accuracy_bars(labels: Labels, gold: np.ndarray) -> list[Bar]:
    """Fused accuracy over all items (an abstention is wrong) against the best single LF, and coverage."""
    fused = float((labels.label == gold).mean())
    votes = labels.votes.classes
    single = {name: float((votes[:, j] == gold).mean()) for j, name in enumerate(labels.votes.lf_names)}
    best = max(single, key=lambda name: single[name])
    return [
        at_least("garments: fused accuracy", fused, 0.75),
        at_least(
            "garments: fused minus best LF",
            fused - single[best],
            -0.01,
            peer=f"{best} alone: {single[best]:.4f}",
        ),
        at_least("garments: coverage", float((labels.label != ABSTAIN).mean()), 0.95),
    ]


def with_lf(recipe: Recipe, darkness: float) -> Recipe:
    """Return a recipe with one labeling function more."""
    told = recipe.model_dump(mode="json")
    dark = {"name": "dark", "kind": "metadata", "when": f"brightness < {darkness:g}", "vote": "outwear"}
    return Recipe.parse({**told, "lfs": [*told["lfs"], dark]})


def relabel_bars(recipe: Recipe, items: list[Item]) -> list[Bar]:
    """Adding an LF over cached features: forward passes made, and items labeled in a second (medians of five).

    Once from the cache on disk, as a new process does, and once over a ``Collection``, as one does who edits.
    """
    Labeler(recipe).label(items)
    edited = with_lf(recipe, 0.2)
    many = [replace(item, id=f"{copy}/{item.id}") for copy in range(10) for item in items]
    from_disk, held, passes = [], [], 0
    for _ in range(5):
        labeler = Labeler(edited)
        before = labeler.counter.total
        start = time.perf_counter()
        labeler.label(items)
        from_disk.append(time.perf_counter() - start)
        passes += labeler.counter.total - before
    seen = Labeler(recipe).see(many)
    Labeler(recipe).label(seen)
    for attempt in range(5):
        labeler = Labeler(with_lf(recipe, 0.1 + attempt / 100))
        start = time.perf_counter()
        labeler.label(seen)
        held.append(time.perf_counter() - start)
    return [
        at_most("relabel: forward passes", passes, 0),
        at_least("relabel: items/s on cached features", len(items) / statistics.median(from_disk), 20_000),
        at_least("relabel: items/s on features held", len(many) / statistics.median(held), 200_000),
    ]


@contextmanager
def serving(recipes: Path) -> Iterator[str]:
    """Run the service in a process of its own on a free port of this machine; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "manyeyes.cli", "serve", "--port", str(port), "--recipes", str(recipes)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        with Client(address) as client:
            deadline = time.monotonic() + 120
            while not client.healthy():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the service did not come up")
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def parity_bars(recipe: Recipe, folder: Path, items: list[Item], scratch: Path) -> list[Bar]:
    """The same items by CLI, Labeler and SDK → HTTP, each with a cache of its own: rows that differ in any bit."""

    def rows(labels: object) -> dict[str, dict[str, object]]:
        return {label.id: label.to_dict() for label in labels}  # type: ignore[attr-defined]

    by_labeler = rows(Labeler(recipe).label(items))

    out = scratch / "labels.parquet"
    environment = {**os.environ, "MANYEYES_HOME": str(scratch / "cli-home")}
    subprocess.run(
        [
            sys.executable,
            "-m",
            "manyeyes.cli",
            "label",
            str(folder),
            "--recipe",
            str(GARMENTS),
            "--out",
            str(out),
        ],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    by_cli = rows(read_labels(out))

    os.environ["MANYEYES_HOME"] = str(scratch / "service-home")
    with serving(GARMENTS.parent) as address, Client(address, timeout_s=600) as client:
        by_http = rows(client.label(items, recipe=recipe.name))

    def differing(other: dict[str, dict[str, object]]) -> int:
        return sum(by_labeler.get(item_id) != row for item_id, row in other.items()) + abs(
            len(other) - len(by_labeler)
        )

    return [
        at_most(
            "parity: rows that differ, CLI and Labeler", differing(by_cli), 0, peer=f"{len(items)} items"
        ),
        at_most(
            "parity: rows that differ, SDK → HTTP and Labeler",
            differing(by_http),
            0,
            peer=f"{len(items)} items",
        ),
    ]


def main() -> int:
    """Measure and print; return the exit code."""
    options = arguments(__doc__).parse_args()
    recipe = Recipe.load(GARMENTS)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        os.environ["MANYEYES_HOME"] = str(scratch / "home")
        clothing = unpack(
            options.data / "clothing_validation.zip",
            scratch / "clothing",
            per_class=6 if options.quick else None,
        )
        items = photos(clothing)
        bars = accuracy_bars(Labeler(recipe).label(items), gold_of(items, tuple(recipe.classes)))
        few = unpack(
            options.data / "clothing_validation.zip", scratch / "few", per_class=5 if options.quick else 40
        )
        bars += parity_bars(recipe, few, photos(few), scratch)
        os.environ["MANYEYES_HOME"] = str(scratch / "home")
        # Ten names a photograph: no chunk holds a content twice, so every one of its features is read from the cache.
        archive = options.data / "cifar10_test.zip"
        small = photos(unpack(archive, scratch / "cifar", per_class=52 if options.quick else 200))
        bars += relabel_bars(
            recipe, [Item(f"{copy}/{item.id}", image=item.image) for copy in range(10) for item in small]
        )
    return show("The whole path", bars, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
