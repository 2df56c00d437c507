"""How long it takes to analyze the labeling functions of a large label matrix, and to preview an edit of one.

python -m benchmarks.lf_analysis [--json] [--quick]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from benchmarks.bars import Bar, arguments, at_least, at_most, show, told
from benchmarks.label_speed import peak_mb
from manyeyes.lfs.analysis import summarize
from manyeyes.lfs.analysis_blocks import posterior
from manyeyes.lfs.analysis_pairs import compare_pairs
from manyeyes.lfs.analysis_preview import Preview
from manyeyes.lfs.base import VoteColumn
from manyeyes.models.pooled import OneCoin
from manyeyes.types import ABSTAIN, Votes, no_scores

N_LFS, N_CLASSES, ABSTAINS = 50, 4, 0.4
COPIES = {10: 0.3, 20: 0.1}
"""LF → how often it repeats LF 0 instead of judging by itself."""

Result = TypeVar("Result")


def made_up(n_items: int, *, rng: np.random.Generator) -> Votes:
    """Return hard votes of LFs that are right 55 to 90 times in 100 and err independently, but for two."""
    truth = rng.integers(0, N_CLASSES, n_items, dtype=np.int8)
    classes = np.empty((n_items, N_LFS), dtype=np.int8)
    for j, accuracy in enumerate(rng.uniform(0.55, 0.9, N_LFS)):
        wrong = (truth + rng.integers(1, N_CLASSES, n_items, dtype=np.int8)) % N_CLASSES
        classes[:, j] = np.where(rng.random(n_items, dtype=np.float32) < accuracy, truth, wrong)
        if j in COPIES:
            repeats = rng.random(n_items, dtype=np.float32) < COPIES[j]
            classes[repeats, j] = classes[repeats, 0]
    for j in range(N_LFS):
        classes[rng.random(n_items, dtype=np.float32) < ABSTAINS, j] = ABSTAIN
    return Votes.hard(classes, n_classes=N_CLASSES)


def best_s(work: Callable[[], Result], *, n_runs: int) -> tuple[float, Result]:
    """Return the best time of several in seconds, and what the work returned."""
    best = float("inf")
    for _ in range(n_runs):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


def pair_by_pair_s(votes: Votes, *, n_pairs: int) -> float:
    """Return how long a plain loop over pairs of columns takes to count agreement alone, for all pairs, in seconds."""
    start = time.perf_counter()
    for second in range(1, n_pairs + 1):
        first, other = votes.classes[:, 0], votes.classes[:, second]
        both = (first != ABSTAIN) & (other != ABSTAIN)
        _ = int(both.sum()), int((first[both] == other[both]).sum())
    return (time.perf_counter() - start) / n_pairs * (N_LFS * (N_LFS - 1) // 2)


def measure(*, quick: bool = False) -> list[Bar]:
    """Analyze made-up votes and preview an edit of them, with and without planted dependence found."""
    n, n_runs = (200_000, 1) if quick else (1_000_000, 3)
    rng = np.random.default_rng(0)
    votes = made_up(n, rng=rng)
    size = f"{n:,} × {N_LFS}"
    model = OneCoin().fit(votes.rows(slice(0, 20_000)))
    probs = posterior(model, votes)

    summary_s, _ = best_s(lambda: summarize(votes, probs=probs), n_runs=n_runs)
    pairs_s, pairs = best_s(lambda: compare_pairs(votes, probs=probs), n_runs=n_runs)
    left_out_s, _ = best_s(lambda: summarize(votes, probs=probs, label_model=model), n_runs=n_runs)
    made_s, preview = best_s(lambda: Preview(votes, model), n_runs=1)
    edited = votes.classes[:, 7].copy()
    changed = rng.random(n) < 0.2
    edited[changed] = rng.integers(ABSTAIN, N_CLASSES, int(changed.sum()))
    column = VoteColumn(edited, no_scores((n,)))
    edit_s, change = best_s(lambda: preview.edit(7, column), n_runs=n_runs)

    dependent = {(pair.first, pair.second) for pair in pairs.dependent()}
    planted = {("lf_0", "lf_10"), ("lf_0", "lf_20"), ("lf_10", "lf_20")}
    bars: list[Bar] = [
        at_most(
            f"{size}: summary, pairs, redundancy",
            summary_s + pairs_s,
            5,
            unit="s",
            peer=f"a loop over pairs, agreement alone: {pair_by_pair_s(votes, n_pairs=12):.1f} s",
        ),
        told(f"{size}: summary alone", summary_s, unit="s"),
        told(f"{size}: summary, each LF judged by the others", left_out_s, unit="s"),
        told(f"{size}: preparing previews", made_s, unit="s"),
        at_most(f"{size}: preview of an edit", edit_s, 1, unit="s", peer=f"{change.n_flips:,} labels flip"),
        at_most(f"{size}: peak memory of the process", peak_mb(), 1_500, unit="MB"),
        at_least(
            "pairs planted and found", len(dependent & planted), 2, peer=f"{len(planted)} are dependent"
        ),
        at_most("pairs found and not planted", len(dependent - planted), 1, peer="1,222 are independent"),
    ]
    return bars


def main() -> int:
    """Measure and print; return the exit code."""
    options = arguments(__doc__).parse_args()
    return show("LF analysis", measure(quick=options.quick), as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
