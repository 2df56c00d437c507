"""The tasks that label models are measured on, and the peers that are measured beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import label_peers
from benchmarks.label_peers import PEERS, accuracy, ask, f1, figures, installed, majority
from benchmarks.label_tasks import GARMENTS, GENERATED, RECIPES, MultiTask, Source, Task, generated, seen
from manyeyes import Item, Recipe
from manyeyes.types import ABSTAIN, Votes

TOY = """
name: toy
classes: [red, blue]
primitives: {toy: {kind: toy}}
lfs:
  - {name: says, kind: keyword, votes: {red: red, blue: blue}}
  - {name: means, kind: prompt, on: text, using: toy.text, threshold: 0.5, prompts: {red: red, blue: blue}}
"""


def columns(votes: Votes) -> tuple[bytes, bytes]:
    return votes.classes.tobytes(), votes.scores.tobytes()


@pytest.fixture(scope="module", params=PEERS)
def peer(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name not in installed():
        pytest.skip(f"{name} is not installed; pip install 'manyeyes[bench]'")
    return name


@pytest.fixture
def small() -> Task:
    return generated("few_items")


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_task_is_the_same_for_the_same_seed_and_another_for_another(name: str) -> None:
    first, again, other = generated(name, 1), generated(name, 1), generated(name, 2)
    assert columns(first.fit) == columns(again.fit) and columns(first.score) == columns(again.score)
    assert np.array_equal(first.gold_score, again.gold_score)
    assert columns(first.score) != columns(other.score)


@pytest.mark.parametrize("name", GENERATED)
def test_gold_and_votes_of_a_generated_task_belong_together(name: str) -> None:
    task = generated(name)
    for votes, gold in ((task.fit, task.gold_fit), (task.score, task.gold_score)):
        assert gold.shape == (votes.n_items,)
        assert gold.min() >= 0 and gold.max() < votes.n_classes
        assert not task.fit.shared or len(votes.shared) == votes.n_lfs
        assert np.isnan(votes.scores[votes.classes == ABSTAIN]).all()
    assert task.class_balance is None or sum(task.class_balance) == pytest.approx(1)
    assert not task.real


def test_scores_of_calibrated_votes_are_how_often_they_are_right() -> None:
    for name, lowest, highest in (("scored_calibrated", -0.03, 0.03), ("scored_overconfident", 0.05, 1.0)):
        task = generated(name)
        voted = task.score.classes != ABSTAIN
        right = (task.score.classes == task.gold_score[:, None])[voted]
        said = task.score.scores[voted]
        sure = said > 0.8
        assert lowest < said[sure].mean() - right[sure].mean() < highest


def test_adversarial_lfs_are_worse_than_chance() -> None:
    task = generated("adversarial")
    voted = task.score.classes != ABSTAIN
    right = ((task.score.classes == task.gold_score[:, None]) & voted).sum(axis=0) / voted.sum(axis=0)
    assert (right[:6] > 0.6).all() and (right[6:] < 0.42).all()


def test_a_peer_gives_probabilities_of_every_scored_item(peer: str, small: Task) -> None:
    probs = ask(peer, small)
    assert probs.shape == (small.score.n_items, small.score.n_classes)
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-4)
    assert accuracy(probs, small.gold_score) > 0.6


@pytest.mark.parametrize("name", ["mostly_abstain", "positive_only"])
def test_a_peer_has_a_prediction_for_items_that_nobody_voted_on(peer: str, name: str) -> None:
    task = generated(name)
    probs = ask(peer, task)
    assert (task.score.classes == ABSTAIN).all(axis=1).any()
    assert probs.shape == (task.score.n_items, task.score.n_classes) and np.isfinite(probs).all()


def test_a_peer_leaves_the_seeds_of_the_process_alone(peer: str, small: Task) -> None:
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    ask(peer, small)
    assert np.random.random() == expected


def test_a_peer_that_fails_gives_no_figure_and_ends_nothing(
    small: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setitem(label_peers.PEERS, "majority", broken)
    assert np.isnan(ask("majority", small)).all()
    assert np.isnan(figures("majority", small)["accuracy"])


def test_majority_gives_ties_to_the_first_class() -> None:
    votes = Votes.hard([[1, 0, -1], [2, 2, 0], [-1, -1, -1]], n_classes=3)
    assert majority(votes, votes, 0, None).argmax(axis=1).tolist() == [0, 2, 0]


def test_items_without_gold_are_not_scored() -> None:
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    assert accuracy(probs, np.array([0, 0, -1, 0])) == pytest.approx(2 / 3)
    assert f1(probs, np.array([0, 1, -1, 1])) == pytest.approx(2 / 3)


def test_figures_of_several_labels_are_means_over_them() -> None:
    def task(votes: list[int], gold: list[int]) -> Task:
        found = Votes.hard([[v] for v in votes], n_classes=2)
        return Task("one", found, found, np.array(gold), np.array(gold))

    several = MultiTask(
        "two", ("a", "b"), (task([0, 1, 1, 0], [0, 1, 0, 0]), task([1, 0, 0, 1], [1, 0, 0, 1]))
    )
    assert figures("majority", several) == {"accuracy": 0.875, "f1": pytest.approx((2 / 3 + 1) / 2)}
    assert several.gold.tolist() == [[0, 1], [1, 0], [0, 0], [0, 1]]


def test_computed_votes_are_kept_by_recipe_version(tmp_path: Path) -> None:
    source = Source(cache=tmp_path / "votes")
    items = [Item("a", text="red"), Item("b", text="blue and blue")]
    first = seen(Recipe.parse(TOY), items, "toy.text", source)
    (kept,) = source.folder.iterdir()
    written = kept.stat().st_mtime_ns
    again = seen(Recipe.parse(TOY), items, "toy.text", source)
    assert [*source.folder.iterdir()] == [kept] and kept.stat().st_mtime_ns == written
    assert columns(again.votes) == columns(first.votes)
    assert again.votes.shared == first.votes.shared and again.votes.lf_names == ("says", "means")
    assert again.votes.classes[:, 0].tolist() == [0, 1] and again.embeddings.shape[0] == 2
    seen(Recipe.parse(TOY.replace("threshold: 0.5", "threshold: 0.6")), items, "toy.text", source)
    assert len([*source.folder.iterdir()]) == 2


def test_every_recipe_of_the_benchmarks_is_one() -> None:
    documents = [Recipe.load(GARMENTS)]
    for path in sorted(RECIPES.glob("*.yaml")):
        if path.name == "coco128.yaml":
            documents += [
                Recipe.parse({**document, "name": document["name"].replace(" ", "-")})
                for document in yaml.safe_load_all(path.read_text())
            ]
        elif path.name != "imagenet_groups.yaml":
            documents.append(Recipe.load(path))
    groups = yaml.safe_load((RECIPES / "imagenet_groups.yaml").read_text())
    by_name = {recipe.name: recipe for recipe in documents}
    assert set(groups) == set(by_name["imagenet-groups"].classes)
    assert 8 <= len(by_name["cifar10"].lfs) <= 12
