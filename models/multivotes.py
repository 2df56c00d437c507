"""Multi-label votes: what each labeling function (LF) says of each class, present or absent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidVotes
from manyeyes.types import ABSTAIN, FloatArray, Votes, no_scores

ABSENT, PRESENT = 0, 1
PRESENCE = ("absent", "present")
"""The two classes of the question that each class is."""

Presence = npt.NDArray[np.int8]
"""int8: PRESENT, ABSENT, or ABSTAIN where nothing is said."""


@dataclass(frozen=True, eq=False)
class MultiVotes:
    """What each labeling function (LF) says of each class of each item.

    values: int8, shape (n_items, n_lfs, n_classes); PRESENT, ABSENT or ABSTAIN. scores: float32, same shape;
    the probability that this is right where the LF can say, NaN elsewhere; ``no_scores(shape)`` for hard
    votes alone. class_names, lf_names: one name a class and one an LF. shared: for each LF, the primitives
    that it reads. Raises InvalidVotes if shapes or dtypes do not fit, or a value or score is out of range.
    """

    values: Presence
    scores: FloatArray
    class_names: tuple[str, ...]
    lf_names: tuple[str, ...]
    shared: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape != self.scores.shape:
            raise InvalidVotes(
                "values and scores of multi-label votes must both have shape (n_items, n_lfs, n_classes), got"
                f" {self.values.shape} and {self.scores.shape}"
            )
        if self.values.shape[1:] != (len(self.lf_names), len(self.class_names)):
            raise InvalidVotes(
                f"values of {self.values.shape[1]} LFs and {self.values.shape[2]} classes, but"
                f" {len(self.lf_names)} LF names and {len(self.class_names)} class names"
            )
        if self.values.dtype != np.int8:
            raise InvalidVotes(f"values of multi-label votes are int8, got {self.values.dtype}")
        if self.values.size:
            low, high = int(self.values.min()), int(self.values.max())
            if low < ABSTAIN or high > PRESENT:
                raise InvalidVotes(
                    f"a value is {ABSTAIN} (silent), {ABSENT} (absent) or {PRESENT} (present), got"
                    f" {low if low < ABSTAIN else high}"
                )
            if not self.is_hard and (
                np.fmin.reduce(self.scores, axis=None) < 0 or np.fmax.reduce(self.scores, axis=None) > 1
            ):
                raise InvalidVotes("a score is a probability in [0, 1], or NaN for a hard vote")

    @classmethod
    def hard(cls, values: npt.ArrayLike) -> MultiVotes:
        """Make multi-label votes from values alone, with names made up; for tests and for votes from elsewhere."""
        array = np.asarray(values, dtype=np.int8)
        if array.ndim != 3:
            raise InvalidVotes(f"values must have shape (n_items, n_lfs, n_classes), got {array.shape}")
        return cls(
            array,
            no_scores(array.shape),
            tuple(f"class_{c}" for c in range(array.shape[2])),
            tuple(f"lf_{j}" for j in range(array.shape[1])),
        )

    @classmethod
    def from_votes(cls, votes: Votes) -> MultiVotes:
        """Read single-label votes as statements about presence.

        A vote for a class says that it is present, and nothing of the others. A vote for all classes but a
        few ("not a hat", "neither hat nor shoes": the classes left out are fewer than those named) says that
        these few are absent. A vote for one of several classes says nothing.

        >>> said = np.array([[1], [3], [-1]], np.int8)
        >>> votes = Votes(said, no_scores(said.shape), ("a", "b", "c"), ("lf",), sets=((0, 1),))
        >>> MultiVotes.from_votes(votes).values[:, 0].tolist()
        [[-1, 1, -1], [-1, -1, 0], [-1, -1, -1]]
        """
        k = votes.n_classes
        says = np.full(
            (votes.n_values + 1, k), ABSTAIN, dtype=np.int8
        )  # the last row is what an abstention finds
        says[np.arange(k), np.arange(k)] = PRESENT
        for i, members in enumerate(votes.sets):
            left_out = np.setdiff1d(np.arange(k), members)
            if len(left_out) < len(members):
                says[k + i, left_out] = ABSENT
        # A class at a time lies together in memory, since that is how they are read.
        values = np.moveaxis(np.stack([says[votes.classes, c] for c in range(k)]), 0, 2)
        scores = no_scores(values.shape)
        if not votes.is_hard:
            scores = np.where(values == ABSTAIN, np.float32(np.nan), votes.scores[:, :, None])
        return cls(values, scores, votes.class_names, votes.lf_names, votes.shared)

    def rows(self, which: slice | npt.NDArray[Any]) -> MultiVotes:
        """Return the votes on some items: a slice (no copy), a boolean mask or indices."""
        values = self.values[which]
        scores = no_scores(values.shape) if self.is_hard else self.scores[which]
        return MultiVotes(values, scores, self.class_names, self.lf_names, self.shared)

    def speakers(self, c: int) -> list[int]:
        """Return the LFs that say something of a class on some item."""
        spoken: list[int] = np.flatnonzero((self.values[:, :, c] != ABSTAIN).any(axis=0)).tolist()
        return spoken

    def binary(self, c: int, lfs: Sequence[int] | None = None) -> Votes:
        """Return what is said of one class, as votes for "absent" or "present".

        lfs: which LFs, by index, in this order; None for those that ever speak of the class.
        """
        kept = self.speakers(c) if lfs is None else list(lfs)
        values = np.ascontiguousarray(self.values[:, kept, c])
        return Votes(
            values,
            no_scores(values.shape) if self.is_hard else np.ascontiguousarray(self.scores[:, kept, c]),
            PRESENCE,
            tuple(self.lf_names[j] for j in kept),
            tuple(self.shared[j] for j in kept) if self.shared else (),
        )

    @property
    def is_hard(self) -> bool:
        """Whether there are no scores at all."""
        return self.scores.strides == (0, 0, 0)

    @property
    def n_items(self) -> int:
        return int(self.values.shape[0])

    @property
    def n_lfs(self) -> int:
        return int(self.values.shape[1])

    @property
    def n_classes(self) -> int:
        return int(self.values.shape[2])
