"""How the labeling functions of a call voted, counted."""

from __future__ import annotations

import numpy as np

from manyeyes.types import ABSTAIN, Votes


def tally(votes: Votes) -> dict[str, dict[str, int]]:
    """Return LF → class, "several" for a set of classes, or "abstain" → how many items.

    >>> tally(Votes.hard([[0, -1], [0, 1]], n_classes=2, class_names=("cat", "dog"), lf_names=("a", "b")))
    {'a': {'cat': 2}, 'b': {'abstain': 1, 'dog': 1}}
    """
    counted: dict[str, dict[str, int]] = {}
    n_classes = len(votes.class_names)
    for name, column in zip(votes.lf_names, votes.classes.T, strict=True):
        said: dict[str, int] = {}
        values, counts = np.unique(column, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            vote = (
                "abstain"
                if value == ABSTAIN
                else votes.class_names[value]
                if value < n_classes
                else "several"
            )
            said[vote] = said.get(vote, 0) + count
        counted[name] = said
    return counted
