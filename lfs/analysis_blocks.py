"""What every analysis of a label matrix shares: blocks of rows over threads, sets of classes, accuracy without gold.

Nothing here loops over items. Work goes through blocks of rows that fit the caches, turned so that a column of votes is
contiguous, and a few threads share the blocks; a sum is the same however many threads there are.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from manyeyes.errors import InvalidRequest
from manyeyes.models.evidence import ACCURACY_OF_A_HARD_VOTE
from manyeyes.types import ABSTAIN, FloatArray, VoteArray, Votes

Mask = npt.NDArray[np.bool_]
Rows = slice | npt.NDArray[np.intp]
Part = TypeVar("Part")

SURE: Final = 1e-3
"""No vote is trusted further than this from certainty, as in the label models."""
PRIOR_VOTES: Final = 10.0
"""How many votes it is worth that a hard vote is right as often as label models take it to be at first."""

_SPANS: Final = 8
_ENOUGH: Final = 200_000  # votes for one accuracy: its standard error is then about 0.001
_BOUND: Final = math.log((1 - SURE) / SURE)


class FittedModel(Protocol):
    """The part of a fitted label model that an analysis needs; every ``manyeyes.models.base.LabelModel`` has it."""

    def log_posterior(self, votes: Votes) -> npt.NDArray[np.floating[Any]]:
        """Return the log-posterior, prior included and up to a constant a row: shape (n_items, n_classes), nats."""

    def evidence_of(self, votes: Votes, lf: int) -> npt.NDArray[np.floating[Any]]:
        """Return what one LF adds to the log-posterior: shape (n_items, n_classes), nats."""


def over_blocks(work: Callable[[Iterator[slice]], Part], n_items: int, *, size: int) -> list[Part]:
    """Call ``work`` on several runs of row blocks at once, one BLAS thread each; return what it returned, in order.

    work: takes the slices of one run, which cover consecutive rows. size: rows a block.
    """
    starts = list(range(0, n_items, size))
    per_run = max(1, -(-len(starts) // _SPANS))

    def run(first: int) -> Part:
        return work(slice(s, min(s + size, n_items)) for s in starts[first : first + per_run])

    n_threads = min(_SPANS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
    with (
        _thread_pools().limit(limits=1, user_api="blas"),
        ThreadPoolExecutor(max_workers=n_threads) as pool,
    ):
        return list(pool.map(run, range(0, len(starts), per_run)))


def kept_rows(n_items: int, errors: Collection[int]) -> npt.NDArray[np.intp] | None:
    """Return the rows without an error, or None where that is all of them. Raises InvalidRequest for a row outside."""
    if not errors:
        return None
    if min(errors) < 0 or max(errors) >= n_items:
        raise InvalidRequest(f"errors name rows 0 to {n_items - 1}, got {sorted(errors)[:3]}")
    kept = np.ones(n_items, dtype=np.bool_)
    kept[sorted(errors)] = False
    return np.flatnonzero(kept)


def checked_probs(probs: npt.NDArray[np.floating[Any]], votes: Votes) -> npt.NDArray[np.floating[Any]]:
    """Return the probabilities of a label model. Raises InvalidRequest unless they fit the votes."""
    if np.shape(probs) != (votes.n_items, votes.n_classes):
        raise InvalidRequest(
            f"probs has one row an item and one column a class, shape ({votes.n_items}, {votes.n_classes}), got"
            f" {np.shape(probs)}"
        )
    return probs


def checked_gold(
    gold: npt.NDArray[np.signedinteger[Any]], votes: Votes
) -> npt.NDArray[np.signedinteger[Any]]:
    """Return the gold labels. Raises InvalidRequest unless there is one an item, ABSTAIN or a class."""
    gold = np.asarray(gold)
    if gold.shape != (votes.n_items,):
        raise InvalidRequest(f"gold has one label an item, shape ({votes.n_items},), got {gold.shape}")
    if gold.size and (gold.min() < ABSTAIN or gold.max() >= votes.n_classes):
        raise InvalidRequest(
            f"a gold label is {ABSTAIN} (unknown) or a class index below {votes.n_classes}, got values from"
            f" {gold.min()} to {gold.max()}"
        )
    return gold


def members(votes: Votes) -> Mask:
    """Return which classes each vote stands for: bool, shape (n_values, n_classes); the classes, then the sets."""
    table = np.zeros((votes.n_classes + len(votes.sets), votes.n_classes), dtype=np.bool_)
    np.fill_diagonal(table, True)
    for row, classes in enumerate(votes.sets, start=votes.n_classes):
        table[row, list(classes)] = True
    return table


def compatible(table: Mask) -> Mask:
    """Return which votes can both be right, having a class in common: bool, shape (n_values, n_values)."""
    return (table.astype(np.float32) @ table.T.astype(np.float32)) > 0


def by_column(classes: VoteArray, rows: Rows) -> VoteArray:
    """Return some rows turned, a column of votes in one piece: shape (n_lfs, n_rows)."""
    return np.ascontiguousarray(classes[rows].T)


def count_votes(voted: Mask) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return how many LFs vote on each item. voted: shape (n_lfs, n_rows)."""
    narrow = np.uint8 if len(voted) < 256 else np.uint32
    counts: npt.NDArray[np.unsignedinteger[Any]] = np.add.reduce(voted.view(np.uint8), axis=0, dtype=narrow)
    return counts


def clashes(turned: VoteArray, table: Mask) -> Mask:
    """Return, for every possible vote and item, whether some vote on the item has no class in common with it.

    turned: votes by column, shape (n_lfs, n_rows). Returns bool, shape (n_values, n_rows).
    """
    present = np.stack([(turned == value).any(axis=0) for value in range(len(table))])
    apart = ~compatible(table)
    return (apart.astype(np.float32) @ present.astype(np.float32)) > 0


def disagreement(turned: VoteArray) -> Mask:
    """Return where two votes for single classes differ: bool, shape (n_rows,). turned: shape (n_lfs, n_rows), no sets.

    Where two differ, every voter has one that differs from its own.
    """
    if not len(turned):
        return np.zeros(turned.shape[1], dtype=np.bool_)
    # Seen as unsigned, ABSTAIN is the largest number and never the lowest vote.
    unsigned = turned.view(np.dtype(f"u{turned.dtype.itemsize}"))
    lowest, highest = np.minimum.reduce(unsigned, axis=0), np.maximum.reduce(turned, axis=0)
    differ: Mask = lowest != highest.view(unsigned.dtype)
    return differ


def odds_for(
    logits: npt.NDArray[np.floating[Any]], vote: VoteArray, table: Mask
) -> npt.NDArray[np.floating[Any]]:
    """Return the log-odds that a vote is right, above those of a vote thrown at random: shape (n_rows,), nats.

    logits: log-posterior without the LF's own evidence, shape (n_classes, n_rows). vote: values, shape (n_rows,).
    For a class it is ``log(q (k - 1) / (1 - q))``, for a set of s classes ``log(q (k - s) / ((1 - q) s))``.
    """
    weight = np.exp(logits - logits.max(axis=0))
    total = weight.sum(axis=0)
    if len(table) > len(weight):
        weight = np.concatenate([weight, table[len(weight) :].astype(weight.dtype) @ weight])
    mass = np.take_along_axis(weight, vote[None].astype(np.intp), axis=0)[0]
    tiny = total * 1e-6
    return np.asarray(
        np.log(np.maximum(mass, tiny) / np.maximum(total - mass, tiny)) + chance(table)[vote],
        dtype=logits.dtype,
    )


def chance(table: Mask) -> FloatArray:
    """Return ``log((k - s) / s)`` for a vote for s of k classes: float32, shape (n_values,), nats.

    Added to the log-odds of an accuracy it gives the evidence of a vote, which is 0 for a vote thrown at random.
    """
    size, k = table.sum(axis=1), table.shape[1]
    return np.asarray(np.log(np.maximum(k - size, 1e-9) / size), dtype=np.float32)


def log_odds_of_accuracy(
    others: npt.NDArray[np.floating[Any]], scores: npt.NDArray[np.floating[Any]] | None = None
) -> float:
    """Return the offset o at which votes that are right with probability ``sigmoid(o + score)`` fit best, in nats.

    others: what all other LFs say of each vote, as ``odds_for`` gives it, shape (n_votes,). scores: log-odds of the
    votes' own scores, shape (n_votes,), or None where all are hard; then ``sigmoid(o)`` is the LF's accuracy.
    The likelihood of a vote is ``a e^others + 1 - a``, up to a factor that does not depend on a; a prior worth ten
    votes stands at the accuracy of a hard vote (0.7), or at offset 0 for scored votes. At most 200,000 votes are used,
    evenly spread.

    Source: Dawid & Skene 1979, the M-step of one LF with the posterior of the others held, solved to its end.

    >>> from math import exp
    >>> offset = log_odds_of_accuracy(np.array([9.0] * 900 + [-9.0] * 100))
    >>> round(1 / (1 + exp(-offset)), 2)
    0.9
    """
    step = max(1, len(others) // _ENOUGH)
    others = others[::step]
    own = None if scores is None else scores[::step]
    centre = 0.0 if scores is not None else math.log(ACCURACY_OF_A_HARD_VOTE / (1 - ACCURACY_OF_A_HARD_VOTE))
    strength = PRIOR_VOTES * ACCURACY_OF_A_HARD_VOTE * (1 - ACCURACY_OF_A_HARD_VOTE)

    def gradient(offset: float) -> float:
        base = np.float32(offset) if own is None else own + np.float32(offset)
        right = sigmoid(others + base).sum(dtype=np.float64)
        expected = sigmoid(base).sum(dtype=np.float64) if own is not None else len(others) * sigmoid(base)
        return float(right - expected) - strength * (offset - centre)

    low, high = -_BOUND, _BOUND
    if gradient(low) <= 0:
        return low
    if gradient(high) >= 0:
        return high
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if gradient(middle) > 0 else (low, middle)
    return (low + high) / 2


def accuracy_at(offset: float, scores: FloatArray | None) -> float:
    """Return how often votes are right at an offset: the mean of ``sigmoid(offset + score)``, or of none if hard."""
    return float(np.mean(sigmoid(offset if scores is None else scores + offset)))


def score_logits(scores: FloatArray) -> FloatArray | None:
    """Return the log-odds of the scores of one LF's votes, 0 for a hard one; None where all are hard."""
    hard = np.isnan(scores)
    if hard.all():
        return None
    sure = np.clip(scores, SURE, 1 - SURE)
    return np.asarray(np.where(hard, 0.0, np.log(sure) - np.log1p(-sure)), dtype=np.float32)


def log_posterior(label_model: FittedModel, votes: Votes) -> FloatArray:
    """Return a label model's log-posterior, block by block, at most 0 a row: float32, shape (n_items, n_classes)."""
    logits = np.empty((votes.n_items, votes.n_classes), dtype=np.float32)

    def fill(run: Iterator[slice]) -> None:
        for block in run:
            found = label_model.log_posterior(votes.rows(block))
            logits[block] = found - found.max(axis=1, keepdims=True)

    over_blocks(fill, votes.n_items, size=65_536)
    return logits


def posterior(label_model: FittedModel, votes: Votes) -> FloatArray:
    """Return a label model's probabilities: float32, shape (n_items, n_classes)."""
    probs = np.exp(log_posterior(label_model, votes))
    probs /= probs.sum(axis=1, keepdims=True)
    return probs


def evidence_table(label_model: FittedModel, votes: Votes, lf: int) -> FloatArray | None:
    """Return what each vote of an LF adds, if that hangs on the vote alone: float32, shape (n_values + 1, n_classes).

    The last row is that of ABSTAIN. A label model need not say it of a million items then. It is tried on up to a
    thousand items a vote, evenly spread; None where they differ, or where votes have scores.
    """
    if not votes.is_hard:
        return None
    column = np.ascontiguousarray(votes.classes[:, lf])
    samples = []
    for value in range(ABSTAIN, votes.n_values):
        rows = np.flatnonzero(column == value)
        samples.append(rows[:: max(1, len(rows) // 512)])
    tried = np.concatenate(samples)
    evidence = np.asarray(label_model.evidence_of(votes.rows(tried), lf), dtype=np.float32)
    table = np.zeros((votes.n_values + 1, votes.n_classes), dtype=np.float32)
    table[column[tried]] = evidence
    return table if np.allclose(table[column[tried]], evidence, rtol=1e-5, atol=1e-6) else None


def sigmoid(x: Any) -> Any:
    """Return the probability with these log-odds."""
    return 1 / (1 + np.exp(-x))


@cache
def _thread_pools() -> ThreadpoolController:
    return ThreadpoolController()
