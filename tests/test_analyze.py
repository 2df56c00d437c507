"""``manyeyes analyze`` from end to end: what it says of labeling functions, of pairs, and of another recipe."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from manyeyes.cli import app
from manyeyes.commands.analyze import hints, with_sets
from manyeyes.lfs.analysis_pairs import Pair, PairsSummary, Redundancy
from manyeyes.sinks import read_labels
from manyeyes.types import ABSTAIN, Votes, no_scores

WORDS = {
    "spam": ["prize", "winner", "click", "free", "offer"],
    "ham": ["meeting", "lunch", "report", "agenda", "team"],
}
RECIPE = """
name: mail
classes: [spam, ham]
lfs:
  - {name: prizes, kind: keyword, votes: {spam: [prize, winner], ham: [lunch]}}
  - {name: work, kind: keyword, votes: {ham: [meeting, report], spam: [click]}}
  - {name: offers, kind: keyword, votes: {spam: [offer], ham: [agenda, team]}}
  - {name: again, kind: keyword, votes: {spam: [offer], ham: [team, agenda]}}
  - {name: shouts, kind: regex, pattern: '!', vote: spam}
"""


def call(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    told = f"{result.stdout}\n{result.stderr}"
    assert result.exit_code == code, f"{told}\n{result.exception!r}"
    assert "Traceback" not in told
    return result


def told(*arguments: str | Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(call("analyze", *arguments, "--json").stdout)
    return document


@pytest.fixture
def mails(tmp_path: Path) -> Path:
    """400 mails with three words each, of which one in twelve is of the other class; one row cannot be read."""
    rng = random.Random(0)
    rows, gold = ["id,text"], ["id,label"]
    for i in range(400):
        truth, other = rng.sample(sorted(WORDS), 2)
        words = [rng.choice(WORDS[truth if rng.random() > 1 / 12 else other]) for _ in range(3)]
        mark = " !" if rng.random() < (0.4 if truth == "spam" else 0.1) else ""
        rows.append(f"m{i},{' '.join(words)}{mark}")
        gold.append(f"m{i},{truth}")
    rows.append("empty,")
    (tmp_path / "mails.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "gold.csv").write_text("\n".join(gold[:101]) + "\n")
    (tmp_path / "all_gold.csv").write_text("\n".join(gold) + "\n")
    return tmp_path / "mails.csv"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mail.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The same without one LF, with one that now errs, and with a new one."""
    path = tmp_path / "other.yaml"
    lines = [line for line in RECIPE.splitlines() if "again" not in line]
    text = "\n".join(lines).replace(
        "{ham: [meeting, report], spam: [click]}", "{ham: [click], spam: [report]}"
    )
    path.write_text(text + "\n  - {name: gifts, kind: keyword, any: [free], vote: spam}\n")
    return path


def test_the_table_says_how_good_each_function_is(mails: Path, recipe: Path) -> None:
    result = call("analyze", mails, "--recipe", recipe, "--gold", mails.parent / "gold.csv")
    assert re.search(
        r"function +votes for +coverage +overlaps +conflicts +right +95 % +estimated", result.stdout
    )
    assert re.search(r"prizes +spam \d\d%, ham \d\d% +\d\d\.\d%", result.stdout)
    assert re.search(r"shouts +spam +\d\d\.\d%", result.stdout)
    assert re.search(r"\(any\) +\d\d\.\d%", result.stdout)
    assert "Left out: 1 item with an error." in result.stderr
    document = told(mails, "--recipe", recipe, "--gold", mails.parent / "gold.csv")
    assert (document["n_items"], document["errors"]) == (400, 1)
    truth = dict(line.split(",") for line in (mails.parent / "all_gold.csv").read_text().splitlines())
    rows = dict(line.split(",") for line in mails.read_text().splitlines())
    for lf in document["lfs"]:
        assert lf["accuracy_interval"][0] < lf["accuracy"] < lf["accuracy_interval"][1]
    (shouts,) = [lf for lf in document["lfs"] if lf["name"] == "shouts"]
    shouted = [key for key, text in rows.items() if "!" in text]
    assert shouts["votes"] == len(shouted)
    assert shouts["values"] == [
        {
            "name": "spam",
            "votes": len(shouted),
            "correct": shouts["correct"],
            "incorrect": shouts["incorrect"],
        }
    ]
    judged = [key for key in shouted if int(key[1:]) < 100]
    assert shouts["correct"] == sum(truth[key] == "spam" for key in judged)
    right = sum(truth[key] == "spam" for key in shouted) / len(shouted)
    assert shouts["estimated_accuracy"] == pytest.approx(right, abs=0.1)


def test_without_gold_accuracy_is_estimated_and_not_claimed(mails: Path, recipe: Path) -> None:
    result = call("analyze", mails, "--recipe", recipe)
    assert re.search(r"conflicts +estimated", result.stdout)
    assert "right" not in result.stdout
    assert all(lf["accuracy"] is None for lf in told(mails, "--recipe", recipe)["lfs"])


def test_a_recipe_that_wants_a_precision_can_be_looked_at_without_gold(
    mails: Path, recipe: Path, tmp_path: Path
) -> None:
    precise = tmp_path / "precise.yaml"
    precise.write_text(f"{recipe.read_text()}abstain_below: {{precision: 0.95}}\n")
    assert told(mails, "--recipe", precise)["lfs"] == told(mails, "--recipe", recipe)["lfs"]


def test_copies_and_dependent_pairs_are_told_in_words(mails: Path, recipe: Path) -> None:
    gold = mails.parent / "all_gold.csv"
    result = call("analyze", mails, "--recipe", recipe, "--gold", gold)
    assert "offers and again vote alike almost everywhere: together they count for one." in result.stdout
    assert re.search(r"offers +again +\d+ +100\.0%", result.stdout)
    document = told(mails, "--recipe", recipe, "--gold", gold)
    assert document["copies"] == [["offers", "again"]]
    assert [(p["first"], p["second"]) for p in document["pairs"] if p["dependent"]] == [("offers", "again")]
    assert {r["name"]: r["of"] for r in document["redundancy"]}["offers"] == "again"
    assert len(document["pairs"]) == 10
    assert document["given_class"]
    without = call("analyze", mails, "--recipe", recipe).stdout
    assert "offers and again vote alike almost everywhere: together they count for one." in without
    assert "No two functions" not in without


def test_few_items_are_judged_against_chance_alone_and_the_program_says_so(mails: Path, recipe: Path) -> None:
    result = call("analyze", mails, "--recipe", recipe, "--limit", "20")
    assert "Agreement is judged against chance alone" in result.stderr
    assert "err together" not in result.stdout
    document = told(mails, "--recipe", recipe, "--limit", "20")
    assert document["n_items"] == 20
    assert not document["given_class"]


def test_what_another_recipe_would_do_is_what_it_does(
    mails: Path, recipe: Path, other: Path, tmp_path: Path
) -> None:
    document = told(mails, "--recipe", recipe, "--what-if", other)["what_if"]
    labels = []
    for name, path in (("a", recipe), ("b", other)):
        call("label", mails, "--recipe", path, "--out", tmp_path / f"{name}.csv")
        labels.append({row.id: row for row in read_labels(tmp_path / f"{name}.csv") if row.error is None})
    real: dict[tuple[str | None, str | None], int] = {}
    for key, row in labels[0].items():
        if row.label != labels[1][key].label:
            pair = row.label, labels[1][key].label
            real[pair] = real.get(pair, 0) + 1
    assert {(flip["before"], flip["after"]): flip["items"] for flip in document["flips"]} == real
    assert document["n_flips"] == sum(n for pair, n in real.items() if None not in pair) > 20
    assert len(document["examples"]) == 20
    for example in document["examples"]:
        was, now = labels[0][example["id"]], labels[1][example["id"]]
        assert (example["before"], example["after"]) == (was.label, now.label)
        assert example["confidence_before"] == pytest.approx(was.confidence)
        assert example["confidence_after"] == pytest.approx(now.confidence)

    changes = {change["lf"]: change for change in document["changes"]}
    assert {name: change["kind"] for name, change in changes.items()} == {
        "again": "drop",
        "work": "edit",
        "gifts": "add",
    }
    rows = dict(line.split(",") for line in mails.read_text().splitlines()[1:])
    free = sum("free" in text for text in rows.values())
    assert changes["gifts"]["lf_after"]["coverage"] == pytest.approx(free / 400)
    assert changes["again"]["lf_after"] is None
    assert changes["work"]["estimated_after"] < 0.3 < changes["work"]["estimated_before"]
    assert changes["work"]["after"]["conflicts"] > changes["work"]["before"]["conflicts"]
    assert set(changes["work"]["examples"]) <= set(rows)
    assert 0 < changes["gifts"]["newly_covered"] == len(changes["gifts"]["covered_examples"]) <= 20
    for key in changes["gifts"]["covered_examples"]:
        assert "free" in rows[key]
        assert labels[0][key].label is None


def test_what_if_on_the_screen(mails: Path, recipe: Path, other: Path) -> None:
    result = call("analyze", mails, "--recipe", recipe, "--what-if", other)
    assert re.search(r"again +dropped +\d\d\.\d% → –", result.stdout)
    assert re.search(r"work +edited +\d\d\.\d% → \d\d\.\d%", result.stdout)
    assert re.search(r"gifts +added +– → \d\d\.\d%", result.stdout)
    assert re.search(r"work would flip m\d+", result.stdout)
    assert re.search(r"coverage +\d\d\.\d% → \d\d\.\d%", result.stdout)
    assert re.search(r"from +to +items", result.stdout)
    assert re.search(r"m\d+ +(spam 0\.\d\d +ham|ham 0\.\d\d +spam) 0\.\d\d", result.stdout)


def test_the_same_recipe_would_change_nothing(mails: Path, recipe: Path) -> None:
    result = call("analyze", mails, "--recipe", recipe, "--what-if", recipe)
    assert "the labeling functions of both recipes are the same" in result.stdout
    assert "No label would change." in result.stdout
    document = told(mails, "--recipe", recipe, "--what-if", recipe)["what_if"]
    assert (document["changes"], document["flips"], document["examples"]) == ([], [], [])


def test_what_cannot_be_compared_is_refused(mails: Path, recipe: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.yaml"
    foreign.write_text(RECIPE.replace("[spam, ham]", "[ham, spam]"))
    result = call("analyze", mails, "--recipe", recipe, "--what-if", foreign, code=2)
    assert "[invalid_recipe]" in result.stderr
    assert "the same classes, in the same order" in result.stderr
    (tmp_path / "bad.csv").write_text("id,label\nm0,eggs\n")
    result = call("analyze", mails, "--recipe", recipe, "--gold", tmp_path / "bad.csv", code=2)
    assert "gold label 'eggs'" in result.stderr


def test_gold_of_what_cannot_be_read_is_no_mistake(mails: Path, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "gold.csv").write_text("id,label\nempty,spam\nm0,spam\n")
    assert told(mails, "--recipe", recipe, "--gold", tmp_path / "gold.csv")["n_items"] == 400


def test_nothing_to_analyze_is_exit_code_one(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    result = call("analyze", tmp_path / "broken", "--recipe", recipe, code=1)
    assert "nothing to analyze" in result.stderr
    (tmp_path / "empty.csv").write_text("id,text\nempty,\n")
    assert "nothing to analyze" in call("analyze", tmp_path / "empty.csv", "--recipe", recipe, code=1).stderr


def test_votes_for_the_same_set_are_the_same_vote_under_either_recipe() -> None:
    classes = np.array([[3], [4], [ABSTAIN], [1]], dtype=np.int8)
    votes = Votes(classes, no_scores((4, 1)), ("a", "b", "c"), ("x",), sets=((0, 1), (1, 2)))
    renumbered = with_sets(votes, ((1, 2), (0, 2), (0, 1)))
    assert renumbered.classes[:, 0].tolist() == [5, 3, ABSTAIN, 1]
    assert renumbered.sets == ((1, 2), (0, 2), (0, 1))
    assert with_sets(votes, votes.sets) is votes


def test_hints_say_each_thing_once() -> None:
    def pair(first: str, second: str, *, z: float, together: float) -> Pair:
        return Pair(first, second, 100, 0.1, 90, 0.9, 0.5, 0.4, 0.8, z, together)

    pairs = PairsSummary(
        n_items=1000,
        given_class=True,
        pairs=(
            pair("a", "b", z=50.0, together=9.0),
            pair("a", "c", z=9.0, together=4.06),
            pair("b", "c", z=3.0, together=8.0),
            pair("c", "d", z=9.0, together=1.1),
        ),
        redundancy=(
            Redundancy("a", "b", 1.0),
            Redundancy("b", "a", 0.99),
            Redundancy("c", "d", 0.93),
            Redundancy("d", "c", 0.91),
        ),
        copies=(("a", "b"),),
    )
    assert hints(pairs) == [
        "a and b vote alike almost everywhere: together they count for one.",
        "d gives 93% of the votes of c already: c adds little.",
        "a and c err together 4.1× as often as independent functions would: together they count for less than two.",
    ]
