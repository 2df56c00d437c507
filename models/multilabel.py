"""Multi-label fusion: any number of classes may be present in an item, each with a probability and reasons of its own.

Each class is a question by itself, present or absent, for a label model of two classes. Where the answers to
two such questions go together more than by chance, each then moves the other a little.
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
from manyeyes.models.base import LabelModel
from manyeyes.models.couplings import Mask, learn_couplings
from manyeyes.models.evidence import Float, block_size, in_blocks
from manyeyes.models.multivotes import ABSENT, PRESENT, MultiVotes
from manyeyes.registry import load
from manyeyes.types import ABSTAIN, FloatArray, Votes

__all__ = ["MultiExplanation", "MultiLabelModel", "MultiVotes"]

_FORMAT = 1
_LEAST_SHARE = 1e-4
_MAX_ROWS = 20_000
"""Items that couplings are learned from at most; of more, every n-th."""


@dataclass(frozen=True, eq=False)
class MultiExplanation:
    """Why each class is as probable as it is: log-odds of presence = prior + the sums of ``lfs`` and ``labels``.

    prior: float64, shape (n_items, n_classes). lfs: float64, shape (n_items, n_lfs, n_classes); what each LF
    added. labels: float64, shape (n_items, n_classes, n_classes); ``labels[:, d, c]`` is what label d added
    to label c.
    """

    prior: Float
    lfs: Float
    labels: Float

    @property
    def log_odds(self) -> Float:
        """Log-odds of presence: float64, shape (n_items, n_classes)."""
        total: Float = self.prior + self.lfs.sum(axis=1) + self.labels.sum(axis=1)
        return total


class MultiLabelModel:
    """Independent probabilities of presence, one a class, and then what the labels tell of each other.

    base: the label model that weighs the votes on each class, by its name in the registry. correlations:
    whether labels that go together move each other: see ``manyeyes.models.couplings``. It takes votes of both
    kinds, present and absent, or gold labels, to learn that; where no two labels go together significantly
    the result is the independent one, to the bit. class_balance: shares of items in which each class is
    present, shape (n_classes,); None learns them.

    Where no LF speaks of a class, its probability is its share: the one given, else that among gold labels,
    else what the votes say: the mean probability where LFs spoke, or, if they never say "absent", that over
    all items, since such LFs speak where they see something. A class of which nothing was ever said has share
    1/2.
    """

    hyperparameters: ClassVar[tuple[str, ...]] = ("base", "correlations", "class_balance")

    class_names_: tuple[str, ...]
    lf_names_: tuple[str, ...]
    models_: tuple[LabelModel | None, ...]
    """One fitted label model a class; None where no LF spoke of it."""
    lfs_: tuple[tuple[int, ...], ...]
    """For each class, the LFs that spoke of it."""
    share_: Float
    """Shape (n_classes,): how often each class is present."""
    coupling_: Float
    """Shape (n_classes, n_classes): ``coupling_[d, c]`` is what the presence of d adds to the log-odds of c against its
    absence, in nats; 0 where two labels do not go together."""
    centre_: Float
    """Shape (n_classes, n_classes): the probability of d at which it says nothing of c."""
    alike_: npt.NDArray[np.uint8]
    """Shape (n_lfs, n_lfs): 1 where two LFs read the same primitive, or are the same one, so that one of them that
    speaks of a class has spoken for the other."""

    def __init__(
        self,
        base: str = "dependency_aware",
        *,
        correlations: bool = True,
        class_balance: Sequence[float] | None = None,
    ) -> None:
        self.base = base
        self.correlations = correlations
        self.class_balance = class_balance

    def fit(
        self,
        votes: MultiVotes,
        gold: npt.NDArray[np.signedinteger[Any]] | None = None,
        embeddings: FloatArray | None = None,
        shared: Sequence[Sequence[str]] | None = None,
    ) -> Self:
        """Learn from votes, forget earlier fits, return self.

        gold: int, shape (n_items, n_classes); 1 present, 0 absent, -1 unknown. embeddings: float32, shape
        (n_items, dim), for a base that uses them. shared: which primitives each LF reads; defaults to
        ``votes.shared``. Raises InvalidVotes if gold, class_balance or embeddings do not fit the votes,
        InvalidRecipe if no label model is called ``base``.
        """
        n, k = votes.n_items, votes.n_classes
        if gold is not None:
            gold = np.asarray(gold)
            if gold.shape != (n, k) or (gold.size and (gold.min() < ABSTAIN or gold.max() > PRESENT)):
                raise InvalidVotes(
                    f"multi-label gold must have shape ({n}, {k}) with values 1 (present), 0 (absent) and -1 (unknown),"
                    f" got shape {gold.shape}"
                )
        given = self._given(k)
        reads = tuple(map(tuple, shared)) if shared is not None else votes.shared
        make = load("manyeyes.label_models", self.base)
        self.class_names_, self.lf_names_ = votes.class_names, votes.lf_names
        models: list[LabelModel | None] = []
        lfs: list[tuple[int, ...]] = []
        self.share_ = np.full(k, 0.5)
        for c in range(k):
            speakers = votes.speakers(c)
            known = None if gold is None else gold[:, c]
            model = None
            if speakers:
                balance = None if given is None else [1 - given[c], given[c]]
                model = make(class_balance=balance)
                asked = votes.binary(c, speakers)
                model.fit(asked, known, embeddings, [reads[j] for j in speakers] if reads else None)
            models.append(model)
            lfs.append(tuple(speakers))
            if given is not None:
                self.share_[c] = given[c]
            elif known is not None and (known != ABSTAIN).any():
                self.share_[c] = ((known == PRESENT).sum() + 1) / ((known != ABSTAIN).sum() + 2)
            elif model is not None:
                self.share_[c] = _share_of(model, asked, embeddings)
        self.models_, self.lfs_ = tuple(models), tuple(lfs)
        self.coupling_, self.centre_ = np.zeros((k, k)), np.full((k, k), 0.5)
        self.alike_ = _alike(votes.n_lfs, reads)
        if self.correlations and k > 1:
            self._couple(votes, gold, embeddings)
        return self

    def predict_proba(self, votes: MultiVotes, embeddings: FloatArray | None = None) -> FloatArray:
        """Return the probability that each class is present: float32, shape (n_items, n_classes).

        Each row holds independent questions and need not sum to 1. Raises NotFitted before ``fit``,
        InvalidVotes if the votes are of other LFs or classes than those fitted.
        """
        self._check(votes, embeddings)
        probs = np.empty((votes.n_items, votes.n_classes), dtype=np.float32)

        def work(rows: slice) -> None:
            block, vectors = votes.rows(rows), None if embeddings is None else embeddings[rows]
            log_odds = self._alone(block, vectors)
            if self.coupling_.any():
                evidence = self._evidence(block, vectors)
                for c in np.flatnonzero(self.coupling_.any(axis=0)).tolist():
                    for added in self._from_labels(block, evidence, c).T:
                        log_odds[:, c] += added
            probs[rows] = _sigmoid(log_odds)

        in_blocks(votes.n_items, work, size=block_size(votes.n_classes))
        return probs

    def explain(self, votes: MultiVotes, embeddings: FloatArray | None = None) -> MultiExplanation:
        """Return the prior, LFs and labels behind ``predict_proba``; it holds n·k·(m + k) floats."""
        self._check(votes, embeddings)
        evidence = self._evidence(votes, embeddings)
        k = votes.n_classes
        labels = np.stack([self._from_labels(votes, evidence, c) for c in range(k)], axis=2)
        return MultiExplanation(evidence.prior, evidence.lfs, labels)

    def reasons(
        self, votes: MultiVotes, class_name: str, embeddings: FloatArray | None = None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return why one class is as probable as it is: the prior log-odds, what each LF and each other label added.

        Returns float32, shapes (n_items,), (n_items, n_lfs) and (n_items, n_classes); their sums are the
        log-odds of presence. Raises InvalidVotes if no class has that name.
        """
        self._check(votes, embeddings)
        if class_name not in self.class_names_:
            raise InvalidVotes(f"no class is called {class_name!r}; allowed: {', '.join(self.class_names_)}")
        c = self.class_names_.index(class_name)
        evidence = self._evidence(votes, embeddings)
        labels = self._from_labels(votes, evidence, c)
        return (
            evidence.prior[:, c].astype(np.float32),
            evidence.lfs[:, :, c].astype(np.float32),
            labels.astype(np.float32),
        )

    @property
    def version(self) -> str:
        """Hash of the hyperparameters and everything learned: equal versions give equal labels for equal votes."""
        digest = hashlib.sha256(json.dumps(self._header(), sort_keys=True).encode())
        for key, array in sorted(self._arrays().items()):
            digest.update(f"{key}{array.dtype}{array.shape}".encode() + array.tobytes())
        return f"multi_label:{digest.hexdigest()[:16]}"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted model into a folder, as ``multi_label.json`` and ``multi_label.safetensors``."""
        from safetensors.numpy import save

        header = self._header() | {"version": self.version}
        arrays = save({key: np.ascontiguousarray(array) for key, array in self._arrays().items()})
        header["sha256"] = hashlib.sha256(arrays).hexdigest()
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        # Each file appears whole or not at all; a reader of a new header beside old arrays sees the digest differ.
        for name, data in (
            ("multi_label.safetensors", arrays),
            ("multi_label.json", json.dumps(header, indent=2).encode() + b"\n"),
        ):
            partial = folder / f".{name}.{os.getpid()}"
            partial.write_bytes(data)
            os.replace(partial, folder / name)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what ``save`` wrote.

        Raises ModelNotFound if the folder holds no multi-label model, WeightsMismatch if its files do not
        belong together.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load as load_arrays

        folder = Path(path)
        try:
            header = json.loads((folder / "multi_label.json").read_text("utf-8"))
            raw = (folder / "multi_label.safetensors").read_bytes()
        except (OSError, ValueError) as error:
            raise ModelNotFound(
                f"no multi-label model in {str(folder)!r} ({error}); MultiLabelModel.save writes one"
            ) from error
        if header.get("format") != _FORMAT or header.get("sha256") != hashlib.sha256(raw).hexdigest():
            raise WeightsMismatch(
                f"the multi-label model in {str(folder)!r} is damaged or of another format: multi_label.safetensors is"
                " not the file that multi_label.json describes; save it again"
            )
        model = cls(**header["hyperparameters"])
        try:
            model._restore(header, load_arrays(raw))
        except (KeyError, SafetensorError) as error:
            raise WeightsMismatch(
                f"the multi-label model in {str(folder)!r} lacks {error}; save it again"
            ) from error
        return model

    # How it is done

    def _given(self, k: int) -> Float | None:
        if self.class_balance is None:
            return None
        given = np.asarray(self.class_balance, dtype=np.float64)
        if given.shape != (k,) or not ((given > 0) & (given < 1)).all():
            raise InvalidVotes(
                f"class_balance of a multi-label model holds {k} shares between 0 and 1, one a class, got"
                f" {given.tolist()}"
            )
        return given

    def _alone(self, votes: MultiVotes, embeddings: FloatArray | None) -> Float:
        """Return the log-odds of each class by its own votes: float64, shape (n_items, n_classes)."""
        alone = np.empty((votes.n_items, votes.n_classes))
        for c, (model, lfs) in enumerate(zip(self.models_, self.lfs_, strict=True)):
            alone[:, c] = _log_odds(self.share_[c])
            if model is not None:
                asked = votes.binary(c, lfs)
                posterior = model.log_posterior(asked, embeddings)
                alone[:, c] = posterior[:, PRESENT] - posterior[:, ABSENT]
                silent = (asked.classes == ABSTAIN).all(axis=1)
                alone[:, c] += np.where(silent, self._silent_prior(c, model), 0.0)
        return alone

    def _silent_prior(self, c: int, model: LabelModel) -> float:
        """Return what takes a class's share for the prior of its label model, where no LF spoke."""
        return float(_log_odds(self.share_[c]) - (model.log_prior_[PRESENT] - model.log_prior_[ABSENT]))

    def _evidence(self, votes: MultiVotes, embeddings: FloatArray | None) -> MultiExplanation:
        """Return the prior and what each LF adds, before labels move each other."""
        n, m, k = votes.values.shape
        prior = np.tile(_log_odds(self.share_), (n, 1))
        lfs = np.moveaxis(np.zeros((k, n, m)), 0, 2)  # a class at a time is read together
        for c, model in enumerate(self.models_):
            if model is None:
                continue
            asked = votes.binary(c, self.lfs_[c])
            told = model.explain(asked, embeddings)
            lfs[:, list(self.lfs_[c]), c] = told.evidence[:, :, PRESENT] - told.evidence[:, :, ABSENT]
            silent = (asked.classes == ABSTAIN).all(axis=1)
            prior[:, c] = told.log_prior[:, PRESENT] - told.log_prior[:, ABSENT]
            prior[:, c] += np.where(silent, self._silent_prior(c, model), 0.0)
        return MultiExplanation(prior, lfs, np.zeros((n, 0, k)))

    def _others(
        self, votes: MultiVotes, evidence: MultiExplanation, c: int, which: npt.NDArray[np.intp]
    ) -> tuple[Float, Mask]:
        """Return some labels by the evidence of LFs that have not spoken of class c, nor any LF that is like them.

        Returns their probabilities and where such an LF spoke: shape (n_items, len(which)).
        """
        spoke = (votes.values[:, :, c] != ABSTAIN).astype(np.float32)
        heard = (spoke @ self.alike_.astype(np.float32) == 0).astype(np.float64)
        log_odds = evidence.prior[:, which]
        told = np.zeros(log_odds.shape, dtype=bool)
        for i, d in enumerate(which.tolist()):
            log_odds[:, i] += np.einsum("nm,nm->n", heard, evidence.lfs[:, :, d])
            told[:, i] = np.einsum("nm,nm->n", heard, votes.values[:, :, d] != ABSTAIN) > 0
        return _sigmoid(log_odds), told

    def _from_labels(self, votes: MultiVotes, evidence: MultiExplanation, c: int) -> Float:
        """Return what each label adds to the log-odds of class c: float64, shape (n_items, n_classes)."""
        added = np.zeros((votes.n_items, votes.n_classes))
        which = np.flatnonzero(self.coupling_[:, c])
        if which.size:
            probs, told = self._others(votes, evidence, c, which)
            away = np.where(told, probs - self.centre_[which, c], 0.0)
            added[:, which] = away * self.coupling_[which, c]
        return added

    def _couple(
        self,
        votes: MultiVotes,
        gold: npt.NDArray[np.signedinteger[Any]] | None,
        embeddings: FloatArray | None,
    ) -> None:
        step = -(-votes.n_items // _MAX_ROWS) if votes.n_items else 1
        votes = votes.rows(slice(None, None, step))
        evidence = self._evidence(votes, None if embeddings is None else embeddings[::step])
        # LFs that only ever say "present" choose where to speak, and then speaking together tells of the LFs.
        both = (votes.values == ABSENT).any(axis=(0, 1)) & (votes.values == PRESENT).any(axis=(0, 1))
        gold = np.full((votes.n_items, votes.n_classes), ABSTAIN) if gold is None else gold[::step]
        known = gold != ABSTAIN
        probs = np.where(known, gold, _sigmoid(evidence.log_odds))
        seen = ((votes.values != ABSTAIN).any(axis=1) & both) | known
        every = np.arange(votes.n_classes)

        def others(c: int) -> tuple[Float, Mask]:
            other, told = self._others(votes, evidence, c, every)
            # What LFs say is taken with its errors, as it will be later; gold speaks where they do not.
            return np.where(known & ~told, gold, other), (told & both) | known

        self.coupling_, self.centre_ = learn_couplings(probs, seen, others)

    def _check(self, votes: MultiVotes, embeddings: FloatArray | None) -> None:
        if not hasattr(self, "models_"):
            raise NotFitted("this MultiLabelModel has not seen any votes yet; call fit(votes) first")
        if (votes.class_names, votes.lf_names) != (self.class_names_, self.lf_names_):
            raise InvalidVotes(
                "these votes are not of the classes and LFs that the model was fitted on; fitted on classes"
                f" {list(self.class_names_)} and LFs {list(self.lf_names_)}, got {list(votes.class_names)} and"
                f" {list(votes.lf_names)}; fit it again"
            )
        if embeddings is not None and (embeddings.ndim != 2 or len(embeddings) != votes.n_items):
            raise InvalidVotes(
                f"embeddings must have shape ({votes.n_items}, dim), one row an item, got {embeddings.shape}"
            )

    def _header(self) -> dict[str, Any]:
        if not hasattr(self, "models_"):
            raise NotFitted("this MultiLabelModel has nothing to save yet; call fit(votes) first")
        balance = None if self.class_balance is None else np.asarray(self.class_balance).tolist()
        return {
            "format": _FORMAT,
            "hyperparameters": {
                "base": self.base,
                "correlations": self.correlations,
                "class_balance": balance,
            },
            "classes": list(self.class_names_),
            "lfs": list(self.lf_names_),
            "lfs_of": [list(lfs) for lfs in self.lfs_],
            "models": [None if model is None else model._header() for model in self.models_],
        }

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        arrays: dict[str, npt.NDArray[Any]] = {
            "share_": self.share_,
            "coupling_": self.coupling_,
            "centre_": self.centre_,
            "alike_": self.alike_,
        }
        for c, model in enumerate(self.models_):
            if model is not None:
                arrays |= {f"{c}.{key}": array for key, array in model._arrays().items()}
        return arrays

    def _restore(self, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.class_names_, self.lf_names_ = tuple(header["classes"]), tuple(header["lfs"])
        self.lfs_ = tuple(map(tuple, header["lfs_of"]))
        self.share_, self.alike_ = arrays["share_"], arrays["alike_"]
        self.coupling_, self.centre_ = arrays["coupling_"], arrays["centre_"]
        models: list[LabelModel | None] = []
        for c, described in enumerate(header["models"]):
            if described is None:
                models.append(None)
                continue
            model: LabelModel = load("manyeyes.label_models", described["label_model"])(
                **described["hyperparameters"]
            )
            prefix = f"{c}."
            model._restore(
                described,
                {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)},
            )
            models.append(model)
        self.models_ = tuple(models)


def _share_of(model: LabelModel, asked: Votes, embeddings: FloatArray | None) -> float:
    """Return how often a class is present, as far as its votes tell."""
    present = model.predict_proba(asked, embeddings)[:, PRESENT].astype(np.float64)
    spoken = (asked.classes != ABSTAIN).any(axis=1)
    among = spoken if (asked.classes == ABSENT).any() else np.ones(asked.n_items, dtype=bool)
    return float(np.clip((present[spoken].sum() + 0.5) / (among.sum() + 1), _LEAST_SHARE, 1 - _LEAST_SHARE))


def _alike(n_lfs: int, reads: Sequence[Sequence[str]]) -> npt.NDArray[np.uint8]:
    """Return which LFs read a primitive in common, or are the same one: shape (n_lfs, n_lfs)."""
    alike = np.eye(n_lfs, dtype=np.uint8)
    for i, first in enumerate(reads):
        alike[i] |= np.array([bool(set(first) & set(second)) for second in reads], dtype=np.uint8)
    return alike


def _log_odds(share: Any) -> Any:
    return np.log(share) - np.log1p(-share)


def _sigmoid(log_odds: Float) -> Float:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * log_odds)))
