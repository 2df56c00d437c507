"""Votes lent to neighbours: where they reach, where they must not, and the same whatever else is asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from manyeyes.errors import InvalidVotes
from manyeyes.models.base import load_label_model
from manyeyes.models.majority import MajorityVote
from manyeyes.models.neighbors import EmbeddingAware
from manyeyes.types import ABSTAIN, FloatArray, Votes

Ints = npt.NDArray[np.int64]


def simulated(
    rng: np.random.Generator, n: int = 1_500, *, k: int = 3, m: int = 4, says: float = 0.3, right: float = 0.8
) -> tuple[Votes, Ints]:
    """Votes of LFs that mostly abstain."""
    truth = rng.integers(0, k, n)
    correct = rng.random((n, m)) < right
    classes = np.where(correct, truth[:, None], (truth[:, None] + rng.integers(1, k, (n, m))) % k)
    return Votes.hard(np.where(rng.random((n, m)) < says, classes, ABSTAIN), k), truth


def clustered(rng: np.random.Generator, truth: Ints, dim: int = 16, spread: float = 0.25) -> FloatArray:
    """Embeddings around one centre a class."""
    centres = np.eye(int(truth.max()) + 1, dim)
    return (centres[truth] + rng.normal(size=(len(truth), dim)) * spread).astype(np.float32)


@pytest.fixture(scope="module")
def fitted() -> tuple[EmbeddingAware, Votes, FloatArray, Ints]:
    rng = np.random.default_rng(0)
    votes, truth = simulated(rng)
    near = clustered(rng, truth)
    return EmbeddingAware().fit(votes, None, near), votes, near, truth


Fitted = tuple[EmbeddingAware, Votes, FloatArray, Ints]


# Where votes reach


def test_lent_votes_reach_items_on_which_every_lf_abstains(fitted: Fitted) -> None:
    model, votes, near, truth = fitted
    silent = (votes.classes == ABSTAIN).all(axis=1)
    assert silent.sum() > 200
    probs = model.predict_proba(votes, near)
    alone = model.base_.predict_proba(votes)
    assert (alone[silent] == np.float32(1 / 3)).all()
    assert (probs.argmax(axis=1) == truth)[silent].mean() > 0.95
    assert (probs.argmax(axis=1) == truth).mean() > (alone.argmax(axis=1) == truth).mean() + 0.1


def test_items_that_were_not_fitted_borrow_too(fitted: Fitted) -> None:
    model = fitted[0]
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 100)
    silent = Votes.hard(np.full((100, 4), ABSTAIN), 3)
    probs = model.predict_proba(silent, clustered(rng, truth))
    assert (probs.argmax(axis=1) == truth).mean() > 0.95


def test_nothing_is_lent_where_embeddings_are_noise() -> None:
    rng = np.random.default_rng(2)
    votes, _ = simulated(rng)
    noise = rng.normal(size=(votes.n_items, 16)).astype(np.float32)
    model = EmbeddingAware().fit(votes, None, noise)
    assert (model.radius_ > 1).all()
    np.testing.assert_array_equal(model.predict_proba(votes, noise), model.base_.predict_proba(votes))
    assert model.explain(votes, noise).neighbors is None


def test_an_lf_whose_votes_do_not_follow_the_embeddings_lends_none() -> None:
    rng = np.random.default_rng(3)
    votes, truth = simulated(rng, m=5, says=0.6)
    votes.classes[:, 4] = rng.integers(0, 3, votes.n_items)
    model = EmbeddingAware().fit(votes, None, clustered(rng, truth))
    assert (model.radius_[:4] <= 1).all() and model.radius_[4] > 1


def test_a_radius_keeps_votes_from_afar() -> None:
    # Two kinds of items: near one centre the class follows the embedding, elsewhere there is nothing to follow.
    rng = np.random.default_rng(4)
    votes, truth = simulated(rng, 3_000, k=2, says=0.5)
    near = clustered(rng, truth, spread=0.1)
    model = EmbeddingAware().fit(votes, None, near)
    assert (model.radius_ <= 1).all()
    far = np.zeros((1, 16), dtype=np.float32)
    far[0, 15] = 1.0
    silent = Votes.hard(np.full((1, 4), ABSTAIN), 2)
    assert model.radius_.min() > 0.5
    assert model.predict_proba(silent, far)[0].tolist() == [0.5, 0.5]
    told = model.explain(silent, far).neighbors
    assert told is not None and (told.item == -1).all() and (told.lent == 0).all()


@pytest.mark.parametrize("dim", [3, 8, 64])
def test_exact_duplicates_lend_to_each_other(dim: int) -> None:
    # As float16 these vectors are longer than 1, so that cosines with them once came out above 1.
    rng = np.random.default_rng(5)
    long = next(
        v
        for v in rng.normal(size=(1_000, dim)).astype(np.float32)
        if np.linalg.norm((v / np.linalg.norm(v)).astype(np.float16).astype(np.float64)) > 1.00005
    )
    votes, truth = simulated(rng, 600, k=2)
    near = np.where(truth[:, None] == 1, long, -long)
    model = EmbeddingAware().fit(votes, None, near)
    assert (model.radius_ <= 1).all()
    silent = (votes.classes == ABSTAIN).all(axis=1)
    assert (model.predict_proba(votes, near).argmax(axis=1) == truth)[silent].all()
    told = model.explain(votes, near).neighbors
    assert told is not None and np.nanmax(told.similarity) <= 1.0


def test_too_few_items_lend_nothing() -> None:
    votes = Votes.hard([[0, 0, 1], [1, 1, 1], [ABSTAIN] * 3], 2)
    near = np.eye(3, dtype=np.float32)
    model = EmbeddingAware().fit(votes, None, near)
    assert (model.radius_ > 1).all()
    np.testing.assert_array_equal(model.predict_proba(votes, near), model.base_.predict_proba(votes))


# Items without an embedding


def test_items_without_an_embedding_are_labeled_by_the_base_alone(fitted: Fitted) -> None:
    model, votes, near, _ = fitted
    some = near.copy()
    some[::3] = np.nan
    some[1::3, 0] = np.inf
    some[2::30] = 0.0
    without = np.zeros(len(some), dtype=bool)
    without[::3] = without[1::3] = without[2::30] = True
    probs = model.predict_proba(votes, some)
    base = model.base_.predict_proba(votes)
    assert probs[without].tobytes() == base[without].tobytes()
    assert probs[~without].tobytes() == model.predict_proba(votes, near)[~without].tobytes()
    assert model.predict_proba(votes).tobytes() == base.tobytes()
    told = model.explain(votes, some).neighbors
    assert told is not None and (told.lent[without] == 0).all() and (told.lent[~without] > 0).any()


def test_missing_embeddings_do_not_enter_the_index() -> None:
    rng = np.random.default_rng(6)
    votes, truth = simulated(rng)
    near = clustered(rng, truth)
    near[::2] = np.nan
    model = EmbeddingAware().fit(votes, None, near)
    assert (model.index_rows_ % 2 == 1).all()
    assert np.isfinite(model.predict_proba(votes, near)).all()
    for nothing in (None, np.full_like(near, np.nan)):
        plain = EmbeddingAware().fit(votes, None, nothing)
        assert len(plain.index_) == 0
        np.testing.assert_array_equal(plain.predict_proba(votes, near), plain.base_.predict_proba(votes))


def test_the_index_is_bounded_and_holds_only_items_with_votes() -> None:
    rng = np.random.default_rng(7)
    votes, truth = simulated(rng)
    near = clustered(rng, truth)
    voted = (votes.classes != ABSTAIN).any(axis=1)
    whole = EmbeddingAware().fit(votes, None, near)
    np.testing.assert_array_equal(whole.index_rows_, np.flatnonzero(voted))
    for limit in (100, 333):
        model = EmbeddingAware(max_index=limit).fit(votes, None, near)
        assert limit / 2 <= len(model.index_) <= limit
        assert voted[model.index_rows_].all()
        np.testing.assert_array_equal(model.index_classes_, votes.classes[model.index_rows_])
        assert model.index_rows_[-1] > 0.9 * votes.n_items


# The same whatever else is asked


def company(kind: str) -> tuple[Votes, FloatArray]:
    rng = np.random.default_rng(8)
    votes, truth = simulated(rng, 1_200)
    if kind == "apart":
        return votes, clustered(rng, truth, dim=48)
    if kind == "duplicates":  # more of each than are fetched, with different votes
        return votes, clustered(rng, np.arange(9), dim=48)[truth * 3 + rng.integers(0, 3, len(truth))]
    words = (rng.random((len(truth), 24)) < 0.1).astype(np.float32)
    words[np.arange(len(truth)), truth] = 1.0  # a bag of words: many cosines are equal
    return votes, words


@pytest.mark.parametrize(
    ("kind", "with_scores"),
    [("apart", False), ("apart", True), ("duplicates", False), ("words", False), ("words", True)],
)
def test_an_item_is_labeled_alike_alone_and_in_company(kind: str, with_scores: bool) -> None:
    votes, near = company(kind)
    if with_scores:
        scores = np.random.default_rng(9).uniform(0.4, 1.0, votes.classes.shape).astype(np.float32)
        scores[votes.classes == ABSTAIN] = np.nan
        votes = Votes(votes.classes, scores, votes.class_names, votes.lf_names)
    model = EmbeddingAware().fit(votes, None, near)
    assert (model.radius_ <= 1).any()
    probs = model.predict_proba(votes, near)
    for size, step in ((1, 61), (2, 127), (50, 300), (700, 400)):
        for i in range(0, votes.n_items - size, step):
            rows = slice(i, i + size)
            assert model.predict_proba(votes.rows(rows), near[rows]).tobytes() == probs[rows].tobytes()
    order = np.random.default_rng(10).permutation(votes.n_items)
    assert model.predict_proba(votes.rows(order), near[order]).tobytes() == probs[order].tobytes()
    scaled = model.predict_proba(votes, near * np.float32(4.0))
    assert scaled.tobytes() == probs.tobytes()  # only directions count


@pytest.mark.parametrize("with_scores", [False, True])
@pytest.mark.parametrize("base", ["dependency_aware", "majority"])
def test_a_saved_model_replays_bit_for_bit(tmp_path: Path, with_scores: bool, base: str) -> None:
    votes, near = company("apart")
    if with_scores:
        scores = np.where(votes.classes == ABSTAIN, np.nan, 0.75).astype(np.float32)
        scores[::2] = np.nan
        votes = Votes(votes.classes, scores, votes.class_names, votes.lf_names)
    model = EmbeddingAware(base=base, n_neighbors=7).fit(votes, None, near)
    assert (model.radius_ <= 1).any()
    model.save(tmp_path)
    again = load_label_model(tmp_path)
    assert isinstance(again, EmbeddingAware) and again.n_neighbors == 7
    assert again.version == model.version
    assert again.predict_proba(votes, near).tobytes() == model.predict_proba(votes, near).tobytes()
    assert again.predict_proba(votes).tobytes() == model.predict_proba(votes).tobytes()
    first, second = model.explain(votes, near), again.explain(votes, near)
    assert first.evidence.tobytes() == second.evidence.tobytes()
    assert first.neighbors is not None and second.neighbors is not None
    assert first.neighbors.item.tobytes() == second.neighbors.item.tobytes()


def test_a_model_that_is_fitted_again_forgets_its_index(fitted: Fitted) -> None:
    _, votes, near, _ = fitted
    other, other_near = company("words")
    model = EmbeddingAware().fit(other, None, other_near)
    model.predict_proba(other, other_near)
    again = model.fit(votes, None, near).predict_proba(votes, near)
    assert again.tobytes() == fitted[0].predict_proba(votes, near).tobytes()


def test_an_encoder_of_another_dimension_is_refused(fitted: Fitted) -> None:
    model, votes, near, _ = fitted
    with pytest.raises(InvalidVotes, match="have 15 dimensions, but the label model was fitted on 16"):
        model.predict_proba(votes, near[:, :15])
    with pytest.raises(InvalidVotes, match="same encoder"):
        model.explain(votes, np.zeros((votes.n_items, 17), dtype=np.float32))
    with pytest.raises(InvalidVotes, match="one row an item"):
        model.predict_proba(votes, near[:5])
    with pytest.raises(InvalidVotes, match="one row an item"):
        EmbeddingAware().fit(votes, None, near[0])


# What is told of it


@pytest.mark.parametrize("base", ["dependency_aware", "majority"])
def test_the_neighbours_told_of_are_those_that_moved_the_label(base: str) -> None:
    votes, near = company("apart")
    model = EmbeddingAware(base=base).fit(votes, None, near)
    few = slice(0, 300)
    told = model.explain(votes.rows(few), near[few])
    total = told.log_prior + told.evidence.sum(axis=1)
    np.testing.assert_allclose(total, model.log_posterior(votes.rows(few), near[few]), atol=1e-9)
    found = told.neighbors
    assert found is not None
    shape = (300, votes.n_lfs, model.n_neighbors)
    assert found.item.shape == found.similarity.shape == shape and found.lent.shape == shape[:2]
    assert (found.lent >= 0).all() and (found.lent <= 1 + 1e-6).all()
    there = found.item >= 0
    assert (
        set(found.item[there].tolist()) <= set(model.index_rows_.tolist())
        and (found.item[~there] == -1).all()
    )
    assert (np.isnan(found.similarity) == ~there).all()
    assert ((found.lent > 0) == there.any(axis=2)).all()
    unit = near / np.linalg.norm(near, axis=1, keepdims=True)
    item, lf, place = np.nonzero(there)
    who = found.item[item, lf, place]
    assert (votes.classes[who, lf] != ABSTAIN).all()
    cosine = (unit[item] * unit[who]).sum(axis=1)
    np.testing.assert_allclose(found.similarity[there], cosine, atol=2e-3)  # the index is float16
    assert (found.similarity[there] >= model.radius_[lf] - 1e-5).all()
    # What an LF adds beyond its own vote is what those neighbours lend, and nothing where there are none.
    own = model.base_.explain(votes.rows(few)).evidence
    beyond = np.abs(told.evidence - own).max(axis=2)
    assert (beyond[~there.any(axis=2)] == 0).all() and (beyond[there.any(axis=2)] > 0).mean() > 0.9
    top = model.predict_proba(votes.rows(few), near[few]).argmax(axis=1)
    prior, moved = model.reasons(votes.rows(few), top=top, runner_up=(top + 1) % 3, embeddings=near[few])
    rows = np.arange(300)
    np.testing.assert_allclose(
        prior + moved.sum(axis=1), total[rows, top] - total[rows, (top + 1) % 3], atol=1e-4
    )


def test_what_is_lent_is_the_weighted_mean_of_the_neighbours_votes() -> None:
    rng = np.random.default_rng(11)
    votes, truth = simulated(rng, 400, says=1.0)
    near = clustered(rng, truth, spread=0.3)
    model = EmbeddingAware(base="majority", lend=1.5, sharpness=4.0, n_neighbors=5).fit(votes, None, near)
    model.radius_ = np.array([-1.0, -1.0, 0.5, 2.0])
    told = model.explain(votes, near)
    assert told.neighbors is not None
    np.testing.assert_allclose(told.neighbors.lent[:, :2], 1.0, atol=1e-6)
    assert (told.neighbors.lent[:, 3] == 0).all()
    own = model.base_.explain(votes).evidence
    index = model.index_.astype(np.float64)
    index /= np.linalg.norm(index, axis=1, keepdims=True)
    for i in range(0, 400, 40):
        cosine = index @ near[i].astype(np.float64) / np.linalg.norm(near[i])
        nearest = np.argsort(-cosine)[:5]
        weight = np.exp(4.0 * cosine[nearest])
        weight /= weight.sum()
        for j, radius in enumerate(model.radius_):
            kept = np.where(cosine[nearest] >= radius, weight, 0.0)
            lent = (kept[:, None] * own[nearest, j]).sum(axis=0)
            np.testing.assert_allclose(told.evidence[i, j], own[i, j] + 1.5 * lent, atol=1e-3)


def test_nothing_is_lent_with_a_lend_of_zero(fitted: Fitted) -> None:
    _, votes, near, _ = fitted
    model = EmbeddingAware(lend=0.0, base="majority").fit(votes, None, near)
    np.testing.assert_array_equal(
        model.predict_proba(votes, near), MajorityVote().fit(votes).predict_proba(votes)
    )
