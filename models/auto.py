"""The guarded choice of a label model: what can be learned from these votes, and majority vote where nothing can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from manyeyes.models.base import Gold, LabelModel
from manyeyes.models.majority import MajorityVote
from manyeyes.models.pooled import DependencyAware, OneCoin
from manyeyes.types import ABSTAIN, Votes

MIN_LFS = 3
"""Accuracies of fewer LFs cannot be told apart from their agreement alone (Dawid–Skene needs three views)."""
MIN_ITEMS = 50
"""Fewer overlapping items say too little of an LF, and labels would hang on what happens to share a call."""


class Auto(LabelModel):
    """One-coin where LF accuracies are identifiable, else majority vote; ``why_`` says which and for what reason.

    class_balance: prior probability of each class; None is uniform.

    >>> from manyeyes.types import Votes
    >>> model = Auto().fit(Votes.hard([[0, 1], [1, 1]], n_classes=2))
    >>> model.choice_.name, model.why_
    ('majority', 'majority vote: 2 LFs voted, and accuracies can be learned from 3 or more')
    """

    name = "auto"

    choice_: LabelModel
    why_: str

    def __init__(self, class_balance: Sequence[float] | None = None) -> None:
        self.class_balance = class_balance

    def _learn(self, votes: Votes, gold: Gold | None, embeddings: Any, shared: Sequence[Sequence[str]]) -> None:
        voted = votes.classes != ABSTAIN
        n_active = int(voted.any(axis=0).sum())
        n_overlapping = int((voted.sum(axis=1) >= 2).sum())
        if n_active < MIN_LFS:
            refusal = f"{n_active} LFs voted, and accuracies can be learned from {MIN_LFS} or more"
        elif n_overlapping < MIN_ITEMS:
            refusal = f"LFs overlap on {n_overlapping} items, and accuracies can be learned from {MIN_ITEMS} or more"
        else:
            refusal = ""
        self.choice_ = MajorityVote(self.class_balance) if refusal else OneCoin(self.class_balance)
        self.why_ = (
            f"majority vote: {refusal}"
            if refusal
            else f"one accuracy an LF: {n_active} LFs overlap on {n_overlapping} items"
        )
        self.choice_.fit(votes, gold, shared=shared)

    def _weights(self, votes: Votes) -> npt.NDArray[np.float64]:
        return self.choice_._weights(votes)

    def _header(self) -> dict[str, Any]:
        header = super()._header()
        return header | {"why": self.why_, "choice": self.choice_._header()}

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return super()._arrays() | {f"choice.{key}": array for key, array in self.choice_._arrays().items()}

    def _restore(self, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        super()._restore(header, arrays)
        chosen = {model.name: model for model in (MajorityVote, OneCoin)}[header["choice"]["label_model"]]
        self.choice_ = chosen(**header["choice"]["hyperparameters"])
        self.why_ = header["why"]
        prefix = "choice."
        self.choice_._restore(
            header["choice"],
            {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)},
        )
