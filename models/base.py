"""The contract of label models: from a label matrix to probabilities, with additive reasons, saved and loaded exactly.

The label models of this version are *additive*: the log-posterior of a class is its log-prior plus one term for each LF
that voted for it. So an explanation is exact, and a saved model replays bit for bit.
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

from manyeyes.errors import InvalidVotes, ModelNotFound, NotFitted, WeightsMismatch
from manyeyes.registry import load
from manyeyes.types import ABSTAIN, FloatArray, Votes

Gold = npt.NDArray[np.signedinteger[Any]]
"""Known labels: any signed integer dtype, shape (n_items,); ABSTAIN where an item has none."""

ACCURACY_OF_A_HARD_VOTE = 0.7
"""What a vote without a score is worth before anything is known of its LF: right seven times out of ten."""

_FORMAT = 1


@dataclass(frozen=True)
class Explanation:
    """Why a posterior is what it is: ``log posterior = log_prior + evidence.sum(axis=1)`` up to normalisation.

    log_prior: float64, shape (n_classes,). evidence: float64, shape (n_items, n_lfs, n_classes), in nats.
    """

    log_prior: npt.NDArray[np.float64]
    evidence: npt.NDArray[np.float64]


class LabelModel:
    """Base of every label model.

    ``__init__`` only stores hyperparameters, under their own names; learned state ends in ``_``. A subclass sets
    ``name`` and ``hyperparameters``, and implements ``_learn``, ``_weights`` and, where it learns arrays, ``learned``.
    """

    name: ClassVar[str]
    hyperparameters: ClassVar[tuple[str, ...]] = ("class_balance",)
    learned: ClassVar[tuple[str, ...]] = ()

    class_balance: Sequence[float] | None = None
    log_prior_: npt.NDArray[np.float64]
    class_names_: tuple[str, ...]
    lf_names_: tuple[str, ...]

    def fit(
        self, votes: Votes, gold: Gold | None = None, *, shared: Sequence[Sequence[str]] | None = None
    ) -> Self:
        """Learn from votes, forget earlier fits, return self.

        gold: known labels, shape (n_items,), ABSTAIN where unknown. shared: which primitives each LF reads; defaults to
        ``votes.shared``. Raises InvalidVotes if the gold labels do not fit the votes.
        """
        if gold is not None:
            gold = np.asarray(gold)
            in_range = not gold.size or (gold.min() >= ABSTAIN and gold.max() < votes.n_classes)
            if gold.shape != (votes.n_items,) or not in_range:
                raise InvalidVotes(
                    f"gold labels must have shape ({votes.n_items},) with values from {ABSTAIN} (unknown) to"
                    f" {votes.n_classes - 1}, got shape {gold.shape}"
                )
        self.class_names_, self.lf_names_ = votes.class_names, votes.lf_names
        self.log_prior_ = self._log_prior(votes.n_classes)
        self._learn(votes, gold, tuple(map(tuple, shared)) if shared is not None else votes.shared)
        return self

    def predict_proba(self, votes: Votes) -> FloatArray:
        """Return class probabilities: float32, shape (n_items, n_classes).

        Rows sum to 1; a row in which every LF abstains is the prior. Raises NotFitted before ``fit``, InvalidVotes if
        the votes are of other LFs or classes than those fitted.
        """
        return softmax(self._log_posterior(votes)).astype(np.float32)

    def explain(self, votes: Votes) -> Explanation:
        """Return the prior and the evidence behind ``predict_proba``; it holds n·m·k floats."""
        weights = self._checked_weights(votes)
        evidence = np.zeros((votes.n_items, votes.n_lfs, votes.n_classes))
        item, lf = np.nonzero(votes.classes != ABSTAIN)
        evidence[item, lf, votes.classes[item, lf]] = weights[item, lf]
        return Explanation(log_prior=self.log_prior_, evidence=evidence)

    def reasons(
        self, votes: Votes, *, top: npt.NDArray[Any], runner_up: npt.NDArray[Any]
    ) -> tuple[FloatArray, FloatArray]:
        """Return what stands between two classes of each item: prior log-odds and what each LF added to them.

        top, runner_up: class indices, shape (n_items,). Returns float32, shapes (n_items,) and (n_items, n_lfs);
        ``prior + moved.sum(axis=1)`` is the log-odds of top against runner-up.
        """
        weights = self._checked_weights(votes)
        sign = (votes.classes == top[:, None]).astype(np.float64) - (votes.classes == runner_up[:, None])
        prior = self.log_prior_[top] - self.log_prior_[runner_up]
        return prior.astype(np.float32), (weights * sign).astype(np.float32)

    @property
    def version(self) -> str:
        """Hash of the hyperparameters and everything learned: equal versions give equal labels for equal votes."""
        digest = hashlib.sha256(json.dumps(self._header(), sort_keys=True).encode())
        for key, array in sorted(self._arrays().items()):
            digest.update(
                key.encode() + str(array.dtype).encode() + str(array.shape).encode() + array.tobytes()
            )
        return f"{self.name}:{digest.hexdigest()[:16]}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model into a folder, as ``label_model.json`` and ``label_model.safetensors``."""
        from safetensors.numpy import save

        header = self._header() | {"version": self.version}
        arrays = save({key: np.ascontiguousarray(array) for key, array in self._arrays().items()})
        header["sha256"] = hashlib.sha256(arrays).hexdigest()
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        # Each file appears whole or not at all; a reader of a new header beside old arrays sees the digest differ.
        for name, data in (
            ("label_model.safetensors", arrays),
            ("label_model.json", json.dumps(header, indent=2).encode() + b"\n"),
        ):
            partial = folder / f".{name}.{os.getpid()}"
            partial.write_bytes(data)
            os.replace(partial, folder / name)

    # What a subclass says

    def _learn(self, votes: Votes, gold: Gold | None, shared: Sequence[Sequence[str]]) -> None:
        """Set the learned state."""

    def _weights(self, votes: Votes) -> npt.NDArray[np.float64]:
        """Return the evidence of each vote for the class it names, in nats: float64, shape (n_items, n_lfs).

        Values at abstentions are ignored.
        """
        raise TypeError(f"{type(self).__name__} does not say what a vote weighs")

    # What follows from it

    def _log_prior(self, n_classes: int) -> npt.NDArray[np.float64]:
        if self.class_balance is None:
            return np.full(n_classes, -np.log(n_classes))
        balance = np.asarray(self.class_balance, dtype=np.float64)
        if (
            balance.shape != (n_classes,)
            or (balance <= 0).any()
            or not np.isclose(balance.sum(), 1.0, atol=1e-6)
        ):
            raise InvalidVotes(
                f"class_balance must hold {n_classes} positive probabilities that sum to 1, got {balance.tolist()}"
            )
        return np.asarray(np.log(balance / balance.sum()), dtype=np.float64)

    def _checked_weights(self, votes: Votes) -> npt.NDArray[np.float64]:
        if not hasattr(self, "log_prior_"):
            raise NotFitted(f"{type(self).__name__} has not seen any votes yet; call fit(votes) first")
        if votes.class_names != self.class_names_ or votes.lf_names != self.lf_names_:
            raise InvalidVotes(
                "these votes are not of the classes and LFs that the label model was fitted on; fitted on classes"
                f" {list(self.class_names_)} and LFs {list(self.lf_names_)}, got {list(votes.class_names)} and"
                f" {list(votes.lf_names)}; fit it again for this recipe"
            )
        return np.where(votes.classes == ABSTAIN, 0.0, self._weights(votes))

    def _log_posterior(self, votes: Votes) -> npt.NDArray[np.float64]:
        weights = self._checked_weights(votes)
        return self.log_prior_ + sum_by_class(votes, weights)

    def _header(self) -> dict[str, Any]:
        if not hasattr(self, "log_prior_"):
            raise NotFitted(f"{type(self).__name__} has nothing to save yet; call fit(votes) first")
        return {
            "format": _FORMAT,
            "label_model": self.name,
            "hyperparameters": {
                key: list(value) if isinstance(value := getattr(self, key), (tuple, np.ndarray)) else value
                for key in self.hyperparameters
            },
            "classes": list(self.class_names_),
            "lfs": list(self.lf_names_),
        }

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {key: getattr(self, key) for key in ("log_prior_", *self.learned)}

    def _restore(self, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.class_names_, self.lf_names_ = tuple(header["classes"]), tuple(header["lfs"])
        for key in ("log_prior_", *self.learned):
            setattr(self, key, arrays[key])


def load_label_model(path: str | os.PathLike[str]) -> LabelModel:
    """Read a label model that ``save`` wrote.

    Raises ModelNotFound if the folder holds none, WeightsMismatch if its files do not belong together.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as load_arrays

    folder = Path(path)
    try:
        header = json.loads((folder / "label_model.json").read_text("utf-8"))
        raw = (folder / "label_model.safetensors").read_bytes()
    except (OSError, ValueError) as error:
        raise ModelNotFound(
            f"no label model in {str(folder)!r} ({error}); `manyeyes label … --save-label-model {folder}` writes one"
        ) from error
    if header.get("format") != _FORMAT or header.get("sha256") != hashlib.sha256(raw).hexdigest():
        raise WeightsMismatch(
            f"the label model in {str(folder)!r} is damaged or of another format: label_model.safetensors is not the"
            " file that label_model.json describes; save it again"
        )
    model: LabelModel = load("manyeyes.label_models", header["label_model"])(**header["hyperparameters"])
    try:
        model._restore(header, load_arrays(raw))
    except (KeyError, SafetensorError) as error:
        raise WeightsMismatch(f"the label model in {str(folder)!r} lacks {error}; save it again") from error
    return model


def sum_by_class(votes: Votes, weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return, for every item and class, the summed weight of the votes for it: float64, shape (n_items, n_classes)."""
    item, lf = np.nonzero(votes.classes != ABSTAIN)
    cell = item * votes.n_classes + votes.classes[item, lf]
    summed = np.bincount(cell, weights=weights[item, lf], minlength=votes.n_items * votes.n_classes)
    return summed.astype(np.float64, copy=False).reshape(votes.n_items, votes.n_classes)


def softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return row-wise probabilities: float64, same shape.

    >>> softmax(np.log([[1.0, 3.0]])).tolist()
    [[0.25, 0.75]]
    """
    if not logits.size:
        return logits.copy()
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    normalised: npt.NDArray[np.float64] = shifted / shifted.sum(axis=1, keepdims=True)
    return normalised
