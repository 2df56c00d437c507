"""Choosing among label models by the votes that they foretell."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from manyeyes.models.base import LabelModel
from manyeyes.models.dependence import prior_dependence
from manyeyes.models.evidence import Float
from manyeyes.models.majority import MajorityVote
from manyeyes.models.observed import Observed, observe
from manyeyes.models.pooled import DependencyAware, ScoreAware
from manyeyes.models.selection import compare, foretold, rows_to_compare
from manyeyes.types import ABSTAIN, Votes


class Weighed(LabelModel):
    """Votes that weigh what they are told to."""

    name = "weighed"

    def __init__(self, *weights: float) -> None:
        self.weights = weights

    def _weights(self, votes: Votes) -> Float:
        return np.tile(np.array(self.weights), (votes.n_items, 1))


def simulated(
    rng: np.random.Generator, accuracies: list[float], n: int = 3_000, k: int = 3
) -> tuple[Votes, npt.NDArray[np.int64]]:
    truth = rng.integers(0, k, n)
    right = rng.random((n, len(accuracies))) < accuracies
    wrong = (truth[:, None] + rng.integers(1, k, right.shape)) % k
    return Votes.hard(np.where(right, truth[:, None], wrong), k), truth


def independent(votes: Votes) -> tuple[Observed, npt.NDArray[np.float64]]:
    return observe(votes), np.zeros((votes.n_lfs, votes.n_lfs))


GOOD = [0.9, 0.85, 0.4, 0.4, 0.4]
KNOWING, FLAT, PERVERSE = (3.0, 2.5, 0.3, 0.3, 0.3), (1.0,) * 5, (0.1, 0.1, 3.0, 3.0, 3.0)


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [2, 1, 0]])
def test_the_model_that_knows_which_lfs_are_good_is_picked_wherever_it_stands(order: list[int]) -> None:
    votes, _ = simulated(np.random.default_rng(0), GOOD)
    weights = [KNOWING, FLAT, PERVERSE]
    models = [Weighed(*weights[place]).fit(votes) for place in order]
    observed, dependence = independent(votes)
    verdict = compare(models, observed, dependence)
    assert order[verdict.best] == 0
    if verdict.best:
        assert verdict.gain > 3 * verdict.error > 0
        # The gain is what the two foretell, apart.
        told = [foretold(model, observed, dependence) for model in (models[0], models[verdict.best])]
        assert verdict.gain == pytest.approx(float(observed.weight @ (told[1] - told[0])))


def test_learned_weights_beat_the_majority_where_lfs_differ() -> None:
    votes, truth = simulated(np.random.default_rng(1), GOOD)
    models = [MajorityVote().fit(votes), ScoreAware().fit(votes)]
    assert compare(models, *independent(votes)).best == 1
    right = [(model.predict_proba(votes).argmax(axis=1) == truth).mean() for model in models]
    assert right[1] > right[0]


def test_without_clear_evidence_the_first_stays() -> None:
    # Equal models, models of equal merit, and too few items to tell.
    votes, _ = simulated(np.random.default_rng(2), [0.8] * 5)
    same = [DependencyAware().fit(votes), DependencyAware().fit(votes)]
    assert compare(same, *independent(votes)).best == 0
    slight = [Weighed(1.0, 1.0, 1.0, 1.0, 1.05).fit(votes), Weighed(1.0, 1.0, 1.0, 1.0, 1.0).fit(votes)]
    assert compare(slight, *independent(votes)).best == 0
    assert compare(slight[::-1], *independent(votes)).best == 0
    few, _ = simulated(np.random.default_rng(3), GOOD, n=12)
    verdict = compare([Weighed(*FLAT).fit(few), Weighed(*KNOWING).fit(few)], *independent(few))
    assert (verdict.best, verdict.gain, verdict.error) == (0, 0.0, 0.0)


def test_neither_boasting_nor_modesty_is_favoured() -> None:
    votes, _ = simulated(np.random.default_rng(4), GOOD)
    modest, plain, bold = (Weighed(*(np.array(KNOWING) * scale)).fit(votes) for scale in (1 / 3, 1.0, 3.0))
    observed, dependence = independent(votes)
    gains = [observed.weight @ foretold(model, observed, dependence) for model in (modest, plain, bold)]
    assert max(gains) - min(gains) < 0.05 * gains[1]
    # Not so what is wrong.
    assert gains[1] > 2 * (observed.weight @ foretold(Weighed(*PERVERSE).fit(votes), observed, dependence))


def test_lfs_that_say_one_thing_are_not_foretold_by_it() -> None:
    votes, truth = simulated(np.random.default_rng(5), GOOD[:3])
    rng = np.random.default_rng(6)
    mostly = np.where(rng.random(3_000) < 0.995, 1, 0)
    spoken = np.where((truth == 1) & (rng.random(3_000) < 0.7), mostly, ABSTAIN)
    joined = Votes.hard(np.column_stack([votes.classes, spoken]), 3)
    # A model that heeds it: what it says can then be foretold from the others, were it asked for.
    model = Weighed(*KNOWING[:3], 2.0).fit(joined)
    observed, dependence = independent(joined)
    asked = foretold(model, observed, dependence)
    explicit = foretold(model, observed, dependence, several=np.array([True, True, True, False]))
    np.testing.assert_array_equal(asked, explicit)
    everything = foretold(model, observed, dependence, several=np.ones(4, dtype=bool))
    assert not np.array_equal(everything, explicit)


def test_where_every_lf_says_one_thing_voting_itself_is_foretold() -> None:
    rng = np.random.default_rng(7)
    truth = (rng.random(4_000) < 0.4).astype(int)
    told = [0.8, 0.7, 0.6, 0.6, 0.5]
    classes = np.where(rng.random((4_000, 5)) < np.where(truth[:, None] == 1, told, 0.05), 1, ABSTAIN)
    votes = Votes.hard(classes, 2)
    observed, dependence = independent(votes)
    gain = foretold(DependencyAware([0.6, 0.4]).fit(votes), observed, dependence)
    assert observed.weight @ gain > 100
    unrelated = Votes.hard(np.where(rng.random((4_000, 5)) < 0.3, 1, ABSTAIN), 2)
    observed, dependence = independent(unrelated)
    gain = foretold(DependencyAware([0.6, 0.4]).fit(unrelated), observed, dependence)
    assert abs(observed.weight @ gain) < 20


def test_dependent_lfs_do_not_foretell_each_other() -> None:
    rng = np.random.default_rng(8)
    votes, _ = simulated(rng, [0.8, 0.8, 0.4])
    noise = rng.integers(0, 3, 3_000)
    joined = Votes.hard(np.column_stack([votes.classes, noise, noise, noise]), 3)
    believing = Weighed(0.1, 0.1, 0.1, 3.0, 3.0, 3.0).fit(joined)
    knowing = Weighed(2.0, 2.0, 0.3, 0.0, 0.0, 0.0).fit(joined)
    observed = observe(joined)
    # Taken for independent, three copies of noise foretell each other splendidly.
    assert compare([knowing, believing], observed, np.zeros((6, 6))).best == 1
    seen = prior_dependence(observed, ())
    assert compare([knowing, believing], observed, seen).best == 0
    assert compare([believing, knowing], observed, seen).best == 1


def test_weights_count_as_so_many_items() -> None:
    votes, _ = simulated(np.random.default_rng(9), GOOD, n=600, k=2)
    observed, dependence = independent(votes)
    assert len(observed.weight) < 40
    each = Observed(votes, np.ones(600), np.full(600, ABSTAIN, dtype=np.int64), np.arange(600))
    models = [Weighed(*FLAT).fit(votes), Weighed(*KNOWING).fit(votes)]
    merged, whole = compare(models, observed, dependence), compare(models, each, dependence)
    assert merged.best == whole.best == 1
    assert merged.gain == pytest.approx(whole.gain) and merged.error == pytest.approx(whole.error)


def test_a_comparison_is_bounded() -> None:
    assert rows_to_compare(5, 2) == 2_000
    assert rows_to_compare(20, 1_000) == 400
    assert rows_to_compare(1_000, 1_000) == 256
