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
from manyeyes.models.dependence import copies
from manyeyes.models.evidence import Float, block_size, in_blocks, members, one_blas_thread, softmax
from manyeyes.registry import load
from manyeyes.types import ABSTAIN, FloatArray, Votes

Gold = npt.NDArray[np.signedinteger[Any]]
"""Known labels: any signed integer dtype, shape (n_items,); ABSTAIN where an item has none."""

_FORMAT = 2
_TIE_BREAK = 5e-4


@dataclass(frozen=True)
class Explanation:
    """Why a posterior is what it is: ``log posterior = log_prior + evidence.sum(axis=1)`` up to normalisation.

    log_prior: float64, shape (n_items, n_classes); what each item starts from. evidence: float64, shape (n_items,
    n_lfs, n_classes), in nats. neighbors: for models that look at other items, what was found near each item.
    """

    log_prior: Float
    evidence: Float
    neighbors: Neighbors | None = None


@dataclass(frozen=True)
class Neighbors:
    """The fitted items that lent their votes. For each LF and item, by how much and which.

    item: int64, shape (n_items, n_lfs, n_neighbors); rows of the votes that were fitted, -1 where there is none.
    similarity: float32, same shape; cosine. lent: float32, shape (n_items, n_lfs); how much of a vote was lent, in
    [0, 1].
    """

    item: npt.NDArray[np.int64]
    similarity: FloatArray
    lent: FloatArray


class LabelModel:
    """Base of every label model.

    ``__init__`` only stores hyperparameters, under their own names; learned state ends in ``_``. A subclass sets
    ``name``, ``hyperparameters`` and ``learned``, and implements ``_learn`` and either ``_weights`` or ``_evidence``.
    """

    name: ClassVar[str]
    hyperparameters: ClassVar[tuple[str, ...]] = ("class_balance",)
    learned: ClassVar[tuple[str, ...]] = ()

    class_balance: Sequence[float] | str | None = None
    log_prior_: Float
    share_: Float
    """float64, shape (n_lfs,): 1, or the part of one vote that each of several identical LFs counts for."""
    class_names_: tuple[str, ...]
    lf_names_: tuple[str, ...]
    sets_: tuple[tuple[int, ...], ...]

    def fit(
        self,
        votes: Votes,
        gold: Gold | None = None,
        embeddings: FloatArray | None = None,
        shared: Sequence[Sequence[str]] | None = None,
    ) -> Self:
        """Learn from votes, forget earlier fits, return self.

        gold: known labels, shape (n_items,), ABSTAIN where unknown. embeddings: float32, shape (n_items, dim), NaN rows
        where an item has none; models that do not use them ignore them. shared: which primitives each LF reads;
        defaults to ``votes.shared``. Raises InvalidVotes if gold labels or embeddings do not fit the votes.
        """
        if gold is not None:
            gold = np.asarray(gold)
            in_range = not gold.size or (gold.min() >= ABSTAIN and gold.max() < votes.n_classes)
            if gold.shape != (votes.n_items,) or not in_range:
                raise InvalidVotes(
                    f"gold labels must have shape ({votes.n_items},) with values from {ABSTAIN} (unknown) to"
                    f" {votes.n_classes - 1}, got shape {gold.shape}"
                )
        _check_embeddings(votes, embeddings)
        reads = tuple(map(tuple, shared)) if shared is not None else votes.shared
        self._begin(votes, shares_of_copies(votes, reads))
        with one_blas_thread():
            self._learn(votes, gold, embeddings, reads)
        return self

    def predict_proba(self, votes: Votes, embeddings: FloatArray | None = None) -> FloatArray:
        """Return class probabilities: float32, shape (n_items, n_classes).

        Rows sum to 1; a row in which every LF abstains is the prior, unless embeddings tell more. Raises NotFitted
        before ``fit``, InvalidVotes if the votes are of other LFs or classes than those fitted.
        """
        self._check(votes, embeddings)
        probs = np.empty((votes.n_items, votes.n_classes), dtype=np.float32)

        def work(rows: slice) -> None:
            block = votes.rows(rows)
            softmax(
                self._log_posterior(block, None if embeddings is None else embeddings[rows]), out=probs[rows]
            )

        in_blocks(votes.n_items, work, size=block_size(votes.n_classes))
        return probs

    def log_posterior(self, votes: Votes, embeddings: FloatArray | None = None) -> Float:
        """Return the log-posterior up to a constant an item: float64, shape (n_items, n_classes)."""
        self._check(votes, embeddings)
        return self._log_posterior(votes, embeddings)

    def evidence_of(self, votes: Votes, lf: int, embeddings: FloatArray | None = None) -> Float:
        """Return what one LF adds to the log-posterior of each class: float64, shape (n_items, n_classes), in nats."""
        self._check(votes, embeddings)
        return self._evidence(votes, lf, self._state(votes, embeddings))

    def explain(self, votes: Votes, embeddings: FloatArray | None = None) -> Explanation:
        """Return the prior and the evidence behind ``predict_proba``; it holds n·m·k floats."""
        self._check(votes, embeddings)
        state = self._state(votes, embeddings)
        evidence = np.zeros((votes.n_items, votes.n_lfs, votes.n_classes))
        for j in range(votes.n_lfs):
            evidence[:, j] = self._evidence(votes, j, state)
        return Explanation(self._row_prior(votes, state), evidence, self._neighbors(state))

    def reasons(
        self,
        votes: Votes,
        *,
        top: npt.NDArray[Any],
        runner_up: npt.NDArray[Any],
        embeddings: FloatArray | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Return what stands between two classes of each item: prior log-odds and what each LF added to them.

        top, runner_up: class indices, shape (n_items,). Returns float32, shapes (n_items,) and (n_items, n_lfs);
        ``prior + moved.sum(axis=1)`` is the log-odds of top against runner-up.
        """
        self._check(votes, embeddings)
        ahead = np.empty(votes.n_items, dtype=np.float32)
        moved = np.empty((votes.n_items, votes.n_lfs), dtype=np.float32)

        def work(rows: slice) -> None:
            block, first, second = votes.rows(rows), top[rows], runner_up[rows]
            state = self._state(block, None if embeddings is None else embeddings[rows])
            each = np.arange(block.n_items)
            start = self._row_prior(block, state)
            ahead[rows] = start[each, first] - start[each, second]
            for j in range(votes.n_lfs):
                moved[rows, j] = self._moved(block, j, state, first, second)

        in_blocks(votes.n_items, work, size=block_size(votes.n_classes))
        return ahead, moved

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

    def _begin(self, votes: Votes, share: Float) -> None:
        """Set what every label model keeps of the votes that it is fitted on."""
        self.class_names_, self.lf_names_, self.sets_ = votes.class_names, votes.lf_names, votes.sets
        self.log_prior_ = self._log_prior(votes.n_classes)
        self.share_ = share

    # What a subclass says

    def _learn(
        self,
        votes: Votes,
        gold: Gold | None,
        embeddings: FloatArray | None,
        shared: Sequence[Sequence[str]],
    ) -> None:
        """Set the learned state."""

    def _weights(self, votes: Votes) -> Float:
        """Return the evidence of each vote for what it names, in nats: float64, shape (n_items, n_lfs).

        Values at abstentions are ignored. A vote for a set of classes is evidence for each of them.
        """
        raise TypeError(f"{type(self).__name__} does not say what a vote weighs")

    def _state(self, votes: Votes, embeddings: FloatArray | None) -> Any:
        """Return what ``_row_prior`` and ``_evidence`` need of these items and would else compute for each LF again."""
        return np.where(votes.classes == ABSTAIN, 0.0, self._weights(votes)) * with_ties_broken(self.share_)

    def _row_prior(self, votes: Votes, state: Any) -> Float:
        """Return what each item starts from: float64, shape (n_items, n_classes)."""
        return np.tile(self.log_prior_, (votes.n_items, 1))

    def _evidence(self, votes: Votes, lf: int, state: Any) -> Float:
        """Return what one LF adds: float64, shape (n_items, n_classes)."""
        evidence: Float = state[:, lf, None] * members(votes)[votes.classes[:, lf]]
        return evidence

    def _moved(
        self, votes: Votes, lf: int, state: Any, top: npt.NDArray[Any], runner_up: npt.NDArray[Any]
    ) -> Float:
        """Return what one LF adds to the log-odds of one class of each item against another: float64, (n_items,)."""
        if type(self)._evidence is LabelModel._evidence:
            named, vote = members(votes), votes.classes[:, lf]
            return np.asarray(state[:, lf] * (named[vote, top] - named[vote, runner_up]))
        rows = np.arange(votes.n_items)
        evidence = self._evidence(votes, lf, state)
        return np.asarray(evidence[rows, top] - evidence[rows, runner_up])

    def _log_posterior(self, votes: Votes, embeddings: FloatArray | None) -> Float:
        state = self._state(votes, embeddings)
        total = self._row_prior(votes, state)
        if not votes.sets and type(self)._evidence is LabelModel._evidence:
            total += sum_by_class(votes, state)
            return total
        for j in range(votes.n_lfs):
            total += self._evidence(votes, j, state)
        return total

    def _neighbors(self, state: Any) -> Neighbors | None:
        return None

    # What follows from it

    @property
    def given_balance(self) -> Float | None:
        """The class balance that was given: float64, shape (n_classes,); None if there was none."""
        if self.class_balance is None or isinstance(self.class_balance, str):
            return None
        balance: Float = np.array(self.class_balance, dtype=np.float64)
        balance /= balance.sum()
        return balance

    def _log_prior(self, n_classes: int) -> Float:
        if isinstance(self.class_balance, str) and self.class_balance != "estimated":
            raise InvalidVotes(
                f'class_balance must be probabilities, "estimated" or None, got {self.class_balance!r}'
            )
        if self.class_balance is None or isinstance(self.class_balance, str):
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

    def _check(self, votes: Votes, embeddings: FloatArray | None) -> None:
        if not hasattr(self, "log_prior_"):
            raise NotFitted(f"{type(self).__name__} has not seen any votes yet; call fit(votes) first")
        if (votes.class_names, votes.lf_names) != (self.class_names_, self.lf_names_):
            raise InvalidVotes(
                "these votes are not of the classes and LFs that the label model was fitted on; fitted on classes"
                f" {list(self.class_names_)} and LFs {list(self.lf_names_)}, got {list(votes.class_names)} and"
                f" {list(votes.lf_names)}; fit it again for this recipe"
            )
        if votes.sets != self.sets_:
            raise InvalidVotes(
                f"these votes name other sets of classes than those fitted: {list(votes.sets)}, not {list(self.sets_)};"
                " fit it again for this recipe"
            )
        _check_embeddings(votes, embeddings)

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
            "sets": [list(members) for members in self.sets_],
        }

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {key: getattr(self, key) for key in ("log_prior_", "share_", *self.learned)}

    def _restore(self, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.class_names_, self.lf_names_ = tuple(header["classes"]), tuple(header["lfs"])
        self.sets_ = tuple(tuple(members) for members in header["sets"])
        for key in ("log_prior_", "share_", *self.learned):
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


def sum_by_class(votes: Votes, weights: Float) -> Float:
    """Return, for every item and class, the summed weight of the votes for it: float64, shape (n_items, n_classes)."""
    item, lf = np.nonzero(votes.classes != ABSTAIN)
    cell = item * votes.n_classes + votes.classes[item, lf]
    summed = np.bincount(cell, weights=weights[item, lf], minlength=votes.n_items * votes.n_classes)
    return summed.astype(np.float64, copy=False).reshape(votes.n_items, votes.n_classes)


def shares_of_copies(votes: Votes, shared: Sequence[Sequence[str]]) -> Float:
    """Return what a vote of each LF counts for among its exact copies: float64, shape (n_lfs,)."""
    first = copies(votes.classes, None if votes.is_hard else votes.scores, shared)
    size = np.bincount(first, minlength=votes.n_lfs)[first]
    return np.asarray(1.0 / size)


def with_ties_broken(share: Float) -> Float:
    """Return shares a touch larger for LFs with copies: that breaks ties as a plain count of votes would, no more."""
    return share + _TIE_BREAK * (1.0 - share)


def _check_embeddings(votes: Votes, embeddings: FloatArray | None) -> None:
    if embeddings is not None and (embeddings.ndim != 2 or len(embeddings) != votes.n_items):
        raise InvalidVotes(
            f"embeddings must have shape ({votes.n_items}, dim), one row an item, got {embeddings.shape}"
        )
