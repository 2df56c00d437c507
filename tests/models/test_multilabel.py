"""Several classes at once: each is judged alone, and then by the others where labels go together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from manyeyes.errors import InvalidVotes, ModelNotFound, NotFitted, WeightsMismatch
from manyeyes.models.couplings import learn_couplings
from manyeyes.models.multilabel import MultiLabelModel, MultiVotes
from manyeyes.models.pooled import DependencyAware
from manyeyes.types import ABSTAIN, Votes, no_scores

BASES = ["dependency_aware", "majority", "triplet"]


@st.composite
def multi_votes(draw: st.DrawFn) -> MultiVotes:
    shape = draw(st.integers(0, 40)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    values = draw(hnp.arrays(np.int8, shape, elements=st.integers(ABSTAIN, 1)))
    hard = MultiVotes.hard(values)
    if draw(st.booleans()):
        return hard
    scores = draw(hnp.arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))
    scores[values == ABSTAIN] = np.nan
    return MultiVotes(values, scores, hard.class_names, hard.lf_names)


def world(
    seed: int, *, tied: float, n: int = 2500, k: int = 6, coverage: float = 0.6
) -> tuple[MultiVotes, np.ndarray]:
    """Return votes of five LFs, and which classes are present: the first half go together, and so do the others."""
    rng = np.random.default_rng(seed)
    cause = rng.normal(size=(n, 2))[:, np.arange(k) // (k // 2)]
    hidden = tied * cause + np.sqrt(1 - tied**2) * rng.normal(size=(n, k))
    present = (hidden > np.linspace(-0.2, 1.0, k)).astype(np.int8)
    right = rng.random((n, 5, k)) < rng.uniform(0.6, 0.85, (5, k))
    values = np.where(right, present[:, None, :], 1 - present[:, None, :]).astype(np.int8)
    values[rng.random(values.shape) >= coverage] = ABSTAIN
    return MultiVotes.hard(values), present


def log_loss(probs: np.ndarray, present: np.ndarray) -> float:
    of_truth = np.where(present == 1, probs, 1 - probs).astype(np.float64)
    return float(-np.log(np.maximum(of_truth, 1e-7)).mean())


class TestVotes:
    def test_what_single_label_votes_say_of_presence(self) -> None:
        names = ("dress", "hat", "bag", "shoes", "belt")
        sets = ((0, 2, 3, 4), (1, 2, 3), (0, 1))  # not a hat; neither dress nor belt; dress or hat
        votes = Votes(
            np.array([[1, -1], [5, 6], [7, 0]], np.int8),
            np.array([[0.9, np.nan], [0.8, np.nan], [0.7, 0.6]], np.float32),
            names,
            ("one", "two"),
            (("clip",), ()),
            sets,
        )
        multi = MultiVotes.from_votes(votes)
        assert multi.values.tolist() == [
            [[-1, 1, -1, -1, -1], [-1, -1, -1, -1, -1]],
            [[-1, 0, -1, -1, -1], [0, -1, -1, -1, 0]],
            [[-1, -1, -1, -1, -1], [1, -1, -1, -1, -1]],
        ]
        assert multi.scores[0, 0, 1] == np.float32(0.9) and multi.scores[1, 0, 1] == np.float32(0.8)
        assert np.isnan(multi.scores[multi.values == ABSTAIN]).all()
        assert (multi.class_names, multi.lf_names, multi.shared) == (names, ("one", "two"), votes.shared)

    def test_hard_votes_stay_hard(self) -> None:
        multi = MultiVotes.from_votes(Votes.hard([[0, 1], [2, -1]]))
        assert multi.is_hard and multi.binary(0).is_hard and multi.rows(slice(0, 1)).is_hard

    def test_one_class_is_a_question_for_those_who_speak_of_it(self) -> None:
        multi = MultiVotes.hard([[[1, -1], [-1, 0], [-1, 1]], [[-1, -1], [-1, -1], [0, -1]]])
        assert multi.speakers(0) == [0, 2] and multi.speakers(1) == [1, 2]
        asked = multi.binary(0)
        assert asked.classes.tolist() == [[1, -1], [-1, 0]] and asked.classes.dtype == np.int8
        assert asked.class_names == ("absent", "present") and asked.lf_names == ("lf_0", "lf_2")
        assert multi.binary(0, [2, 1]).lf_names == ("lf_2", "lf_1")

    @pytest.mark.parametrize(
        ("values", "scores", "match"),
        [
            (np.zeros((1, 1), np.int8), no_scores((1, 1)), "n_items, n_lfs, n_classes"),
            (np.zeros((1, 2, 1), np.int8), no_scores((1, 2, 1)), "LF names"),
            (np.zeros((1, 1, 1), np.int64), no_scores((1, 1, 1)), "int8"),
            (np.full((1, 1, 1), 2, np.int8), no_scores((1, 1, 1)), "got 2"),
            (np.zeros((1, 1, 1), np.int8), np.full((1, 1, 1), 1.5, np.float32), "probability"),
        ],
    )
    def test_what_breaks_the_contract_is_refused(
        self, values: np.ndarray, scores: np.ndarray, match: str
    ) -> None:
        with pytest.raises(InvalidVotes, match=match):
            MultiVotes(values, scores, ("c",), ("lf",))


@pytest.mark.parametrize("base", BASES)
class TestContract:
    @settings(max_examples=25, deadline=None)
    @given(votes=multi_votes())
    def test_probabilities_add_up_from_their_reasons(self, base: str, votes: MultiVotes) -> None:
        model = MultiLabelModel(base).fit(votes)
        probs = model.predict_proba(votes)
        assert probs.dtype == np.float32 and probs.shape == (votes.n_items, votes.n_classes)
        assert ((probs >= 0) & (probs <= 1)).all()
        told = model.explain(votes)
        np.testing.assert_allclose(1 / (1 + np.exp(-told.log_odds)), probs, atol=1e-6)
        for c, name in enumerate(votes.class_names):
            parts = model.reasons(votes, name)
            np.testing.assert_allclose(
                sum(part.sum(axis=1) for part in parts[1:]) + parts[0], told.log_odds[:, c], atol=1e-4
            )
            assert (parts[1][votes.values[:, :, c] == ABSTAIN] == 0).all()

    @settings(max_examples=15, deadline=None)
    @given(votes=multi_votes())
    def test_a_saved_model_replays_bit_for_bit(
        self, base: str, votes: MultiVotes, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("model")
        model = MultiLabelModel(base).fit(votes)
        model.save(folder)
        again = MultiLabelModel.load(folder)
        assert again.version == model.version and again.base == base
        assert again.predict_proba(votes).tobytes() == model.predict_proba(votes).tobytes()

    def test_an_item_is_labeled_alike_alone_and_in_company(self, base: str) -> None:
        votes, _ = world(0, tied=0.9, n=600)
        model = MultiLabelModel(base).fit(votes)
        assert model.coupling_.any()
        alone = model.predict_proba(votes.rows(slice(7, 8)))
        assert alone.tobytes() == model.predict_proba(votes)[7:8].tobytes()

    def test_a_class_alone_is_what_its_label_model_says(self, base: str) -> None:
        votes, present = world(1, tied=0.0, n=800)
        probs = MultiLabelModel(base).fit(votes).predict_proba(votes)
        assert ((probs > 0.5) == present).mean() > 0.75
        if base == "dependency_aware":
            asked = votes.binary(2)
            expected = DependencyAware().fit(asked).predict_proba(asked)[:, 1]
            spoken = (asked.classes != ABSTAIN).any(axis=1)
            np.testing.assert_allclose(probs[spoken, 2], expected[spoken], atol=1e-6)


def coupled(probs: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the couplings of labels that are all told by witnesses of their own."""
    return learn_couplings(probs, seen, lambda c: (probs, seen.copy()))


class TestCorrelations:
    @pytest.mark.parametrize("base", BASES)
    def test_labels_that_go_together_help_each_other(self, base: str) -> None:
        for seed in range(3):
            votes, present = world(seed, tied=0.9)
            alone = MultiLabelModel(base, correlations=False).fit(votes).predict_proba(votes)
            together = MultiLabelModel(base).fit(votes).predict_proba(votes)
            assert log_loss(together, present) < log_loss(alone, present) - 0.01
            # Most where an item's own votes say nothing.
            silent = (votes.values == ABSTAIN).all(axis=1)
            assert (
                log_loss(together[silent], present[silent]) < log_loss(alone[silent], present[silent]) - 0.02
            )

    @pytest.mark.parametrize("base", BASES)
    def test_labels_that_do_not_are_left_alone_to_the_bit(self, base: str) -> None:
        for seed in range(5):
            votes, _ = world(seed, tied=0.0)
            alone = MultiLabelModel(base, correlations=False).fit(votes).predict_proba(votes)
            assert MultiLabelModel(base).fit(votes).predict_proba(votes).tobytes() == alone.tobytes()

    def test_couplings_say_which_labels_and_which_way(self) -> None:
        rng = np.random.default_rng(0)
        first = rng.random(4000) < 0.4
        then = np.where(rng.random(4000) < 0.9, first, rng.random(4000) < 0.4)
        against = np.where(rng.random(4000) < 0.7, ~first, rng.random(4000) < 0.5)
        other = rng.random(4000) < 0.5
        present = np.stack([first, then, against, other], axis=1).astype(float)
        coupling, centre = coupled(present, np.ones(present.shape, dtype=bool))
        np.testing.assert_allclose(coupling, coupling.T, atol=0.2)
        assert coupling[0, 1] > 1 and coupling[0, 2] < -1
        # What goes through the first label is no coupling of the others.
        assert abs(coupling[1, 2]) < 0.7 and not coupling[3].any() and not np.diag(coupling).any()
        np.testing.assert_allclose(centre[0, 1], present[:, 0].mean())

    def test_lfs_that_pick_one_class_an_item_do_not_make_the_others_absent(self) -> None:
        # Two labels that have nothing to do with each other, and LFs that name one of those they see: their votes
        # exclude each other, the labels do not.
        rng = np.random.default_rng(1)
        present = rng.random((3000, 1, 2)) < 0.5
        seen = np.where(rng.random((3000, 4, 2)) < 0.8, present, ~present)
        pick = np.where(seen.all(axis=2), rng.integers(0, 2, (3000, 4)), seen.argmax(axis=2))
        votes = MultiVotes.from_votes(Votes.hard(np.where(seen.any(axis=2), pick, ABSTAIN), n_classes=2))
        model = MultiLabelModel().fit(votes)
        spoken = (votes.values != ABSTAIN).any(axis=1)
        fooled, _ = coupled(model.predict_proba(votes).astype(np.float64), spoken)
        assert fooled[0, 1] < -0.3
        assert not model.coupling_.any()

    @pytest.mark.parametrize(
        "shared", [(), (("clip",), ("clip",), ("ocr",), ("exif",))], ids=["unknown", "shared"]
    )
    def test_a_witness_that_errs_on_two_labels_at_once_is_not_heard_twice(
        self, shared: tuple[tuple[str, ...], ...]
    ) -> None:
        # Labels have nothing to do with each other, but each LF sees both in some items, and so does its relative.
        for seed in range(3):
            rng = np.random.default_rng(seed)
            present = (rng.random((3000, 1, 2)) < 0.4).astype(np.int8)
            sees_both = rng.random((3000, 4, 1)) < 0.3
            if shared:
                sees_both[:, 1] = sees_both[:, 0]
            right = np.where(rng.random((3000, 4, 2)) < 0.85, present, 1 - present)
            values = np.where(sees_both, 1, right)
            hard = MultiVotes.hard(np.where(rng.random(values.shape) < 0.7, values, ABSTAIN))
            votes = MultiVotes(hard.values, hard.scores, hard.class_names, hard.lf_names, shared)
            alone = MultiLabelModel(correlations=False).fit(votes).predict_proba(votes)
            fooled, _ = coupled(alone.astype(np.float64), (votes.values != ABSTAIN).any(axis=1))
            assert fooled[0, 1] > 0.3
            together = MultiLabelModel().fit(votes).predict_proba(votes)
            assert log_loss(together, present[:, 0]) < log_loss(alone, present[:, 0]) + 0.003

    def test_gold_alone_teaches_which_labels_go_together(self) -> None:
        rng = np.random.default_rng(2)
        present = rng.integers(0, 2, 1000)
        values = np.full((1000, 2, 2), ABSTAIN, np.int8)
        values[:, 0, 0] = np.where((present == 1) & (rng.random(1000) < 0.9), 1, ABSTAIN)
        gold = np.full((1000, 2), ABSTAIN, np.int8)
        gold[:200] = present[:200, None]
        model = MultiLabelModel().fit(MultiVotes.hard(values), gold)
        assert model.coupling_[0, 1] > 0.5
        probs = model.predict_proba(MultiVotes.hard(values))
        said = values[:, 0, 0] == 1
        assert probs[said, 1].min() > probs[~said, 1].max()


class TestShares:
    def test_a_class_that_nobody_speaks_of_has_its_share(self) -> None:
        values = np.full((50, 2, 3), ABSTAIN, np.int8)
        values[:, 0, 0] = 1
        votes = MultiVotes.hard(values)
        np.testing.assert_allclose(MultiLabelModel().fit(votes).predict_proba(votes)[:, 1:], 0.5)
        gold = np.full((50, 3), ABSTAIN, np.int8)
        gold[:18, 1] = 0
        np.testing.assert_allclose(MultiLabelModel().fit(votes, gold).predict_proba(votes)[:, 1], 0.05)
        known = MultiLabelModel(class_balance=[0.5, 0.2, 0.7]).fit(votes, gold)
        np.testing.assert_allclose(known.predict_proba(votes)[:, 1:], [[0.2, 0.7]] * 50, rtol=1e-6)

    def test_where_lfs_only_say_present_silence_is_mostly_absence(self) -> None:
        rng = np.random.default_rng(3)
        present = rng.random(4000) < 0.1
        values = np.full((4000, 3, 1), ABSTAIN, np.int8)
        values[:, :, 0] = np.where(rng.random((4000, 3)) < np.where(present, 0.5, 0.01)[:, None], 1, ABSTAIN)
        votes = MultiVotes.hard(values)
        probs = MultiLabelModel().fit(votes).predict_proba(votes)[:, 0]
        silent = (values == ABSTAIN).all(axis=(1, 2))
        assert (probs[silent] < 0.2).all() and (probs[~silent] > 0.5).all()

    def test_where_lfs_say_both_silence_is_the_share(self) -> None:
        votes, present = world(4, tied=0.0, coverage=0.7)
        model = MultiLabelModel().fit(votes)
        np.testing.assert_allclose(model.share_, present.mean(axis=0), atol=0.15)
        silent = (votes.values == ABSTAIN).all(axis=1)
        expected = np.broadcast_to(model.share_, silent.shape)[silent]
        np.testing.assert_allclose(model.predict_proba(votes)[silent], expected, rtol=1e-5)


class TestErrors:
    def test_asking_before_fit_says_to_fit(self, tmp_path: Path) -> None:
        votes = MultiVotes.hard([[[1, 0]]])
        with pytest.raises(NotFitted, match="fit"):
            MultiLabelModel().predict_proba(votes)
        with pytest.raises(NotFitted, match="fit"):
            MultiLabelModel().save(tmp_path / "model")
        assert not (tmp_path / "model").exists()

    def test_what_does_not_fit_is_refused(self) -> None:
        votes = MultiVotes.hard([[[1, 0]]])
        with pytest.raises(InvalidVotes, match="gold must have shape"):
            MultiLabelModel().fit(votes, np.array([1]))
        with pytest.raises(InvalidVotes, match="class_balance"):
            MultiLabelModel(class_balance=[0.5, 1.0]).fit(votes)
        model = MultiLabelModel().fit(votes)
        with pytest.raises(InvalidVotes, match="fitted on classes"):
            model.predict_proba(MultiVotes.hard([[[1, 0, 1]]]))
        with pytest.raises(InvalidVotes, match="embeddings must have shape"):
            model.predict_proba(votes, np.zeros((2, 3), np.float32))
        with pytest.raises(InvalidVotes, match="class_0, class_1"):
            model.reasons(votes, "hat")

    def test_files_that_do_not_belong_together_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelNotFound, match="writes one"):
            MultiLabelModel.load(tmp_path)
        MultiLabelModel().fit(MultiVotes.hard([[[1, 0]]])).save(tmp_path)
        arrays = tmp_path / "multi_label.safetensors"
        arrays.write_bytes(arrays.read_bytes()[:-1] + b"\0")
        with pytest.raises(WeightsMismatch, match="not the file"):
            MultiLabelModel.load(tmp_path)
