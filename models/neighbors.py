"""Votes lent to near neighbours: what labeling functions (LFs) said of items that look or read alike.

An LF that abstains on an item may have voted on ten much like it; an LF that votes may be contradicted by everything
around. Where items close in an embedding space share a label, either tells of the label, and this model listens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidVotes
from manyeyes.models.base import Gold, LabelModel, Neighbors
from manyeyes.models.evidence import Float, members, softmax
from manyeyes.registry import load
from manyeyes.types import ABSTAIN, FloatArray, Votes, no_scores

_CANDIDATES = 8
"""Neighbours fetched beyond those needed, so that ties at the edge are settled by exact cosines."""
_BANDS = (0.9, 0.75, 0.5, 0.0)
"""Quantiles of the similarity of neighbours at which an LF's radius may lie, the nearest first."""
_SETTLED = 6
"""Decimals of a cosine that count: the last bits of a matrix product depend on its size."""
_QUERIES = 2_000
_LEAST_PAIRS = 20.0
_REACH = 0.1
"""How far above chance, as a share of what it is on an LF's own items, agreement must be for a vote to be lent."""


class EmbeddingAware(LabelModel):
    """A label model whose votes reach as far in embedding space as they are seen to hold.

    To the log-posterior of the base model this adds, for every LF, ``lend`` times the mean evidence of its votes over
    the item's ``n_neighbors`` nearest fitted items on which any LF voted, weighted by ``exp(sharpness · (cosine − the
    nearest's cosine))``. A vote is lent only within its LF's radius: the least cosine down to which, on the fitted
    items, a neighbour's vote still agrees with the item's posterior clearly more often than chance. So an LF is
    believed more where its surroundings agree with it and less where they do not, and items on which every LF
    abstains get labels from their neighbours.

    Items without an embedding (None, or rows of NaN) are labeled by the base model alone. A lent vote is a vote: it may
    outweigh an item's own, even where these agree.

    base: name of the label model to build on. max_index: fitted items kept at most; of more, every n-th is.

    Source of the idea: Chen et al. 2022, "Shoring up the foundations: fusing model embeddings and weak supervision"
    (Liger: votes extended within a radius, local accuracies).
    """

    name = "embedding_aware"
    hyperparameters = ("class_balance", "base", "n_neighbors", "lend", "sharpness", "max_index")
    learned = ("index_", "index_classes_", "index_scores_", "index_rows_", "radius_")

    index_: npt.NDArray[np.float16]
    """Shape (n_index, dim): embeddings of fitted items, of unit length."""
    index_classes_: npt.NDArray[np.signedinteger[Any]]
    index_scores_: FloatArray
    index_rows_: npt.NDArray[np.int64]
    """Shape (n_index,): which row of the fitted votes each is."""
    radius_: Float
    """Shape (n_lfs,): the least cosine at which a vote of this LF is lent; above 1 where it never is."""
    base_: LabelModel

    def __init__(
        self,
        class_balance: Sequence[float] | str | None = None,
        *,
        base: str = "dependency_aware",
        n_neighbors: int = 20,
        lend: float = 2.0,
        sharpness: float = 10.0,
        max_index: int = 20_000,
    ) -> None:
        self.class_balance = class_balance
        self.base = base
        self.n_neighbors = n_neighbors
        self.lend = lend
        self.sharpness = sharpness
        self.max_index = max_index

    def _learn(
        self,
        votes: Votes,
        gold: Gold | None,
        embeddings: FloatArray | None,
        shared: Sequence[Sequence[str]],
    ) -> None:
        base: LabelModel = load("manyeyes.label_models", self.base)(self.class_balance)
        self.build_on(base.fit(votes, gold, None, shared), votes, embeddings)

    def build_on(self, base: LabelModel, votes: Votes, embeddings: FloatArray | None) -> None:
        """Take a fitted base model and learn how far its votes reach."""
        self.class_names_, self.lf_names_, self.sets_ = votes.class_names, votes.lf_names, votes.sets
        self.base_, self.log_prior_, self.share_ = base, base.log_prior_, base.share_
        self._cache: _Index | None = None
        if embeddings is None:
            embeddings = np.zeros((votes.n_items, 0), dtype=np.float32)
        unit, present = _unit(embeddings)
        rows = np.flatnonzero(present & (votes.classes != ABSTAIN).any(axis=1))
        rows = rows[:: max(1, -(-rows.size // self.max_index))]
        self.index_ = unit[rows].astype(np.float16)
        self.index_classes_ = votes.classes[rows]
        self.index_scores_ = (
            np.zeros((0, votes.n_lfs), dtype=np.float32) if votes.is_hard else votes.scores[rows]
        )
        self.index_rows_ = rows.astype(np.int64)
        self.radius_ = np.full(votes.n_lfs, 2.0)
        if len(rows) > self.n_neighbors:
            self.radius_ = self._learn_radii()
            self._cache = None

    def _learn_radii(self) -> Float:
        index = self._index()
        votes = index.votes
        queries = np.arange(0, votes.n_items, max(1, votes.n_items // _QUERIES))
        near, cosine = index.search(index.unit[queries], self.n_neighbors + 1)
        # An item finds itself first, or a twin that says no more of the reach of its votes.
        near, cosine = near[:, 1:], cosine[:, 1:]
        bands = np.quantile(cosine, _BANDS)
        told = self.base_.explain(votes.rows(queries))
        posterior = softmax(told.log_prior + told.evidence.sum(axis=1))
        named = members(votes)
        radius = np.full(votes.n_lfs, 2.0)
        for j in range(votes.n_lfs):
            own_vote = votes.classes[queries, j]
            voted = own_vote != ABSTAIN
            if not voted.any():
                continue
            own = float((posterior[voted] * named[own_vote[voted]]).sum(axis=1).mean())
            lent = votes.classes[near, j]
            pair = lent != ABSTAIN
            if pair.sum() < _LEAST_PAIRS:
                continue
            agreement = np.einsum("qk,qnk->qn", posterior, named[lent])
            habit = named[lent[pair]].mean(axis=0)
            chance = float(posterior.mean(axis=0) @ habit)
            wanted = chance + _REACH * max(own - chance, 0.05)
            upper = np.inf
            for lower in bands:
                band = pair & (cosine >= lower) & (cosine < upper)
                if band.sum() >= _LEAST_PAIRS:
                    if float(agreement[band].mean()) < wanted:
                        break
                    radius[j] = lower
                upper = lower
        return radius

    # What a vote adds

    def _state(self, votes: Votes, embeddings: FloatArray | None) -> _Lending:
        return _Lending(self.base_._state(votes, None), self._found(votes.n_items, embeddings))

    def _row_prior(self, votes: Votes, state: _Lending) -> Float:
        return self.base_._row_prior(votes, state.of_base)

    def _evidence(self, votes: Votes, lf: int, state: _Lending) -> Float:
        evidence = self.base_._evidence(votes, lf, state.of_base)
        if state.found is not None and self.radius_[lf] <= 1.0:
            lent = self._index().evidence(self.base_, lf)
            evidence = evidence + self.lend * _weighted(lent, state.found, self.radius_[lf])
        return evidence

    def _log_posterior(self, votes: Votes, embeddings: FloatArray | None) -> Float:
        total = self.base_._log_posterior(votes, None)
        found = self._found(votes.n_items, embeddings)
        if found is not None:
            for radius, lent in self._index().by_radius(self.base_, self.radius_):
                total += self.lend * _weighted(lent, found, radius)
        return total

    def _neighbors(self, state: _Lending) -> Neighbors | None:
        found = state.found
        if found is None:
            return None
        voted = self.index_classes_[found.near] != ABSTAIN
        reached = voted & (found.cosine[:, :, None] >= self.radius_)
        lent = (found.weight[:, :, None] * reached).sum(axis=1)
        item = np.where(reached, self.index_rows_[found.near][:, :, None], -1)
        cosine = np.where(reached, found.cosine[:, :, None], np.nan)
        return Neighbors(
            item=np.moveaxis(item, 1, 2),
            similarity=np.moveaxis(cosine, 1, 2).astype(np.float32),
            lent=lent.astype(np.float32),
        )

    def _found(self, n_items: int, embeddings: FloatArray | None) -> _Found | None:
        if embeddings is None or not len(self.index_) or not (self.radius_ <= 1.0).any():
            return None
        if embeddings.shape[1] != self.index_.shape[1]:
            raise InvalidVotes(
                f"embeddings have {embeddings.shape[1]} dimensions, but the label model was fitted on"
                f" {self.index_.shape[1]}; give those of the same encoder"
            )
        unit, present = _unit(embeddings)
        near, cosine = self._index().search(unit, self.n_neighbors)
        weight = np.exp(self.sharpness * (cosine - cosine[:, :1]))
        weight /= weight.sum(axis=1, keepdims=True)
        weight[~present] = 0.0
        return _Found(near, cosine, weight)

    def _index(self) -> _Index:
        made: _Index | None = self.__dict__.get("_cache")
        if made is None:
            classes = self.index_classes_
            scores = self.index_scores_ if len(self.index_scores_) else no_scores(classes.shape)
            votes = Votes(classes, scores, self.class_names_, self.lf_names_, sets=self.sets_)
            # What float16 rounds is the length, too, and a cosine above 1 would be beyond any radius.
            made = self._cache = _Index(_unit(self.index_.astype(np.float32))[0], votes)
        return made

    # Saved with its base

    def _header(self) -> dict[str, Any]:
        header = super()._header()
        return header | {"on": self.base_._header()}

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        return super()._arrays() | {f"on.{key}": array for key, array in self.base_._arrays().items()}

    def _restore(self, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        super()._restore(header, arrays)
        self.base_ = restored(header["on"], arrays, "on.")
        self._cache = None


def restored(header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> LabelModel:
    """Rebuild a label model that was saved inside another, its arrays under a prefix."""
    model: LabelModel = load("manyeyes.label_models", header["label_model"])(**header["hyperparameters"])
    model._restore(
        header, {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)}
    )
    return model


@dataclass(frozen=True, eq=False)
class _Found:
    """near: intp, (n_items, n_neighbors); places in the index. cosine: float64. weight: float64, rows sum to 1, or to 0
    for an item without an embedding."""

    near: npt.NDArray[np.intp]
    cosine: Float
    weight: Float


@dataclass(frozen=True, eq=False)
class _Lending:
    of_base: Any
    found: _Found | None


class _Index:
    """The fitted items in embedding space, with the evidence that their votes can lend."""

    def __init__(self, unit: FloatArray, votes: Votes) -> None:
        import faiss

        self.unit, self.votes = unit, votes
        self._faiss = faiss.IndexFlatIP(unit.shape[1])
        self._faiss.add(unit)
        self._by_radius: list[tuple[float, Float]] | None = None

    def search(self, unit: FloatArray, count: int) -> tuple[npt.NDArray[np.intp], Float]:
        """Return the nearest items and their cosines, nearest first, the same whatever else is searched for."""
        count = min(count, len(self.unit))
        _, near = self._faiss.search(np.ascontiguousarray(unit), min(count + _CANDIDATES, len(self.unit)))
        cosine = np.empty(near.shape)
        for place in range(near.shape[1]):
            cosine[:, place] = np.einsum("ij,ij->i", unit, self.unit[near[:, place]], dtype=np.float64)
        cosine = cosine.round(_SETTLED)
        order = np.lexsort((near, -cosine))[:, :count]
        rows = np.arange(len(near))[:, None]
        return near[rows, order], cosine[rows, order]

    def evidence(self, base: LabelModel, lf: int) -> Float:
        """Return the evidence of one LF's votes on the indexed items: (n_index, n_classes), 0 where it abstains."""
        evidence = base.evidence_of(self.votes, lf)
        evidence[self.votes.classes[:, lf] == ABSTAIN] = 0.0
        return evidence

    def by_radius(self, base: LabelModel, radius: Float) -> list[tuple[float, Float]]:
        """Return for each radius the summed evidence of the LFs that have it: [(cosine, (n_index, n_classes))]."""
        if self._by_radius is None:
            self._by_radius = [
                (
                    float(level),
                    np.sum([self.evidence(base, int(j)) for j in np.flatnonzero(radius == level)], axis=0),
                )
                for level in np.unique(radius[radius <= 1.0])
            ]
        return self._by_radius


def _weighted(lent: Float, found: _Found, radius: float) -> Float:
    """Return the weighted mean of what neighbours within a radius lend: float64, (n_items, n_classes)."""
    total = np.zeros((len(found.near), lent.shape[1]))
    for place in range(found.near.shape[1]):
        weight = found.weight[:, place] * (found.cosine[:, place] >= radius)
        total += weight[:, None] * lent[found.near[:, place]]
    return total


def _unit(embeddings: FloatArray) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Return embeddings scaled to unit length, zeros where there is none, and where there is one."""
    length = np.linalg.norm(embeddings.astype(np.float32), axis=1)
    present = np.isfinite(length) & (length > 0)
    unit = np.where(present[:, None], embeddings / np.where(present, length, 1.0)[:, None], 0.0)
    return unit.astype(np.float32), present
