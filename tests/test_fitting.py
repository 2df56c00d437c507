"""The confidence that a precision takes: found on known labels, kept beside the label model, never made up."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from manyeyes import Item, Labeler, Recipe
from manyeyes.errors import InvalidRecipe, InvalidRequest, WeightsMismatch
from manyeyes.fitting import FILE

RECIPE = """
name: mail
classes: [ham, spam]
abstain_below: {precision: 0.9}
lfs:
  - {name: prizes, kind: keyword, votes: {spam: [prize, winner], ham: [report, minutes]}}
  - {name: asks, kind: keyword, votes: {spam: [click], ham: [meeting]}}
  - {name: shouts, kind: regex, pattern: "!", vote: spam}
"""


def mails(n: int = 400) -> tuple[list[Item], dict[str, str]]:
    """Mails whose words mostly tell what they are, and what they are."""
    rng = random.Random(5)
    words = {"spam": ["prize", "click", "!"], "ham": ["report", "meeting", ""]}
    items, gold = [], {}
    for i in range(n):
        truth = ("ham", "spam")[i % 2]
        other = "spam" if truth == "ham" else "ham"
        text = [
            words[truth if rng.random() < right else other][place]
            for place, right in enumerate((0.85, 0.8, 0.7))
            if rng.random() < 0.8
        ]
        items.append(Item(f"m{i}", text=" ".join(["dear", *text])))
        gold[f"m{i}"] = truth
    return items, gold


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.parse(RECIPE)


def test_the_labels_that_are_given_are_as_often_right_as_was_asked(recipe: Recipe) -> None:
    items, gold = mails(1_200)
    known = dict(list(gold.items())[:300])
    labeler = Labeler(recipe).fit(items[:600], gold=known)
    threshold = labeler.threshold
    assert threshold is not None and 0.5 < threshold.value <= 1.0
    assert (threshold.precision, threshold.guaranteed) == (0.9, True)
    assert 250 < threshold.n_gold <= 300  # some mails get no vote
    labels = labeler.label(items[600:])
    given = [label for label in labels if label.status == "labeled"]
    assert len(given) > 100
    assert np.mean([label.label == gold[label.id] for label in given]) > 0.88
    every = Labeler(Recipe.parse(RECIPE.replace("{precision: 0.9}", "0"))).fit(items[:600], gold=known)
    all_labels = [label for label in every.label(items[600:]) if label.label]
    assert np.mean([label.label == gold[label.id] for label in all_labels]) < 0.88  # or nothing was won
    withheld = [label for label in labels if label.status == "abstained" and label.reasons[0].vote]
    assert withheld and all(label.confidence < threshold.value for label in withheld)
    assert labels.versions.label_model == f"{labeler.label_model.version}@{threshold.value:.9g}"  # type: ignore[union-attr]


def test_a_precision_out_of_reach_withholds_every_label(recipe: Recipe, tmp_path: Path) -> None:
    items, gold = mails(40)
    gold = {item_id: "ham" if i % 3 else name for i, (item_id, name) in enumerate(gold.items())}
    labeler = Labeler(Recipe.parse(RECIPE.replace("0.9", "0.999"))).fit(items, gold=gold)
    assert labeler.threshold is not None and math.isinf(labeler.threshold.value)
    assert {label.status for label in labeler.label(items)} == {"abstained"}
    labeler.save_label_model(tmp_path)
    assert json.loads((tmp_path / FILE).read_text())["threshold"] is None
    again = Labeler(labeler.recipe).load_label_model(tmp_path)
    assert again.threshold == labeler.threshold and math.isinf(again.least_confidence)


def test_without_gold_it_says_so_before_anything_is_done(recipe: Recipe) -> None:
    items, gold = mails(60)

    def never() -> object:
        raise AssertionError("an item was read")
        yield

    labeler = Labeler(recipe)
    for call in (labeler.label, labeler.fit):
        with pytest.raises(InvalidRequest, match=r"precision: 0.9\}.*give gold labels .*--gold gold.csv"):
            call(never())  # type: ignore[operator, arg-type]
    collected = labeler.collect(items)
    with pytest.raises(InvalidRequest, match="give gold labels"):
        labeler.fuse(collected)
    labels = labeler.fuse(collected, gold=gold)
    assert "@" in labels.versions.label_model
    assert labeler.label_model is None and labeler.threshold is None  # nothing is kept between calls
    fitted = Labeler(recipe).fit(items, gold=gold)
    assert [label.to_dict() for label in fitted.label(items)] == [label.to_dict() for label in labels]
    with pytest.raises(InvalidRequest, match="give gold labels"):
        fitted.fit(items)


def test_gold_of_broken_items_alone_is_no_gold(recipe: Recipe) -> None:
    items, _ = mails(60)
    broken = Item("broken", image=b"no image")
    plain = RECIPE + "  - {name: wide, kind: metadata, when: width > 100, vote: ham}\n"
    with pytest.raises(InvalidRequest, match="give gold labels"):
        Labeler(Recipe.parse(plain)).fit([*items, broken], gold={"broken": "ham"})


def test_the_threshold_stays_with_the_label_model(recipe: Recipe, tmp_path: Path) -> None:
    items, gold = mails()
    labeler = Labeler(recipe).fit(items, gold=gold)
    labeler.save_label_model(tmp_path)
    again = Labeler(recipe).load_label_model(tmp_path)
    assert again.threshold == labeler.threshold
    whole, alone = labeler.label(items), again.label(items[7:8])
    assert alone[0] == whole[7] and alone.versions == whole.versions

    text = (tmp_path / FILE).read_text()
    for wrong, told in [
        (text[:-9], "damaged"),
        (text.replace('"format": 1', '"format": 2'), "damaged"),
        ("[]", "damaged"),
        (text.replace(labeler.label_model.version, "majority:0"), "belongs to label model majority:0"),  # type: ignore[union-attr]
    ]:
        (tmp_path / FILE).write_text(wrong)
        with pytest.raises(WeightsMismatch, match=told):
            Labeler(recipe).load_label_model(tmp_path)
    (tmp_path / FILE).write_text(text)
    for edited in (RECIPE.replace("0.9", "0.95"), RECIPE.replace("winner", "lottery")):
        with pytest.raises(InvalidRecipe, match=r"was found for precision 0\.9 and recipe version"):
            Labeler(Recipe.parse(edited)).load_label_model(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(InvalidRecipe, match=r"fitted without gold labels .*fit it with some \(--gold\)"):
        Labeler(recipe).load_label_model(tmp_path)


def test_a_recipe_without_a_precision_leaves_no_threshold_behind(recipe: Recipe, tmp_path: Path) -> None:
    items, gold = mails(80)
    Labeler(recipe).fit(items, gold=gold).save_label_model(tmp_path)
    plain = Recipe.parse(RECIPE.replace("{precision: 0.9}", "0.5"))
    labeler = Labeler(plain).load_label_model(tmp_path)  # a number needs no gold
    assert (labeler.threshold, labeler.least_confidence) == (None, 0.5)
    Labeler(plain).fit(items).save_label_model(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_an_item_without_a_vote_does_not_count_for_the_precision(recipe: Recipe) -> None:
    items, gold = mails(200)
    silent = [Item(f"s{i}", text="nothing") for i in range(100)]
    alone = Labeler(recipe).fit([*items, *silent], gold=gold).threshold
    beside = Labeler(recipe).fit([*items, *silent], gold=gold | {item.id: "ham" for item in silent}).threshold
    assert alone is not None and beside is not None and alone.n_gold == beside.n_gold
