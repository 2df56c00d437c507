"""``manyeyes suggest``: from a table and some known labels to a recipe that labels."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from manyeyes import Item, Labeler, Recipe
from manyeyes.cli import app
from manyeyes.errors import InvalidRequest
from manyeyes.suggestions import accept, suggest_lfs

SAID = {
    "spam": ["subscribe to my channel", "check out this link", "earn money today"],
    "ham": ["lovely song", "what a voice", "great video"],
}
FAMILIES = ("words", "facts")


@pytest.fixture
def comments(tmp_path: Path) -> tuple[Path, Path]:
    rng = random.Random(0)
    table, gold = tmp_path / "comments.csv", tmp_path / "gold.csv"
    with table.open("w", newline="") as items, gold.open("w", newline="") as known:
        rows, labels = csv.writer(items), csv.writer(known)
        rows.writerow(["id", "text", "likes"])
        labels.writerow(["id", "label"])
        for i in range(120):
            label = rng.choice(["spam", "ham"])
            rows.writerow(
                [i, f"{rng.choice(SAID[label])} {i}", rng.randint(0, 5) + (20 if label == "ham" else 0)]
            )
            if i < 60:
                labels.writerow([i, label])
    return table, gold


def run(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


def test_suggestions_are_shown_and_taken(comments: tuple[Path, Path], tmp_path: Path) -> None:
    table, gold = comments
    call = ["suggest", table, "--classes", "ham, spam", "--gold", gold, "--without", "text"]
    code, out, err = run(*call, "--json")
    assert code == 0, err
    rows = {row["name"]: row for row in json.loads(out)}
    assert rows["says_spam"]["precision"] > 0.9 and rows["facts"]["chosen"]
    code, out, err = run(*call, "--write", tmp_path / "all.yaml")
    assert code == 0 and "says_ham" in out and "would be taken" in out
    code, _, err = run(*call, "--accept", "says_spam", "--write", tmp_path / "one.yaml")
    assert code == 0, err
    assert [lf.name for lf in Recipe.load(tmp_path / "one.yaml").lfs] == ["says_spam"]
    code, _, err = run(
        "label", table, "--recipe", tmp_path / "all.yaml", "--out", tmp_path / "labels.csv", "--no-cache"
    )
    assert code == 0, err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--accept", "says_spam"], "--write FILE"),
        (["--accept", "say_spam", "--write", "r.yaml"], "did you mean 'says_spam'"),
        (["--words", "nowhere.txt"], "cannot read the words"),
    ],
)
def test_what_cannot_be_taken_is_told(
    comments: tuple[Path, Path], working_directory: Path, words: list[str], said: str
) -> None:
    table, gold = comments
    code, _, err = run("suggest", table, "--classes", "ham,spam", "--gold", gold, "--without", "text", *words)
    assert code == 2 and said in err


def test_a_recipe_keeps_its_own_functions() -> None:
    items = [Item(str(i), text=SAID[label][i % 3]) for i, label in enumerate(["spam", "ham"] * 20)]
    gold = {item.id: ["spam", "ham"][i % 2] for i, item in enumerate(items)}
    recipe = Recipe.parse(
        {
            "name": "r",
            "classes": ["ham", "spam"],
            "lfs": [{"name": "says_spam", "kind": "keyword", "any": "subscribe", "vote": "spam"}],
        }
    )
    suggestions = suggest_lfs(recipe, items, gold, families=FAMILIES, without=("text",))
    names = [suggestion.name for suggestion in suggestions]
    assert "says_spam_2" in names
    taken = accept(recipe, suggestions, ["says_spam_2"])
    assert [lf.name for lf in taken.lfs] == ["says_spam", "says_spam_2"]
    assert [label.label for label in Labeler(taken).label(items[:1])] == ["spam"]
    with pytest.raises(InvalidRequest, match="did you mean 'words'"):
        suggest_lfs(recipe, items, gold, families=["word"])
    with pytest.raises(InvalidRequest, match="not a class"):
        suggest_lfs(recipe, items, {"0": "eggs"}, without=("text",))


@pytest.mark.slow
def test_photographs_become_examples_by_their_paths(tmp_path: Path) -> None:
    rng = random.Random(1)
    gold, items = {}, []
    for i in range(16):
        label = ["red", "blue"][i % 2]
        low, high = rng.randint(0, 60), rng.randint(180, 255)
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (32, 32), (high, low, low) if label == "red" else (low, low, high)).save(path)
        items.append(Item(path.name, image=path))
        gold[path.name] = label
    recipe = Recipe.warm_start(["red", "blue"])
    suggestions = suggest_lfs(
        recipe, items, gold, without=("detector",), families=("examples",), count_existing=False
    )
    taken = accept(recipe, suggestions, ["looks_like_examples"], keep=False, folder=tmp_path)
    (tmp_path / "taken.yaml").write_text(taken.to_yaml())
    assert "path: 0.png" in (tmp_path / "taken.yaml").read_text()
    labels = Labeler(Recipe.load(tmp_path / "taken.yaml")).label(items)
    assert sum(label.label == gold[label.id] for label in labels) >= 14
