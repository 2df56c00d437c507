"""What fifty known labels are worth: whether probabilities mean what they say, and precision is what was asked for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.bars import Bar, at_least, at_most, told
from benchmarks.label_tasks import REAL, Gold, Source, Task
from manyeyes.fitting import nothing_said
from manyeyes.models.auto import Auto
from manyeyes.models.calibration import expected_calibration_error
from manyeyes.models.conformal import out_of_fold, threshold_for_precision
from manyeyes.types import ABSTAIN, FloatArray, Votes

N_GOLD, N_DRAWS = 50, 10
PRECISION = 0.95


class Pool(NamedTuple):
    """What is fitted, where known labels may be drawn from, and where the result is measured.

    may_know, measured: bool, shape (n_items,); drawn items are never measured.
    """

    votes: Votes
    gold: Gold
    embeddings: FloatArray | None
    may_know: npt.NDArray[np.bool_]
    measured: npt.NDArray[np.bool_]


class Drawn(NamedTuple):
    """The figures of one draw of known labels. precision: NaN where nothing is kept."""

    ece: float
    debiased: float
    precision: float
    coverage: float
    accuracy: float


def calibration_bars(source: Source, *, n_draws: int = N_DRAWS) -> list[Bar]:
    """Calibration and precision on photographs and on comments."""
    clothing, youtube = REAL["clothing"](source), REAL["youtube"](source)
    assert isinstance(clothing, Task) and isinstance(youtube, Task)
    # The starter CLIP was trained on the photographs of clothing_train, so that its votes there are better than on new
    # ones, and labels known there would promise too much. Known labels must be of the kind of items to be labeled: here
    # the validation photographs.
    bars = _bars("clothing", pool(clothing, known_in="score"), n_draws)
    bars += _bars("youtube", pool(youtube, known_in="fit"), n_draws)
    bars += _told("clothing, gold where CLIP was trained", pool(clothing, known_in="fit"), n_draws)
    near = pool(youtube, known_in="fit", embeddings=True)
    return bars + _told("youtube, with embeddings", near, n_draws)


def pool(task: Task, *, known_in: str, embeddings: bool = False) -> Pool:
    """Return the items of a task, fitted together where labels are known among the scored ones.

    known_in: "fit" or "score".
    """
    together = Votes.concatenate([task.fit, task.score])
    scored = np.arange(together.n_items) >= task.fit.n_items
    vectors = None
    if embeddings and task.embeddings_fit is not None and task.embeddings_score is not None:
        vectors = np.concatenate([task.embeddings_fit, task.embeddings_score])
    gold = np.concatenate([task.gold_fit, task.gold_score])
    return Pool(together, gold, vectors, scored if known_in == "score" else ~scored, scored)


def draw(pool: Pool, seed: int) -> Drawn:
    """Fit ``auto`` with fifty labels drawn at random, and measure it on the other items."""
    rng = np.random.default_rng(seed)
    judged = rng.choice(np.flatnonzero(pool.may_know), N_GOLD, replace=False)
    known = np.full(pool.votes.n_items, ABSTAIN, dtype=np.int64)
    known[judged] = pool.gold[judged]
    model = Auto().fit(pool.votes, known, pool.embeddings)

    rest = np.flatnonzero(pool.measured & (known == ABSTAIN))
    gold = pool.gold[rest]
    probs = model.predict_proba(
        pool.votes.rows(rest), None if pool.embeddings is None else pool.embeddings[rest]
    )
    right = probs.argmax(axis=1) == gold

    # As a recipe does: items of which nothing is said get no label and do not count.
    judged = np.flatnonzero(known != ABSTAIN)
    honest = out_of_fold(model, pool.votes, known, pool.embeddings)
    spoken = ~_silent(model, pool, judged, honest)
    threshold = threshold_for_precision(
        honest.max(axis=1)[spoken], honest.argmax(axis=1)[spoken] == known[judged][spoken], PRECISION
    )
    kept = (probs.max(axis=1) >= float(threshold)) & ~_silent(model, pool, rest, probs)
    return Drawn(
        ece=expected_calibration_error(probs, gold),
        debiased=expected_calibration_error(probs, gold, debias=True),
        precision=float(right[kept].mean()) if kept.any() else math.nan,
        coverage=float(kept.mean()),
        accuracy=float(right.mean()),
    )


def _silent(model: Auto, pool: Pool, rows: npt.NDArray[np.intp], probs: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which of some rows nothing is said of: bool, shape (n_rows,)."""
    vectors = None if pool.embeddings is None else pool.embeddings[rows]
    return nothing_said(model, pool.votes.rows(rows), vectors, probs)


def _drawn(pool: Pool, n_draws: int) -> tuple[Callable[[str], float], str]:
    """Return what gives the median of a figure over draws, and how many of them keep anything."""
    found = [draw(pool, seed) for seed in range(n_draws)]

    def median(figure: str) -> float:
        values = [getattr(one, figure) for one in found]
        real = [value for value in values if not math.isnan(value)]
        return statistics.median(real) if real else math.nan

    least = min((one.precision for one in found if not math.isnan(one.precision)), default=math.nan)
    keeping = sum(not math.isnan(one.precision) for one in found)
    return median, f"{keeping} of {n_draws} draws keep labels; the worst {least:.3f}"


def _bars(name: str, pool: Pool, n_draws: int) -> list[Bar]:
    median, keeping = _drawn(pool, n_draws)
    what = f"calibration: {name}"
    return [
        at_most(
            f"{what}: ECE with {N_GOLD} known labels",
            median("ece"),
            0.05,
            peer=f"{median('debiased'):.3f} less what sampling adds; accuracy {median('accuracy'):.3f}",
        ),
        at_least(f"{what}: precision where {PRECISION} is wanted", median("precision"), 0.93, peer=keeping),
        told(f"{what}: share of items then labeled", median("coverage")),
    ]


def _told(name: str, pool: Pool, n_draws: int) -> list[Bar]:
    median, keeping = _drawn(pool, n_draws)
    what = f"calibration: {name}"
    return [
        told(f"{what}: ECE", median("ece"), peer=f"{median('debiased'):.3f} less what sampling adds"),
        told(f"{what}: precision where {PRECISION} is wanted", median("precision"), peer=keeping),
        told(f"{what}: share of items then labeled", median("coverage")),
    ]
