"""The contract that every label model of the registry keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manyeyes.errors import InvalidVotes, ModelNotFound, NotFitted, WeightsMismatch
from manyeyes.models.auto import MIN_GOLD, MIN_ITEMS, Auto
from manyeyes.models.base import LabelModel, load_label_model
from manyeyes.models.majority import MajorityVote
from manyeyes.models.pooled import DependencyAware, OneCoin, ScoreAware
from manyeyes.registry import load, names
from manyeyes.types import ABSTAIN, Votes, vote_dtype

NAMES = names("manyeyes.label_models")


def make(name: str, **hyperparameters: object) -> LabelModel:
    model: LabelModel = load("manyeyes.label_models", name)(**hyperparameters)
    return model


@st.composite
def label_matrices(draw: st.DrawFn) -> Votes:
    n_items, n_lfs, k = draw(st.integers(0, 80)), draw(st.integers(1, 5)), draw(st.integers(2, 5))
    classes = draw(hnp.arrays(np.int64, (n_items, n_lfs), elements=st.integers(ABSTAIN, k - 1)))
    scores = draw(
        hnp.arrays(
            np.float32, (n_items, n_lfs), elements=st.floats(0, 1, width=32) | st.just(np.float32(np.nan))
        )
    )
    scores[classes == ABSTAIN] = np.nan
    return Votes(
        classes.astype(vote_dtype(k)),
        scores,
        tuple(f"c{i}" for i in range(k)),
        tuple(f"lf{j}" for j in range(n_lfs)),
    )


def simulated(
    rng: np.random.Generator, accuracies: list[float], n_items: int = 2000, k: int = 4
) -> tuple[Votes, np.ndarray]:
    truth = rng.integers(0, k, n_items)
    right = rng.random((n_items, len(accuracies))) < accuracies
    wrong = (truth[:, None] + rng.integers(1, k, right.shape)) % k
    return Votes.hard(np.where(right, truth[:, None], wrong), n_classes=k), truth


@pytest.mark.parametrize("name", NAMES)
class TestContract:
    @settings(max_examples=60, deadline=None)
    @given(votes=label_matrices())
    def test_probabilities_are_probabilities_and_silence_is_the_prior(self, name: str, votes: Votes) -> None:
        balance = np.arange(1, votes.n_classes + 1) / np.arange(1, votes.n_classes + 1).sum()
        probs = make(name, class_balance=balance.tolist()).fit(votes).predict_proba(votes)
        assert probs.dtype == np.float32 and probs.shape == (votes.n_items, votes.n_classes)
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
        silent = (votes.classes == ABSTAIN).all(axis=1)
        np.testing.assert_allclose(probs[silent], np.tile(balance, (int(silent.sum()), 1)), atol=1e-6)

    @settings(max_examples=60, deadline=None)
    @given(votes=label_matrices())
    def test_a_unanimous_vote_is_never_flipped_under_a_uniform_prior(self, name: str, votes: Votes) -> None:
        probs = make(name).fit(votes).predict_proba(votes)
        for row, classes in zip(probs, votes.classes, strict=True):
            said = set(classes[classes != ABSTAIN].tolist())
            if len(said) == 1:
                assert row[said.pop()] >= row.max() - 1e-6

    @settings(max_examples=60, deadline=None)
    @given(votes=label_matrices())
    def test_prior_and_contributions_add_up_to_the_posterior(self, name: str, votes: Votes) -> None:
        model = make(name).fit(votes)
        probs = model.predict_proba(votes).astype(np.float64)
        told = model.explain(votes)
        logits = told.log_prior + told.evidence.sum(axis=1)
        expected = np.exp(logits - logits.max(axis=1, keepdims=True)) if votes.n_items else logits
        np.testing.assert_allclose(probs, expected / expected.sum(axis=1, keepdims=True), atol=1e-6)
        top, second = probs.argmax(axis=1), (probs.argmax(axis=1) + 1) % votes.n_classes
        prior, moved = model.reasons(votes, top=top, runner_up=second)
        rows = np.arange(votes.n_items)
        np.testing.assert_allclose(
            prior + moved.sum(axis=1), logits[rows, top] - logits[rows, second], rtol=1e-4, atol=1e-4
        )
        assert (moved[votes.classes == ABSTAIN] == 0).all()

    @settings(max_examples=20, deadline=None)
    @given(votes=label_matrices())
    def test_a_saved_model_replays_bit_for_bit(
        self, name: str, votes: Votes, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("model")
        model = make(name).fit(votes)
        model.save(folder)
        again = load_label_model(folder)
        assert again.version == model.version
        assert again.predict_proba(votes).tobytes() == model.predict_proba(votes).tobytes()

    @settings(max_examples=60, deadline=None)
    @given(votes=label_matrices(), which=st.integers(0, 4))
    def test_an_lf_copied_ten_times_counts_once(self, name: str, votes: Votes, which: int) -> None:
        copied = votes.columns([*range(votes.n_lfs), *[which % votes.n_lfs] * 10])
        copied = replace(copied, lf_names=tuple(f"lf{j}" for j in range(copied.n_lfs)))
        before = make(name).fit(votes).predict_proba(votes)
        after = make(name).fit(copied).predict_proba(copied)
        np.testing.assert_allclose(after, before, atol=0.02)

    @settings(max_examples=60, deadline=None)
    @given(votes=label_matrices(), seed=st.integers(0, 99))
    def test_the_order_of_items_and_lfs_does_not_matter(self, name: str, votes: Votes, seed: int) -> None:
        rng = np.random.default_rng(seed)
        items, lfs = rng.permutation(votes.n_items), rng.permutation(votes.n_lfs)
        before = make(name).fit(votes).predict_proba(votes)
        shuffled = votes.columns(lfs.tolist()).rows(items)
        after = make(name).fit(shuffled).predict_proba(shuffled)
        # EM stops once no posterior moves by more than half a thousandth; rounding may cost or save it a step.
        np.testing.assert_allclose(after, before[items], atol=2e-3)

    def test_a_vote_for_several_classes_speaks_for_each_of_them(self, name: str) -> None:
        rng = np.random.default_rng(11)
        truth = rng.integers(0, 3, 600)
        classes = np.where(rng.random((600, 4)) < 0.8, truth[:, None], (truth[:, None] + 1) % 3)
        # The last LF only ever says "not class 2", rightly.
        classes[:, 3] = np.where(truth != 2, 3, ABSTAIN)
        votes = replace(Votes.hard(np.zeros((600, 4)), 3), classes=classes.astype(np.int8), sets=((0, 1),))
        probs = make(name).fit(votes).predict_proba(votes)
        np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-5)
        against = (classes[:, 3] == 3) & (classes[:, :3] == 2).any(axis=1) & (classes[:, :3] != 2).any(axis=1)
        plain = make(name).fit(votes.columns([0, 1, 2])).predict_proba(votes.columns([0, 1, 2]))
        assert probs[against, 2].mean() < plain[against, 2].mean()

    def test_fit_forgets_earlier_fits_and_repeats_itself(self, name: str) -> None:
        rng = np.random.default_rng(0)
        first, _ = simulated(rng, [0.9, 0.8, 0.4])
        second, _ = simulated(rng, [0.5, 0.6, 0.9])
        model = make(name)
        assert model.fit(first) is model
        assert model.fit(second).version == make(name).fit(second).version

    def test_an_item_is_labeled_alike_alone_and_in_company(self, name: str) -> None:
        votes, _ = simulated(np.random.default_rng(1), [0.9, 0.8, 0.7], n_items=100)
        model = make(name).fit(votes)
        one = Votes(votes.classes[7:8], votes.scores[7:8], votes.class_names, votes.lf_names)
        assert model.predict_proba(one).tobytes() == model.predict_proba(votes)[7:8].tobytes()

    def test_asking_before_fit_says_to_fit(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(NotFitted, match="fit"):
            make(name).predict_proba(Votes.hard([[0, 1]]))
        with pytest.raises(NotFitted, match="fit"):
            make(name).save(tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_votes_of_other_lfs_are_refused(self, name: str) -> None:
        model = make(name).fit(Votes.hard([[0, 1]]))
        with pytest.raises(InvalidVotes, match="fitted on classes"):
            model.predict_proba(Votes.hard([[0, 1, 1]]))

    def test_gold_of_another_shape_is_refused(self, name: str) -> None:
        with pytest.raises(InvalidVotes, match="gold labels must have shape"):
            make(name).fit(Votes.hard([[0, 1]]), np.array([0, 1]))

    @pytest.mark.parametrize("balance", [[0.5], [0.9, 0.2], [1.0, 0.0]])
    def test_a_class_balance_that_is_none_is_refused(self, name: str, balance: list[float]) -> None:
        with pytest.raises(InvalidVotes, match="class_balance"):
            make(name, class_balance=balance).fit(Votes.hard([[0, 1]]))


def accuracies(model: LabelModel, votes: Votes) -> np.ndarray:
    """What a fitted model takes each LF's votes to be worth: the mean posterior of what they name."""
    probs = model.predict_proba(votes)
    rows = np.arange(votes.n_items)
    return np.array(
        [probs[rows, column][column != ABSTAIN].mean() for column in votes.classes.T.astype(np.intp)]
    )


@pytest.mark.parametrize(
    "name", ["auto", "dawid_skene", "one_coin", "score_aware", "dependency_aware", "triplet"]
)
def test_accuracies_are_found_and_beat_majority(name: str) -> None:
    true = [0.9, 0.85, 0.45, 0.4, 0.4]
    votes, truth = simulated(np.random.default_rng(2), true, n_items=4000)
    model = make(name).fit(votes)
    np.testing.assert_allclose(accuracies(model, votes), true, atol=0.05)
    fused = (model.predict_proba(votes).argmax(axis=1) == truth).mean()
    majority = (MajorityVote().fit(votes).predict_proba(votes).argmax(axis=1) == truth).mean()
    assert fused > majority + 0.05


def test_scores_tell_an_lfs_good_votes_from_its_bad_ones() -> None:
    rng = np.random.default_rng(3)
    n, k = 3000, 3
    truth = rng.integers(0, k, n)
    scores = rng.uniform(0.34, 1, (n, 3)).astype(np.float32)
    right = rng.random((n, 3)) < scores
    classes = np.where(right, truth[:, None], (truth[:, None] + rng.integers(1, k, (n, 3))) % k)
    hard = Votes.hard(classes, n_classes=k)
    scored = Votes(hard.classes, scores, hard.class_names, hard.lf_names)

    def log_loss(votes: Votes) -> float:
        probs = OneCoin().fit(votes).predict_proba(votes)
        return float(-np.log(probs[np.arange(n), truth]).mean())

    assert log_loss(scored) < log_loss(hard) - 0.05
    # Scores that are what they say are taken at their word; overconfident ones at less.
    np.testing.assert_allclose(ScoreAware().fit(scored).slope_, 1, atol=0.3)
    boastful = 1 / (1 + np.exp(-3 * np.log(scores / (1 - scores + 1e-6))))
    loud = Votes(hard.classes, boastful.astype(np.float32), hard.class_names, hard.lf_names)
    np.testing.assert_allclose(ScoreAware().fit(loud).slope_, 1 / 3, atol=0.12)


def test_gold_labels_set_right_what_agreement_gets_wrong() -> None:
    # Two LFs that are wrong together outvote one that is right; only gold can tell.
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 2, 1000)
    clique = np.where(rng.random(1000) < 0.45, truth, 1 - truth)
    votes = Votes.hard(
        np.stack([clique, clique, np.where(rng.random(1000) < 0.95, truth, 1 - truth)], axis=1), 2
    )
    gold = np.where(np.arange(1000) < 200, truth, ABSTAIN)
    for model in (OneCoin(), DependencyAware(), Auto()):
        without = (model.fit(votes).predict_proba(votes).argmax(axis=1) == truth).mean()
        with_gold = (model.fit(votes, gold).predict_proba(votes).argmax(axis=1) == truth).mean()
        assert without < 0.6 and with_gold > 0.9


class TestAuto:
    def test_two_lfs_are_left_to_the_majority(self) -> None:
        model = Auto().fit(simulated(np.random.default_rng(5), [0.9, 0.8])[0])
        assert model.choice_.name == "majority" and "2 LFs voted" in model.why_

    def test_lfs_that_never_meet_are_left_to_the_majority(self) -> None:
        classes = np.full((300, 3), ABSTAIN)
        classes[np.arange(300), np.arange(300) % 3] = 1
        model = Auto().fit(Votes.hard(classes, n_classes=2))
        assert model.choice_.name == "majority" and "overlap on 0 items" in model.why_

    def test_enough_overlap_is_learned_from(self) -> None:
        model = Auto().fit(simulated(np.random.default_rng(6), [0.9, 0.8, 0.7], n_items=MIN_ITEMS)[0])
        assert model.choice_.name == "dependency_aware" and "no other foretells" in model.why_

    def test_copies_of_two_lfs_are_still_two(self) -> None:
        votes, _ = simulated(np.random.default_rng(7), [0.9, 0.8])
        copied = Votes.hard(votes.classes[:, [0, 0, 0, 1, 1]], votes.n_classes)
        model = Auto().fit(copied)
        assert model.choice_.name == "majority" and "2 of 5 LFs are not copies" in model.why_

    def test_gold_chooses_and_calibrates(self) -> None:
        votes, truth = simulated(np.random.default_rng(8), [0.9, 0.6, 0.6, 0.5], n_items=1000)
        gold = np.where(np.arange(1000) < MIN_GOLD, truth, ABSTAIN)
        model = Auto().fit(votes, gold)
        assert f"{MIN_GOLD} known labels" in model.why_ and "temperature" in model.why_
        assert (model.predict_proba(votes).argmax(axis=1) == truth).mean() > 0.85

    def test_votes_reach_neighbours_where_that_helps_and_not_where_it_does_not(self) -> None:
        rng = np.random.default_rng(9)
        truth = rng.integers(0, 2, 3000)
        right = rng.random((3000, 5)) < 0.75
        votes = Votes.hard(
            np.where(
                rng.random((3000, 5)) < 0.3, np.where(right, truth[:, None], 1 - truth[:, None]), ABSTAIN
            ),
            2,
        )
        near = (rng.normal(size=(3000, 8)) + 3 * np.eye(2)[truth] @ np.eye(2, 8)).astype(np.float32)
        alike = Auto().fit(votes, None, near)
        assert alike.choice_.name == "embedding_aware" and "lent to near neighbours" in alike.why_
        fused = (alike.predict_proba(votes, near).argmax(axis=1) == truth).mean()
        assert fused > (Auto().fit(votes).predict_proba(votes).argmax(axis=1) == truth).mean() + 0.1
        noise = rng.normal(size=(3000, 8)).astype(np.float32)
        assert Auto().fit(votes, None, noise).choice_.name == "dependency_aware"


class TestSavedFiles:
    def test_a_folder_without_a_model_says_how_to_write_one(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match="--save-label-model"):
            load_label_model(tmp_path)

    def test_arrays_that_are_not_the_described_ones_are_refused(self, tmp_path: Path) -> None:
        MajorityVote().fit(Votes.hard([[0, 1]])).save(tmp_path)
        arrays = tmp_path / "label_model.safetensors"
        arrays.write_bytes(arrays.read_bytes()[:-1] + b"\0")
        with pytest.raises(WeightsMismatch, match="not the"):
            load_label_model(tmp_path)

    def test_the_header_is_json_that_people_can_read(self, tmp_path: Path) -> None:
        Auto().fit(Votes.hard([[0, 1]])).save(tmp_path)
        header = json.loads((tmp_path / "label_model.json").read_text())
        assert header["label_model"] == "auto" and "majority vote" in header["why"]
