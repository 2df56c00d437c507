"""From embeddings to the probability of each class that is prompted, and of none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from manyeyes.lfs.prompt_calibration import PromptCalibration

FloatArray = npt.NDArray[np.float64]

KEPT: Final = 0.75
"""The share of a standard background that is kept: what is farthest from the prompts of the classes."""


class Probabilities(NamedTuple):
    """float64. classes: shape (n_classes, n_items). against: (n_against, n_items). none: of no class, (n_items,)."""

    classes: FloatArray
    against: FloatArray
    none: FloatArray


@dataclass(frozen=True)
class Sentences:
    """What is said in one modality.

    classes: sentences by class. against: of the background, each by itself. background: of a standard background.
    not_like: by the index of a class, what resembles it and is not it. groups: indices of classes, and the sentences of
    all of them together; none where the classes speak for themselves.
    """

    classes: Sequence[Sequence[str]]
    against: Sequence[str] = ()
    background: Sequence[str] = ()
    not_like: Mapping[int, Sequence[str]] | None = None
    groups: Sequence[tuple[tuple[int, ...], Sequence[str]]] = ()

    def all(self) -> list[str]:
        """Return every sentence, in the order in which ``PromptTable.of`` takes their embeddings."""
        told = [text for said in self.classes for text in said] + list(self.against) + list(self.background)
        told += [text for said in (self.not_like or {}).values() for text in said]
        return told + [text for _, said in self.groups for text in said]


@dataclass(frozen=True, eq=False)
class PromptTable:
    """Embedded sentences of one encoder, and the scale of its similarities.

    rows: of the classes, then of ``against``: float64, shape (n_rows, dim). owner: the class, or the place after them,
    that each row speaks for. background: rows, or None. not_like: class → rows. groups: classes, and the group's row.
    """

    rows: FloatArray
    owner: npt.NDArray[np.int64]
    n_classes: int
    scale: float
    background: FloatArray | None
    not_like: Mapping[int, FloatArray]
    groups: Sequence[tuple[npt.NDArray[np.int64], FloatArray]]
    calibration: PromptCalibration | None
    gain: FloatArray
    bias: FloatArray

    @classmethod
    def of(
        cls,
        sentences: Sentences,
        embeddings: npt.NDArray[np.float32],
        *,
        mean: bool,
        scale: float,
        names: Sequence[str] = (),
        calibration: PromptCalibration | None = None,
    ) -> Self:
        """Return the table of some sentences.

        embeddings: one row for each of ``sentences.all()``. mean: whether a class's sentences are averaged, else the
        nearest counts. names: of the classes, for the calibration.
        """
        rest = np.asarray(embeddings, dtype=np.float64)

        def take(n: int) -> FloatArray:
            nonlocal rest
            taken, rest = rest[:n], rest[n:]
            return taken

        rows, owner = [], []
        for index, said in enumerate(sentences.classes):
            own = take(len(said))
            own = _mean(own) if mean else own
            rows.append(own)
            owner += [index] * len(own)
        of_classes = np.concatenate(rows)
        owner += range(len(sentences.classes), len(sentences.classes) + len(sentences.against))
        rows.append(take(len(sentences.against)))
        background = _far_from(take(len(sentences.background)), of_classes)
        not_like = {index: take(len(said)) for index, said in (sentences.not_like or {}).items()}
        groups = [
            (np.array(members), _mean(take(len(said)))) for members, said in sentences.groups if len(said)
        ]
        k = len(sentences.classes)
        told = (calibration.gain, calibration.bias) if calibration else ({}, {})
        return cls(
            rows=np.concatenate(rows),
            owner=np.array(owner, dtype=np.int64),
            n_classes=k,
            scale=scale,
            background=background,
            not_like=not_like,
            groups=groups,
            calibration=calibration,
            gain=np.array([told[0].get(name, 1.0) for name in names] or [1.0] * k)[:, None],
            bias=np.array([told[1].get(name, 0.0) for name in names] or [0.0] * k)[:, None],
        )

    def probabilities(self, embeddings: npt.NDArray[np.float32]) -> Probabilities:
        """Return the probabilities of some items; embeddings: shape (n_items, dim)."""
        # In float64, because a product's last bits depend on how many rows are multiplied at once, and the same item
        # must get the same float32 in every chunk.
        seen = embeddings.astype(np.float64).T
        k = self.n_classes
        logits = self._logits(seen)
        resembled = logits[:k].copy() if self.not_like else None
        if self.calibration is not None:
            logits[:k] = logits[:k] * self.gain + self.bias
        peak = logits.max(axis=0)
        logits -= peak
        exponentials = np.exp(logits)
        total = exponentials.sum(axis=0)
        if self.background is not None:
            total = total + np.exp(self._background(seen) - peak)
        probs = exponentials / total
        classes, against = probs[:k], probs[k:]
        if self.calibration is not None and self.calibration.in_class is not None:
            any_class = classes.sum(axis=0)
            none = np.maximum(1.0 - any_class, 1e-300)
            odds = np.log(np.maximum(any_class, 1e-300)) - np.log(none)
            told = self.calibration.in_class
            calibrated = _sigmoid(told.gain * odds + told.bias)
            classes = classes * (calibrated / np.maximum(any_class, 1e-300))
            against = against * ((1.0 - calibrated) / none)
        if resembled is not None:
            for index, rows in self.not_like.items():
                other = (rows @ seen).max(axis=0) * self.scale
                classes[index] *= _sigmoid(resembled[index] - other)
        return Probabilities(classes, against, np.maximum(1.0 - classes.sum(axis=0), 0.0))

    def uncalibrated(self, embeddings: npt.NDArray[np.float32]) -> tuple[FloatArray, FloatArray | None]:
        """Return what calibration is fitted on: scaled similarities to classes, and to all of the background.

        Shapes (n_items, n_classes) and (n_items,); None for the second where there is no background.
        """
        seen = embeddings.astype(np.float64).T
        logits = self._logits(seen)
        parts = list(logits[self.n_classes :])
        if self.background is not None:
            parts.append(self._background(seen))
        together = np.logaddexp.reduce(np.array(parts), axis=0) if parts else None
        return logits[: self.n_classes].T.copy(), together

    def _logits(self, seen: FloatArray) -> FloatArray:
        logits = self.rows @ seen
        if len(self.rows) > self.owner[-1] + 1:
            logits = np.maximum.reduceat(logits, np.flatnonzero(np.diff(self.owner, prepend=-1)), axis=0)
        logits *= self.scale
        for members, row in self.groups:
            # What is said of a group and what its classes say together count alike.
            together = np.logaddexp.reduce(logits[members], axis=0)
            logits[members] += 0.5 * (self.scale * (row @ seen)[0] - together)
        return logits

    def _background(self, seen: FloatArray) -> FloatArray:
        assert self.background is not None
        logits = (self.background @ seen) * self.scale
        peak = logits.max(axis=0)
        together: FloatArray = peak + np.log(np.exp(logits - peak).sum(axis=0))
        return together


def combined(first: Probabilities, second: Probabilities) -> Probabilities:
    """Return what two independent looks at the same items say together: products, normalised."""
    classes, none = first.classes * second.classes, first.none * second.none
    total = np.maximum(classes.sum(axis=0) + none, 1e-300)
    return Probabilities(classes / total, np.zeros((0, len(none))), none / total)


def _mean(rows: FloatArray) -> FloatArray:
    mean: FloatArray = rows.mean(axis=0, keepdims=True)
    mean /= max(float(np.linalg.norm(mean)), 1e-12)
    return mean


def _far_from(background: FloatArray, classes: FloatArray) -> FloatArray | None:
    """Return the rows of a background that are not among the nearest to any class; None without a background."""
    if not len(background):
        return None
    nearness = (background @ classes.T).max(axis=1)
    far: FloatArray = background[nearness <= np.quantile(nearness, KEPT)]
    return far


def _sigmoid(log_odds: FloatArray) -> FloatArray:
    probability: FloatArray = 1.0 / (1.0 + np.exp(-np.clip(log_odds, -700.0, 700.0)))
    return probability
