"""How fast label models are, and in how much memory: a million items beside Snorkel, ten million as a stream.

Every measurement runs in a process of its own, ``python -m benchmarks.label_speed``, for its peak memory to be its own.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bars import Bar, at_least, at_most, told
from manyeyes.models.base import LabelModel
from manyeyes.models.observed import sample
from manyeyes.registry import load
from manyeyes.types import ABSTAIN, Votes

OURS = ("auto", "dependency_aware")
COVERAGE = 0.6
BLOCK = 250_000
N_REPEATS = 3
SIZES = {"usual": 1_000_000, "quick": 100_000}
LONG = {"usual": 10_000_000, "quick": 1_000_000}


def blocks(n_items: int, n_lfs: int, k: int) -> Iterator[tuple[Votes, np.ndarray]]:
    """Yield made-up votes and their truth block by block, the same each time: LFs right 50 to 90 times in 100."""
    accuracies = np.random.default_rng(0).uniform(0.5, 0.9, n_lfs)
    for start in range(0, n_items, BLOCK):
        rng = np.random.default_rng((1, start))
        n = min(BLOCK, n_items - start)
        truth = rng.integers(0, k, n, dtype=np.int8)
        classes = np.empty((n, n_lfs), dtype=np.int8)
        for j, accuracy in enumerate(accuracies):
            wrong = (truth + rng.integers(1, k, n, dtype=np.int8)) % k
            vote = np.where(rng.random(n, dtype=np.float32) < accuracy, truth, wrong)
            vote[rng.random(n, dtype=np.float32) >= COVERAGE] = ABSTAIN
            classes[:, j] = vote
        yield Votes.hard(classes, n_classes=k), truth


def made_up(n_items: int, n_lfs: int, k: int) -> tuple[Votes, np.ndarray]:
    """Return all blocks in one: votes, and the truth, int8, shape (n_items,)."""
    classes, truth = np.empty((n_items, n_lfs), dtype=np.int8), np.empty(n_items, dtype=np.int8)
    for i, (votes, gold) in enumerate(blocks(n_items, n_lfs, k)):
        classes[i * BLOCK : (i + 1) * BLOCK], truth[i * BLOCK : (i + 1) * BLOCK] = votes.classes, gold
    return Votes.hard(classes, n_classes=k), truth


def peak_mb() -> float:
    """Return the most memory that this process ever held, in MB.

    The kernel's own figure for processes would begin at what the parent held when it started this one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# --- what runs in a process of its own -------------------------------------------------------------------------------


def fit_and_predict(model: str, file: Path, k: int) -> dict[str, float]:
    """Fit a label model on votes in a file and predict them; "snorkel" is Snorkel's with its own settings."""
    with np.load(file) as kept:
        classes, truth = kept["classes"], kept["truth"]
    if model == "snorkel":
        theirs = importlib.import_module("snorkel.labeling.model").LabelModel(cardinality=k, verbose=False)
        # Narrow integers give it the same figures in less memory.
        start = time.perf_counter()
        theirs.fit(classes, seed=0, progress_bar=False)
        fitted = time.perf_counter()
        probs = theirs.predict_proba(classes)
    else:
        ours: LabelModel = load("manyeyes.label_models", model)()
        start = time.perf_counter()
        votes = Votes.hard(classes, n_classes=k)
        ours.fit(votes)
        fitted = time.perf_counter()
        probs = ours.predict_proba(votes)
    done = time.perf_counter()
    return {
        "fit_s": fitted - start,
        "predict_s": done - fitted,
        "s": done - start,
        "peak_mb": peak_mb(),
        "accuracy": float((probs.argmax(axis=1) == truth).mean()),
    }


def stream(n_items: int, n_lfs: int, k: int) -> dict[str, float]:
    """Fit on a sample of a stream of votes, then predict block by block; no two blocks are held at once."""
    start = time.perf_counter()
    model: LabelModel = load("manyeyes.label_models", "auto")()
    model.fit(sample(votes for votes, _ in blocks(n_items, n_lfs, k)))
    right, predict_s = 0, 0.0
    for votes, truth in blocks(n_items, n_lfs, k):
        begin = time.perf_counter()
        probs = model.predict_proba(votes)
        predict_s += time.perf_counter() - begin
        right += int((probs.argmax(axis=1) == truth).sum())
    return {
        "s": time.perf_counter() - start,
        "predict_s": predict_s,
        "peak_mb": peak_mb(),
        "accuracy": right / n_items,
    }


def growth(n_items: int, n_lfs: int, k: int) -> dict[str, float]:
    """Time predictions of some items and of twice as many, one after the other: medians of five, in seconds."""
    votes, _ = made_up(2 * n_items, n_lfs, k)
    once = votes.rows(slice(0, n_items))
    model: LabelModel = load("manyeyes.label_models", "auto")().fit(once)
    seconds: dict[str, list[float]] = {"once": [], "twice": []}
    for _ in range(5):
        for name, asked in (("once", once), ("twice", votes)):
            start = time.perf_counter()
            model.predict_proba(asked)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def main() -> int:
    """Run one measurement and print it as JSON; return 0."""
    parser = argparse.ArgumentParser(description="One measurement, printed as JSON.")
    parser.add_argument("what", help="a label model, or snorkel, stream, growth")
    parser.add_argument("--file", type=Path)
    parser.add_argument("--items", type=int, default=0)
    parser.add_argument("--lfs", type=int, default=0)
    parser.add_argument("--classes", type=int, required=True)
    options = parser.parse_args()
    if options.what == "stream":
        found = stream(options.items, options.lfs, options.classes)
    elif options.what == "growth":
        found = growth(options.items, options.lfs, options.classes)
    else:
        found = fit_and_predict(options.what, options.file, options.classes)
    print(json.dumps(found))
    return 0


# --- what starts them ------------------------------------------------------------------------------------------------


def alone(what: str, **options: object) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.label_speed", what, *words],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def speed_bars(*, quick: bool = False) -> list[Bar]:
    """Time, memory and accuracy beside Snorkel; a stream; and how time grows with items."""
    size = "quick" if quick else "usual"
    bars = [bar for k in (10, 2) for bar in beside_snorkel(SIZES[size], 20, k, quick=quick)]

    n, n_lfs, k = LONG[size], 50, 4
    streamed = alone("stream", items=n, lfs=n_lfs, classes=k)
    bars += [
        at_most(
            f"stream of {n:,} × {n_lfs}, k={k}: peak memory",
            streamed["peak_mb"],
            4_000,
            unit="MB",
            peer=f"accuracy {streamed['accuracy']:.4f}",
        ),
        told(f"stream of {n:,} × {n_lfs}, k={k}: predicting", streamed["predict_s"], unit="s"),
        told(f"stream of {n:,} × {n_lfs}, k={k}: drawn twice, fitted, predicted", streamed["s"], unit="s"),
    ]
    grown = alone("growth", items=SIZES[size], lfs=20, classes=10)
    bars.append(
        at_most(
            f"twice {SIZES[size]:,} × 20, k=10: time to predict, of that of once",
            grown["twice"] / grown["once"],
            2.4,
            unit="×",
            peer=f"{grown['once']:.2f} s and {grown['twice']:.2f} s",
        )
    )
    return bars


def beside_snorkel(n_items: int, n_lfs: int, k: int, *, quick: bool) -> list[Bar]:
    """Fit and predict with ours and with Snorkel in turn, three times each; figures are medians."""
    # Snorkel's time depends on what else uses the memory: one run would say little.
    has_snorkel = importlib.util.find_spec("snorkel") is not None
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in (*OURS, *["snorkel"] * has_snorkel)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "votes.npz"
        votes, truth = made_up(n_items, n_lfs, k)
        np.savez(file, classes=votes.classes, truth=truth)
        del votes
        for _ in range(1 if quick else N_REPEATS):
            for name, runs in found.items():
                runs.append(alone(name, file=file, classes=k))

    def median(name: str, figure: str) -> float:
        return float(statistics.median(one[figure] for one in found[name]))

    what = f"{n_items:,} × {n_lfs}, k={k}"
    bars = []
    for name in OURS:
        seconds, memory = median(name, "s"), median(name, "peak_mb")
        ours = (
            f"fit {median(name, 'fit_s'):.2f} s, predict {median(name, 'predict_s'):.2f} s, {memory:.0f} MB"
        )
        if not has_snorkel:
            bars.append(told(f"{what}: {name}", seconds, unit="s", peer=ours))
            continue
        their_s = sorted(one["s"] for one in found["snorkel"])
        theirs = (
            f"Snorkel: {median('snorkel', 's'):.1f} s ({their_s[0]:.1f} to {their_s[-1]:.1f}),"
            f" {median('snorkel', 'peak_mb'):,.0f} MB"
        )
        ratio, part = median("snorkel", "s") / seconds, memory / median("snorkel", "peak_mb")
        # Of few items, what a process needs anyway decides.
        bars += [
            told(f"{what}: {name}: times as fast", ratio, unit="×", peer=f"{ours}; {theirs}")
            if quick
            else at_least(f"{what}: {name}: times as fast", ratio, 30, unit="×", peer=f"{ours}; {theirs}"),
            told(f"{what}: {name}: peak memory, of Snorkel's", part, unit="×")
            if quick
            else at_most(f"{what}: {name}: peak memory, of Snorkel's", part, 0.2, unit="×"),
            at_least(
                f"{what}: {name}: accuracy minus Snorkel's",
                median(name, "accuracy") - median("snorkel", "accuracy"),
                -0.001,
                peer=f"{median(name, 'accuracy'):.4f} and {median('snorkel', 'accuracy'):.4f}",
            ),
        ]
    return bars


if __name__ == "__main__":
    raise SystemExit(main())
