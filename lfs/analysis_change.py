"""What a change of one labeling function comes to: shares before and after, label flips, and how they are counted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from manyeyes.lfs.analysis_blocks import Mask, clashes, count_votes, disagreement
from manyeyes.types import ABSTAIN, VoteArray

EXAMPLES: Final = 20
"""Of how many items a change tells the rows."""


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares of all items, in [0, 1]: where anything votes, where two or more do, where two have no class in common.

    Of one LF: where it votes, where another votes too, where another has no class in common with it.
    """

    coverage: float
    overlaps: float
    conflicts: float


@dataclass(frozen=True, slots=True)
class Flip:
    """How many labels would go from one class to another. None stands for no label."""

    before: str | None
    after: str | None
    items: int


@dataclass(frozen=True, slots=True)
class Change:
    """What a change of one labeling function would do.

    before, after: all LFs together. lf_before, lf_after: this LF; None where it is not there.
    estimated_before, estimated_after: how often this LF is right, judged by all others; None where it never votes.
    n_flips: items whose label would become another class. flips: these, labels won and labels lost, most items first.
    examples: rows of up to 20 flips, int; those whose probabilities would move furthest first.
    newly_covered, uncovered: items on which the first LF would vote, and on which none would vote any more;
    covered_examples, uncovered_examples: the first 20 rows of each.
    twin: the other LF that gives most of this one's votes identically, and the share that it gives; None where no
    other does, or the LF is dropped.
    """

    kind: Literal["drop", "add", "edit"]
    lf: str
    n_items: int
    before: Shares
    after: Shares
    lf_before: Shares | None
    lf_after: Shares | None
    estimated_before: float | None
    estimated_after: float | None
    n_flips: int
    flips: tuple[Flip, ...]
    examples: tuple[int, ...]
    newly_covered: int
    uncovered: int
    covered_examples: tuple[int, ...]
    uncovered_examples: tuple[int, ...]
    twin: tuple[str, float] | None


@dataclass
class Count:
    """On how many items anything votes, two or more do, and two have no class in common."""

    covered: int = 0
    overlapped: int = 0
    mixed: int = 0

    def plus(self, other: Count) -> None:
        self.covered += other.covered
        self.overlapped += other.overlapped
        self.mixed += other.mixed

    def shares(self, n_items: int) -> Shares:
        return Shares(*(count / max(n_items, 1) for count in (self.covered, self.overlapped, self.mixed)))


@dataclass
class State(Count):
    """The counts of all LFs together, and of the one that changes."""

    own: Count = field(default_factory=Count)

    def add(self, turned: VoteArray, table: Mask, lf: int | None) -> npt.NDArray[Any]:
        """Count some items, shape (n_lfs, n_rows); return how many LFs vote on each. lf: the row of the LF in hand."""
        n_votes = count_votes(turned != ABSTAIN)
        many = n_votes > 1
        own = None if lf is None else turned[lf]
        voted = None if own is None else own != ABSTAIN
        if len(table) > table.shape[1]:
            clash = clashes(turned, table)
            mixed = np.zeros(turned.shape[1], dtype=np.bool_)
            for value in range(len(table)):
                mixed |= (turned == value).any(axis=0) & clash[value]
            against = None if own is None else np.take_along_axis(clash, np.maximum(own, 0)[None], axis=0)[0]
        else:
            mixed = disagreement(turned) & many
            against = mixed
        here = Count(*(int(np.count_nonzero(where)) for where in (n_votes, many, mixed)))
        self.plus(here)
        if voted is not None and against is not None:
            self.own.plus(Count(*(int(np.count_nonzero(voted & where)) for where in (voted, many, against))))
        return n_votes


@dataclass
class Tally:
    """What is counted over items. flips: shape (n_classes + 1, n_classes + 1), labels before and after, 0 for none.

    same: shape (n_lfs,), how many votes of the new column each LF gives identically. examples: minus how far the
    probabilities move, and the row.
    """

    flips: npt.NDArray[np.int64]
    same: npt.NDArray[np.int64]
    before: State = field(default_factory=State)
    after: State = field(default_factory=State)
    examples: list[tuple[float, int]] = field(default_factory=list)
    covered: int = 0
    uncovered: int = 0
    covered_rows: list[int] = field(default_factory=list)
    uncovered_rows: list[int] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.flips += other.flips
        self.same += other.same
        for mine, theirs in ((self.before, other.before), (self.after, other.after)):
            mine.plus(theirs)
            mine.own.plus(theirs.own)
        self.examples += other.examples
        self.covered += other.covered
        self.uncovered += other.uncovered
        self.covered_rows += other.covered_rows
        self.uncovered_rows += other.uncovered_rows
