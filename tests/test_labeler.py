"""The whole path over the toy primitive: recipe, features, votes, fusion, reasons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyeyes import Item, Labeler, Recipe
from manyeyes.errors import InvalidRecipe, InvalidRequest
from manyeyes.labeler import gold_indices
from manyeyes.recipe_label_model import LabelModelSpec
from manyeyes.types import ABSTAIN, Label

RECIPE = """
name: paint
classes: [red, green, blue]
primitives: {toy: {}}
lfs:
  - {name: looks, kind: prompt, using: toy, prompts: {red: red, green: green, blue: blue}, threshold: 0.4}
  - {name: says, kind: keyword, on: text, votes: {red: [crimson], green: [lime], blue: [navy]}}
  - {name: shelf, kind: metadata, when: "shelf == 'R'", vote: red}
  - {name: wide, kind: metadata, when: "width > 100", vote: blue}
"""


def paint(colour: str, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, colour)


def items(n: int = 90) -> list[Item]:
    """Photos of three colours; every second one has a text, every third one a shelf."""
    words = {"red": "a crimson wall", "green": "a lime wall", "blue": "a navy wall"}
    out = []
    for i in range(n):
        colour = ("red", "green", "blue")[i % 3]
        out.append(
            Item(
                f"{i:03}",
                image=paint(colour, (8 + i, 8)),
                text=words[colour] if i % 2 else None,
                metadata={"shelf": colour[0].upper()} if i % 4 == 0 else {},
            )
        )
    return out


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.parse(RECIPE)


def as_rows(labels: object) -> list[dict[str, object]]:
    return [label.to_dict() for label in labels]  # type: ignore[attr-defined]


def test_the_path_from_items_to_explained_labels(recipe: Recipe) -> None:
    labels = Labeler(recipe).label(items())
    assert [label.label for label in labels] == ["red", "green", "blue"] * 30
    for label in labels:
        assert isinstance(label, Label) and label.confidence is not None and label.prior is not None
        told = label.prior + sum(reason.moved for reason in label.reasons)
        assert told == pytest.approx(np.log(label.confidence / label.probs[str(label.runner_up)]), abs=1e-4)
    assert labels.versions.recipe == recipe.version
    assert set(labels.versions.primitives) == {"toy", "image"}


def test_one_bad_item_is_one_error_row(recipe: Recipe) -> None:
    good = items(9)
    bad = [
        Item("empty"),
        Item("broken", image=b"\xff\xd8\xff not a photo"),
        Item("gone", image=Path("no/such.jpg")),
    ]
    labels = Labeler(recipe).label([*good[:4], *bad, *good[4:]])
    assert [label.status for label in labels[4:7]] == ["error"] * 3
    assert [label.error.code for label in labels[4:7]] == [
        "empty_item",
        "undecodable_image",
        "unreadable_item",
    ]
    assert np.isnan(labels.probs[4:7]).all() and (labels.label[4:7] == ABSTAIN).all()
    without = Labeler(recipe).label(good)
    assert as_rows([*labels[:4], *labels[7:]]) == as_rows(without)


def test_chunks_change_nothing(recipe: Recipe) -> None:
    whole, in_sevens = Labeler(recipe).label(items()), Labeler(recipe, chunk_size=7).label(items())
    assert as_rows(whole) == as_rows(in_sevens)


def test_a_second_run_and_a_new_lf_compute_nothing(recipe: Recipe) -> None:
    Labeler(recipe).label(items())
    edited = Recipe.parse(RECIPE + "  - {name: pale, kind: metadata, when: 'brightness > 0.9', vote: red}\n")
    labeler = Labeler(edited)
    before = labeler.counter.total
    labels = labeler.label(items())
    assert labeler.counter.total == before
    assert labels.votes.lf_names[-1] == "pale"


def test_a_fitted_labeler_labels_each_item_by_itself(recipe: Recipe, tmp_path: Path) -> None:
    fitted = Labeler(recipe).fit(items())
    whole = fitted.label(items())
    assert as_rows(fitted.label(items()[5:6])) == as_rows(whole[5:6])
    fitted.save_label_model(tmp_path / "model")
    again = Labeler(recipe).load_label_model(tmp_path / "model").label(items())
    assert as_rows(again) == as_rows(whole) and again.versions == whole.versions


def test_an_unfitted_labeler_keeps_nothing_between_calls(recipe: Recipe) -> None:
    labeler = Labeler(recipe)
    first = as_rows(labeler.label(items()))
    labeler.label(items(12))
    assert labeler.label_model is None
    assert as_rows(labeler.label(items())) == first


def test_below_the_threshold_the_item_abstains_and_still_says_why(recipe: Recipe) -> None:
    sure = Recipe.parse(RECIPE.replace("classes:", "abstain_below: 0.999999\nclasses:"))
    label = Labeler(sure).label(items(1))[0]
    assert (label.status, label.label) == ("abstained", None)
    assert label.confidence < 0.999999 and any(reason.moved for reason in label.reasons)


def test_a_vote_for_several_classes_is_shown_in_words() -> None:
    recipe = Recipe.parse(
        RECIPE
        + """  - {name: dark, kind: metadata, when: "has(dark)", vote: {not: red}}
  - {name: not_blue, kind: metadata, when: "has(dark)", vote: [red, green]}
"""
    )
    dark = Item("dark", text="a crimson wall", metadata={"dark": True})
    labels = Labeler(recipe, chunk_size=7).label([*items(40), dark])
    assert labels.votes.sets == ((1, 2), (0, 1))
    label = labels[-1]
    assert {reason.lf: reason.vote for reason in label.reasons} == {
        "looks": None,
        "says": "red",
        "shelf": None,
        "wide": None,
        "dark": "not red",
        "not_blue": "not blue",
    }
    told = label.prior + sum(reason.moved for reason in label.reasons)
    top = max(label.probs, key=lambda name: label.probs[name])
    assert told == pytest.approx(np.log(label.probs[top] / label.probs[label.runner_up]), abs=1e-4)
    assert Label.from_dict(label.to_dict()) == label
    alone = Labeler(recipe).label([Item("x", metadata={"dark": True}, text="x")])[0]
    assert alone.probs["green"] > max(alone.probs["red"], alone.probs["blue"])  # what both sets hold


def test_a_label_model_for_other_sets_of_classes_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    Labeler(recipe).fit(items()).save_label_model(tmp_path)
    other = Recipe.parse(RECIPE.replace("vote: blue", "vote: {not: blue}"))
    with pytest.raises(InvalidRecipe, match=r"other sets of classes .* none, not not blue"):
        Labeler(other).load_label_model(tmp_path)
    fitted = Labeler(other).fit(items())
    fitted.save_label_model(tmp_path)
    again = Labeler(other).load_label_model(tmp_path)
    assert as_rows(again.label(items(9))) == as_rows(fitted.label(items(9)))


def test_the_default_class_is_given_only_where_nobody_voted() -> None:
    tilted = "default_class: green\nclass_balance: {red: 0.6, green: 0.2, blue: 0.2}\n"
    recipe = Recipe.parse(RECIPE.replace("classes:", "abstain_below: 0.999999\nclasses:") + tilted)
    silent, unsure = Item("silent", image=paint("white"), text="nothing of note"), items(1)[0]
    broken = Item("broken", image=b"no image")
    labels = Labeler(recipe).label([silent, unsure, broken])
    given = labels[0]
    assert (given.status, given.label, given.by_default) == ("labeled", "green", True)
    assert given.probs == pytest.approx({"red": 0.6, "green": 0.2, "blue": 0.2})
    assert given.confidence == pytest.approx(0.2)
    assert given.prior == pytest.approx(np.log(3)) and given.runner_up == "green"
    assert [(label.status, label.label) for label in labels[1:]] == [("abstained", None), ("error", None)]


def test_hyperparameters_reach_the_label_model() -> None:
    recipe = Recipe.parse(
        RECIPE
        + "label_model: {name: one_coin, prior_votes: 3, max_iterations: 7}\nclass_balance: estimated\n"
    )
    model = Labeler(recipe).fit(items()).label_model
    assert (model.name, model.prior_votes, model.max_iterations) == ("one_coin", 3.0, 7)  # type: ignore[union-attr]
    assert model.class_balance == "estimated"  # type: ignore[union-attr]


def test_embeddings_are_kept_only_where_the_recipe_names_them(recipe: Recipe) -> None:
    mixed = [*items(10), Item("text", text="a crimson wall"), Item("broken", image=b"no image")]
    assert Labeler(recipe).collect(mixed).embeddings is None
    for feature, missing in (("toy", [10, 11]), ("toy.text", [0, 2, 4, 6, 8, 11])):
        named = Recipe.parse(RECIPE + f"label_model: {{embeddings: {feature}}}\n")
        labeler = Labeler(named, chunk_size=4)
        assert feature in labeler.needs
        embeddings = labeler.collect(mixed).embeddings
        assert embeddings is not None and (embeddings.shape, embeddings.dtype) == ((12, 3), np.float32)
        assert np.flatnonzero(np.isnan(embeddings).any(axis=1)).tolist() == missing
        sound = np.delete(embeddings, missing, axis=0)
        assert np.linalg.norm(sound, axis=1) == pytest.approx(1.0)
        assert labeler.collect([]).embeddings.shape == (0, 3)  # type: ignore[union-attr]


def test_what_gives_no_embedding_of_an_item_is_refused_when_it_is_seen(recipe: Recipe) -> None:
    wrong = recipe.model_copy(
        update={"label_model": LabelModelSpec("auto", "image")}
    )  # as only code can write it
    with pytest.raises(InvalidRecipe, match="'image' gives no embedding"):
        Labeler(wrong).label(items(2))


LENDING = """
name: lend
classes: [red, blue]
primitives: {toy: {}}
lfs:
  - {name: says, kind: keyword, votes: {red: [crimson], blue: [navy]}}
  - {name: shelf, kind: metadata, when: "shelf == 'R'", vote: red}
label_model: {name: embedding_aware, embeddings: toy, base: majority}
default_class: blue
"""


def test_similar_items_lend_their_votes_and_the_reasons_say_so(tmp_path: Path) -> None:
    recipe = Recipe.parse(LENDING)
    named = [
        Item(
            f"{i}",
            image=paint("red" if i % 2 else "blue"),
            text="crimson" if i % 2 else "navy",
            metadata={"shelf": "R"} if i % 2 else {},
        )
        for i in range(80)
    ]
    asked = [Item("silent", image=paint("red"), text="x"), Item("no picture", text="x")]
    labeler = Labeler(recipe).fit(named)
    labels = labeler.label([*named, *asked])
    lent, default = labels[-2], labels[-1]
    assert (lent.label, lent.by_default, default.label, default.by_default) == ("red", False, "blue", True)
    says = lent.reasons[0]
    assert says.vote is None and says.moved > 0 and says.lent is not None
    assert says.lent.neighbors == 20 and says.lent.nearest == pytest.approx(1.0, abs=1e-3)
    assert says.lent.votes == pytest.approx(1.0, abs=1e-3)
    assert all(reason.lent is None for reason in default.reasons)
    told = lent.prior + sum(reason.moved for reason in lent.reasons)
    assert told == pytest.approx(np.log(lent.probs["red"] / lent.probs["blue"]), abs=1e-4)
    assert Label.from_dict(lent.to_dict()) == lent
    labeler.save_label_model(tmp_path)
    again = Labeler(recipe).load_label_model(tmp_path).label(asked)
    assert as_rows(again) == as_rows(labels[-2:])
    # Without embeddings nothing is lent, and nothing is kept of it.
    plain = Recipe.parse(LENDING.replace("embeddings: toy, ", ""))
    assert Labeler(plain).label([*named, *asked]).lent is None


def test_no_items_no_labels(recipe: Recipe) -> None:
    labels = Labeler(recipe).label([])
    assert len(labels) == 0 and labels.probs.shape == (0, 3)


def test_the_class_balance_of_the_recipe_is_the_prior() -> None:
    tilted = Recipe.parse(RECIPE + "class_balance: {red: 0.6, green: 0.2, blue: 0.2}\n")
    label = Labeler(tilted).label([Item("1", image=paint("white"), text="nothing of note")])[0]
    assert label.status == "abstained" and label.probs["red"] == pytest.approx(0.6)


def test_two_items_of_one_id_are_refused(recipe: Recipe) -> None:
    with pytest.raises(InvalidRequest, match="'000'"):
        Labeler(recipe).label([*items(2), *items(1)])


def test_a_label_model_of_another_recipe_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    Labeler(recipe).fit(items()).save_label_model(tmp_path)
    other = Recipe.parse(RECIPE.replace("name: wide", "name: broad"))
    with pytest.raises(InvalidRecipe, match="'broad'"):
        Labeler(other).load_label_model(tmp_path)
    with pytest.raises(InvalidRequest, match="fit"):
        Labeler(other).save_label_model(tmp_path)


def test_gold_labels_reach_the_label_model(recipe: Recipe) -> None:
    gold = {"000": "red", "001": "green"}
    assert Labeler(recipe).fit(items(), gold=gold).label_model is not None
    assert gold_indices(gold, ["001", "x", "000"], recipe.classes).tolist() == [1, ABSTAIN, 0]  # type: ignore[union-attr]
    with pytest.raises(InvalidRequest, match="did you mean 'green'"):
        Labeler(recipe).fit(items(), gold={"000": "gren"})
    with pytest.raises(InvalidRequest, match="not among the items"):
        Labeler(recipe).fit(items(), gold={"nobody": "red"})


def test_progress_counts_the_items_done(recipe: Recipe) -> None:
    seen: list[int] = []
    Labeler(recipe, chunk_size=40).label(items(), progress=seen.append)
    assert seen == [40, 80, 90]
