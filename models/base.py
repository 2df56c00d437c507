"""The contract of label models: from a label matrix to probabilities, with additive reasons, saved and loaded exactly.

All label models of this version are *additive*: the log-posterior of a class is the log-prior plus one term an LF, so
that an explanation is exact and a saved model replays bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidVotes, NotFitted
from manyeyes.types import FloatArray, Votes

Gold = npt.NDArray[np.signedinteger[Any]]
"""Known labels: any signed integer dtype, shape (n_items,); ABSTAIN where an item has none."""


@dataclass(frozen=True)
class Explanation:
    """Why a posterior is what it is: ``log posterior = log_prior + evidence.sum(axis=1)`` up to normalisation.

    log_prior: float64, shape (n_classes,). evidence: float64, shape (n_items, n_lfs, n_classes), in nats.
    """

    log_prior: npt.NDArray[np.float64]
    evidence: npt.NDArray[np.float64]


class LabelModel:
    """Base of every label model. ``__init__`` stores hyperparameters; learned state ends in ``_``."""

    name: ClassVar[str]

    def fit(self, votes: Votes, gold: Gold | None = None, *, shared: Sequence[Sequence[str]] | None = None) -> Self:
        """Learn from votes, forget earlier fits, return self.

        gold: known labels, ABSTAIN where unknown. shared: which primitives each LF reads; defaults to ``votes.shared``.
        """
        raise TypeError(f"{type(self).__name__} does not say how it fits")

    def predict_proba(self, votes: Votes) -> FloatArray:
        """Return class probabilities: float32, shape (n_items, n_classes); rows sum to 1; an all-abstain row is the prior."""
        raise TypeError(f"{type(self).__name__} does not say how it predicts")

    def explain(self, votes: Votes) -> Explanation:
        """Return prior and evidence behind ``predict_proba``."""
        raise TypeError(f"{type(self).__name__} does not say how it explains")
