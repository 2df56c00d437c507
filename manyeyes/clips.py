"""One label a clip: what labeling functions say of the frames of a video, put together.

Frames of one clip show nearly the same, so labeling functions that err on one err on the next. n frames, any two of
which err with the correlation ρ, are worth n / (1 + (n − 1) ρ) independent ones (Kish's design effect), at most 1 / ρ.
So many times as far as its average frame's are a clip's log-odds moved from the prior: with ρ = 1 a clip is as sure as
its average frame, with ρ = 0 every frame counts in full, as if it were another item. Votes alone cannot tell ρ, because
frames agree where they are right as well; it is ½ unless told otherwise, so that a clip is moved less than twice as far
as its average frame.

Frames on which nothing is said, whose votes are too hesitant for any class, or that are errors, count for nothing: a
garment that is in view for two seconds of a minute is not outvoted by the rest.
Source: Kish 1965, Survey Sampling, §5.4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRequest
from manyeyes.fitting import Collected, familiarity, top_two
from manyeyes.labeler import Labeler
from manyeyes.types import ABSTAIN, FloatArray, Label, Labels, Reason, Votes, no_scores

CORRELATION: Final = 0.5
_LEAST_PROB: Final = 1e-7


def worth(n_frames: int, correlation: float = CORRELATION) -> float:
    """Return how many independent frames so many frames of one clip are worth.

    >>> worth(1), worth(3), worth(1000) < 2, worth(7, correlation=0.0)
    (1.0, 1.5, True, 7.0)
    """
    return n_frames / (1.0 + (n_frames - 1) * correlation)


def pool_clips(
    labeler: Labeler,
    collected: Collected,
    labels: Labels,
    *,
    clips: Sequence[str | None],
    correlation: float = CORRELATION,
) -> list[Label]:
    """Return one label a clip, where its first frame stood; rows of no clip keep their own.

    labeler: fitted. collected, labels: of the frames, as ``collect`` and ``fuse`` gave them. clips: for each row the
    name of its clip, None for an item that is no frame. correlation: of the errors of two frames of a clip, 0 to 1.
    The reasons of a clip add up as an item's do; each names the frame that moved its part most. A clip of which every
    frame is an error is one. Raises InvalidRequest if nothing is fitted yet or the correlation is out of range.
    """
    if labeler.label_model is None:
        raise InvalidRequest("the Labeler is not fitted; call fit_collected(collected) first")
    if not 0 <= correlation <= 1:
        raise InvalidRequest(f"a correlation of errors is between 0 and 1, got {correlation}")
    pool = _Pool(labeler, collected, labels, correlation)
    rows: dict[str, list[int]] = {}
    order: list[int | str] = []
    for row, clip in enumerate(clips):
        if clip is None:
            order.append(row)
        elif clip in rows:
            rows[clip].append(row)
        else:
            rows[clip] = [row]
            order.append(clip)
    return [labels[place] if isinstance(place, int) else pool.clip(place, rows[place]) for place in order]


class _Pool:
    def __init__(self, labeler: Labeler, collected: Collected, labels: Labels, correlation: float) -> None:
        assert labeler.label_model is not None
        self._model = labeler.label_model
        self._recipe = labeler.recipe
        self._least = labeler.least_confidence
        self._collected = collected
        self._labels = labels
        self._correlation = correlation
        votes = collected.votes
        self._prior = np.log(np.maximum(self._balance(votes), _LEAST_PROB))
        said = (votes.classes != ABSTAIN).any(axis=1)
        if collected.embeddings is not None:
            said |= labels.moved.any(axis=1)
        self._counts = said & (familiarity(votes) >= self._recipe.unfamiliar_below)
        self._counts[sorted(labels.errors)] = False

    def _balance(self, votes: Votes) -> npt.NDArray[np.float64]:
        """Return how probable each class is of an item of which nothing is said: float64, shape (n_classes,)."""
        shape = (1, votes.n_lfs)
        silent = Votes(
            classes=np.full(shape, ABSTAIN, dtype=votes.classes.dtype),
            scores=no_scores(shape),
            class_names=votes.class_names,
            lf_names=votes.lf_names,
            shared=votes.shared,
            sets=votes.sets,
        )
        embeddings = self._collected.embeddings
        nowhere = None if embeddings is None else np.full((1, embeddings.shape[1]), np.nan, dtype=np.float32)
        return np.asarray(self._model.predict_proba(silent, nowhere)[0], dtype=np.float64)

    def clip(self, name: str, rows: Sequence[int]) -> Label:
        """Return the label of a clip from its frames."""
        if all(row in self._labels.errors for row in rows):
            return Label(id=name, status="error", error=self._labels.errors[rows[0]])
        counted = np.array([row for row in rows if self._counts[row]], dtype=np.int64)
        weight = worth(len(counted), self._correlation) if len(counted) else 0.0
        logits = self._prior.copy()
        if len(counted):
            probs = np.maximum(self._labels.probs[counted].astype(np.float64), _LEAST_PROB)
            logits += weight * (np.log(probs) - self._prior).mean(axis=0)
        exponentials = np.exp(logits - logits.max())
        pooled = (exponentials / exponentials.sum()).astype(np.float32)
        (top,), (second,) = (found.tolist() for found in top_two(pooled[None]))
        classes = self._recipe.classes
        chosen: int | None = top if pooled[top] >= self._least else None
        if not len(counted):
            default = self._recipe.default_class
            chosen = None if default is None else classes.index(default)
        return Label(
            id=name,
            status="abstained" if chosen is None else "labeled",
            label=None if chosen is None else classes[chosen],
            confidence=float(pooled[top if chosen is None else chosen]),
            probs=dict(zip(classes, pooled.tolist(), strict=True)),
            runner_up=classes[second],
            prior=float(self._prior[top] - self._prior[second]),
            reasons=self._reasons(counted, weight, top, second),
        )

    def _reasons(
        self, rows: npt.NDArray[np.int64], weight: float, top: int, second: int
    ) -> tuple[Reason, ...]:
        votes = self._labels.votes
        names = votes.lf_names
        if not len(rows):
            return tuple(Reason(lf=name, vote=None, score=None, moved=0.0) for name in names)
        embeddings = self._collected.embeddings
        _, moved = self._model.reasons(
            votes.rows(rows),
            top=np.full(len(rows), top),
            runner_up=np.full(len(rows), second),
            embeddings=None if embeddings is None else embeddings[rows],
        )
        return tuple(self._reason(j, name, rows, moved[:, j], weight) for j, name in enumerate(names))

    def _reason(
        self, j: int, name: str, rows: npt.NDArray[np.int64], moved: FloatArray, weight: float
    ) -> Reason:
        """Return one LF's part: what its frames moved together, with the vote of the one that moved most that way."""
        total = float(moved.mean(dtype=np.float64) * weight)
        votes = self._labels.votes
        spoke = (votes.classes[rows, j] != ABSTAIN) | (moved != 0)
        if not spoke.any():
            return Reason(lf=name, vote=None, score=None, moved=0.0)
        way = np.where(spoke, moved if total >= 0 else -moved, -np.inf)
        row = int(rows[int(way.argmax())])
        vote, score = int(votes.classes[row, j]), float(votes.scores[row, j])
        return Reason(
            lf=name,
            vote=None if vote == ABSTAIN else votes.value_names[vote],
            score=None if np.isnan(score) else score,
            moved=total,
            at=self._labels.ids[row],
        )
