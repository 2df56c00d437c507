"""Which labeling functions hang together: agreement beyond what independent ones would show, redundancy, copies."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.lfs.analysis_blocks import (
    Mask,
    by_column,
    checked_gold,
    checked_probs,
    compatible,
    kept_rows,
    members,
    over_blocks,
)
from manyeyes.types import ABSTAIN, Votes

Matrix = npt.NDArray[np.float64]

SIGNIFICANT: Final = 4.0
"""From this z on a dependency is taken for real: 1,225 pairs of independent LFs show one by chance once in 25 times."""
COPY: Final = 0.95
"""Two LFs are near-copies if they vote alike on this share of the items on which either votes."""

FEW: Final = 20
"""LFs with fewer votes alike are not called copies."""

_BLOCK: Final = 4_096
_NEVER: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Pair:
    """Two labeling functions. Shares are in [0, 1]; None where they never vote on the same item, or say nothing.

    both: on how many items both vote. co_coverage: the share of all items. same: on how many they vote identically.
    agreement: the share of ``both`` on which they have a class in common. expected: that share for two LFs that err
    independently of each other. excess: agreement - expected.
    dependence: excess / (1 - expected); 1 for copies, 0 for independent LFs. z: excess in standard errors.
    together: how many times as often they make the same mistake as independent LFs of their accuracies would; None
    without probabilities or gold.
    """

    first: str
    second: str
    both: int
    co_coverage: float
    same: int
    agreement: float | None
    expected: float | None
    excess: float | None
    dependence: float | None
    z: float | None
    together: float | None

    @property
    def dependent(self) -> bool:
        """Whether they agree more than chance explains: z of 4 or more."""
        return self.z is not None and self.z >= SIGNIFICANT


@dataclass(frozen=True, slots=True)
class Redundancy:
    """How much of one LF another single one already says. share: of its votes that ``of`` gives identically, the most
    that any other does, in [0, 1]; ``of`` is None where no other LF gives one of them."""

    name: str
    of: str | None
    share: float


@dataclass(frozen=True, slots=True)
class PairsSummary:
    """All pairs of labeling functions on some items, in the order of the columns.

    given_class: whether agreement is judged given the class, with probabilities or gold; else against chance alone.
    redundancy: one entry an LF. copies: groups of LFs, each a near-copy of another of its group, two or more a group.
    """

    n_items: int
    given_class: bool
    pairs: tuple[Pair, ...]
    redundancy: tuple[Redundancy, ...]
    copies: tuple[tuple[str, ...], ...]

    def dependent(self) -> tuple[Pair, ...]:
        """Return the pairs that are not independent beyond doubt, the strongest dependence first."""
        found = [pair for pair in self.pairs if pair.dependent]
        return tuple(sorted(found, key=lambda pair: -(pair.dependence or 0.0)))


def compare_pairs(
    votes: Votes,
    *,
    probs: npt.NDArray[np.floating[Any]] | None = None,
    gold: npt.NDArray[np.signedinteger[Any]] | None = None,
    errors: Collection[int] = (),
) -> PairsSummary:
    """Return how far every two LFs agree, and how far that is more than two independent LFs would.

    probs: probabilities of a fitted label model, shape (n_items, n_classes). gold: known labels, shape (n_items,),
    ABSTAIN where unknown; they take the place of the probabilities. errors: rows to leave out.

    Agreement is counted, and expected from how the LFs vote. With probabilities, each LF has one distribution of votes
    a class: how often it is right comes from the very items on which both vote, weighted by the probability of the
    class, and how its wrong votes spread from all its votes. Two LFs that err independently agree on
    ``Σ_y p(y) Σ_uv P(u | y) P(v | y)`` of these items, u and v having a class in common. Where two agree more, half of
    it is right and half wrong, because how often each is right stays as it is; hence ``together``. The expectation is
    only as good as the probabilities: those of majority vote are not calibrated, and three LFs alone fit any votes, so
    that none seem dependent. With gold alone, only items whose label is known count. With neither, there is one
    distribution of votes an LF, and ``dependence`` is Cohen's kappa, which is high for any two good LFs.
    Raises InvalidRequest if probs, gold or errors do not fit the votes.

    Source: the bivariate residual of latent class analysis, Vermunt & Magidson 2005; its variance is that of weighted
    kappa without dependence, Fleiss, Cohen & Everitt 1969, summed over classes.

    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 2, 3000)
    >>> columns = [np.where(rng.random(3000) < 0.8, truth, 1 - truth) for _ in range(2)]
    >>> found = compare_pairs(Votes.hard(np.stack([*columns, columns[0]], axis=1)), gold=truth)
    >>> [(pair.first, pair.second, round(pair.dependence, 2)) for pair in found.dependent()]
    [('lf_0', 'lf_2', 1.0)]
    >>> found.copies
    (('lf_0', 'lf_2'),)
    """
    rows = kept_rows(votes.n_items, errors)
    n = votes.n_items if rows is None else len(rows)
    weights = None if probs is None else checked_probs(probs, votes)
    table = members(votes)
    if gold is None:
        judged = sums = _add_up(votes, weights, rows, n)
    else:
        known = np.flatnonzero(checked_gold(gold, votes) != ABSTAIN)
        weights = _with_gold(weights, gold, known, votes.n_classes)
        sums = _add_up(votes, None if probs is None else weights, rows, n)
        known = known if rows is None else np.intersect1d(known, rows, assume_unique=True)
        judged = sums if probs is not None else _add_up(votes, weights, known, len(known))
    return PairsSummary(
        n_items=n,
        given_class=weights is not None,
        pairs=_pairs(votes, sums, judged, _expect(judged, table, given_class=weights is not None), n),
        redundancy=_redundancy(votes, sums),
        copies=_copies(votes, sums),
    )


@dataclass
class _Sums:
    """Sums over items, float64. There is one y a class, or a single y where classes are not told apart.

    both, same, agree: shape (n_lfs, n_lfs), on how many items both vote, do so identically, have a class in common.
    per_class: shape (n_y, n_lfs, n_lfs), the weight of y on items where both vote.
    first: shape (n_y, n_lfs, n_lfs), the part of that where the first is right for y; for a single y, shape
    (n_values, n_lfs, n_lfs), the number of items where both vote and the first for this value.
    spread: shape (n_y, n_lfs, n_values), the weight of y on the items where an LF votes for a value.
    """

    both: Matrix
    same: Matrix
    agree: Matrix
    per_class: Matrix
    first: Matrix
    spread: Matrix

    @classmethod
    def none(cls, votes: Votes, *, given_class: bool) -> _Sums:
        m, n_y = votes.n_lfs, votes.n_classes if given_class else 1
        both, same, agree = (np.zeros((m, m)) for _ in range(3))
        first = np.zeros((n_y if given_class else votes.n_values, m, m))
        return cls(both, same, agree, np.zeros((n_y, m, m)), first, np.zeros((n_y, m, votes.n_values)))

    def add(self, other: _Sums) -> None:
        for name in self.__dataclass_fields__:
            total = getattr(self, name)
            total += getattr(other, name)


def _with_gold(
    probs: npt.NDArray[np.floating[Any]] | None,
    gold: npt.NDArray[np.signedinteger[Any]],
    known: npt.NDArray[np.intp],
    n_classes: int,
) -> npt.NDArray[np.floating[Any]]:
    """Return probabilities that are certain where the label is known."""
    weights = np.zeros((len(gold), n_classes), dtype=np.float32) if probs is None else probs.copy()
    weights[known] = 0.0
    weights[known, gold[known]] = 1.0
    return weights


def _add_up(
    votes: Votes, weights: npt.NDArray[np.floating[Any]] | None, rows: npt.NDArray[np.intp] | None, n: int
) -> _Sums:
    """Return the sums over some rows, None for all of them; n says how many they are."""
    m, k, table = votes.n_lfs, votes.n_classes, members(votes)
    # One column more, for ABSTAIN: it stands for no class and goes with nothing.
    common = np.pad(compatible(table), ((0, 0), (0, 1)))
    holds = np.pad(table.T, ((0, 0), (0, 1)))

    def add_up(run: Iterator[slice]) -> _Sums:
        sums = _Sums.none(votes, given_class=weights is not None)
        buffer = np.empty((2 * m, _BLOCK), dtype=np.float32)
        for block in run:
            where = block if rows is None else rows[block]
            turned = by_column(votes.classes, where)
            voted = (turned != ABSTAIN).astype(np.float32)
            both, chosen = buffer[:m, : turned.shape[1]], buffer[m:, : turned.shape[1]]
            stacked = buffer[:, : turned.shape[1]]
            prob = None if weights is None else np.ascontiguousarray(weights[where].T, dtype=np.float32)
            sums.both += voted @ voted.T
            for value in range(votes.n_values):
                np.copyto(chosen, turned == value)
                sums.same += chosen @ chosen.T
                if votes.sets:
                    sums.agree += chosen @ common[value][turned].astype(np.float32).T
                if prob is None:
                    sums.first[value] += chosen @ voted.T
                    continue
                sums.spread[:, :, value] += prob @ chosen.T
                if value < k:
                    if votes.sets:
                        np.copyto(chosen, holds[value][turned])
                    np.multiply(voted, prob[value], out=both)
                    chosen *= prob[value]
                    product = stacked @ voted.T
                    sums.per_class[value] += product[:m]
                    sums.first[value] += product[m:]
        return sums

    total = _Sums.none(votes, given_class=weights is not None)
    for part in over_blocks(add_up, n, size=_BLOCK):
        total.add(part)
    if weights is None:
        total.per_class[0] = total.both
    if not votes.sets:
        total.agree = total.same
    return total


@dataclass(frozen=True)
class _Expected:
    """What independent LFs would do on the items where both vote; float64, shape (n_lfs, n_lfs), numbers of items.

    agree: they agree. variance: of that number, each LF voting as often for each value as it does. mistaken: they make
    the same mistake.
    """

    agree: Matrix
    variance: Matrix
    mistaken: Matrix


def _expect(sums: _Sums, table: Mask, *, given_class: bool) -> _Expected:
    common = compatible(table).astype(np.float64)
    agree, variance, mistaken = (np.zeros_like(sums.both) for _ in range(3))
    for y, weight in enumerate(sums.per_class):
        wrong = ~table[:, y]
        if given_class:
            rate = (sums.first[y] / np.maximum(weight, _NEVER))[:, :, None]
            right_votes, wrong_votes = (
                _normalised(np.where(part, sums.spread[y], 0.0))[:, None, :] for part in (~wrong, wrong)
            )
            cast = rate * right_votes + (1 - rate) * wrong_votes
        else:
            cast = np.moveaxis(sums.first, 0, -1) / np.maximum(weight, _NEVER)[:, :, None]
        # cast[j, l, u]: how likely j is to vote u where l votes too; met[j, l, u]: how likely l is to agree with u.
        met = np.swapaxes(cast @ common, 0, 1)
        alike = (cast * met).sum(axis=-1)
        skew = (cast * met**2).sum(axis=-1)
        agree += weight * alike
        variance += weight * (alike + alike**2 - skew - skew.T)
        mistakes = np.where(wrong, cast, 0.0) if given_class else np.zeros_like(cast)
        mistaken += weight * (mistakes * np.swapaxes(mistakes @ common, 0, 1)).sum(axis=-1)
    return _Expected(agree, variance, mistaken)


def _normalised(counts: Matrix) -> Matrix:
    shares: Matrix = counts / np.maximum(counts.sum(axis=-1, keepdims=True), _NEVER)
    return shares


def _pairs(votes: Votes, sums: _Sums, judged: _Sums, expected: _Expected, n: int) -> tuple[Pair, ...]:
    found = []
    for j in range(votes.n_lfs):
        for other in range(j + 1, votes.n_lfs):
            seen, agree = judged.both[j, other], judged.agree[j, other]
            excess = float(agree - expected.agree[j, other])
            room = float(seen - expected.agree[j, other])
            mistaken = float(expected.mistaken[j, other])
            # A half item off for counting in whole ones, and never less than one item's variance, so that what a
            # handful of items happen to do means nothing.
            error = max(1.0, float(expected.variance[j, other])) ** 0.5
            sure = max(0.0, abs(excess) - 0.5) / error
            found.append(
                Pair(
                    first=votes.lf_names[j],
                    second=votes.lf_names[other],
                    both=round(sums.both[j, other]),
                    co_coverage=float(sums.both[j, other] / n) if n else 0.0,
                    same=round(sums.same[j, other]),
                    agreement=float(agree / seen) if seen else None,
                    expected=float(expected.agree[j, other] / seen) if seen else None,
                    excess=float(excess / seen) if seen else None,
                    dependence=excess / room if room > 1e-6 * seen and seen else None,
                    z=(sure if excess > 0 else -sure) if seen else None,
                    together=max(0.0, 1 + excess / (2 * mistaken))
                    if mistaken > 1e-6 * seen and seen
                    else None,
                )
            )
    return tuple(found)


def _redundancy(votes: Votes, sums: _Sums) -> tuple[Redundancy, ...]:
    same = sums.same.copy()
    np.fill_diagonal(same, 0.0)
    found = []
    for j, name in enumerate(votes.lf_names):
        other = int(same[j].argmax())
        shared = same[j, other]
        found.append(
            Redundancy(name, votes.lf_names[other], float(shared / sums.both[j, j]))
            if shared
            else Redundancy(name, None, 0.0)
        )
    return tuple(found)


def _copies(votes: Votes, sums: _Sums) -> tuple[tuple[str, ...], ...]:
    """Return the connected groups of near-copies."""
    n_votes = np.diagonal(sums.both)
    either = n_votes[:, None] + n_votes[None, :] - sums.both
    alike = (sums.same >= COPY * either) & (sums.same >= FEW)
    group = list(range(votes.n_lfs))
    for j, other in zip(*np.nonzero(alike), strict=True):
        low, high = sorted((group[j], group[other]))
        group = [low if g == high else g for g in group]
    together = [
        [votes.lf_names[j] for j, g in enumerate(group) if g == leader] for leader in sorted(set(group))
    ]
    return tuple(tuple(names) for names in together if len(names) > 1)
