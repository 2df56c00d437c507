"""``manyeyes prompt`` and ``manyeyes recipe calibrate`` from end to end, with colours for prompts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from manyeyes import Item, Labeler, Recipe
from manyeyes.cli import app
from manyeyes.commands.pictures import half_blocks
from manyeyes.errors import InvalidRequest
from manyeyes.prompt_fitting import calibrate
from manyeyes.prompt_sheet import render_sheet
from manyeyes.prompting import suggest_threshold, try_prompt

RECIPE = """
name: colours
classes: [red, green, blue]
primitives: {toy: colors}
lfs:
  - {name: looks, kind: prompt, using: toy, prompts: {red: red, green: green, blue: blue}, threshold: 0.4}
  - {name: says, kind: keyword, votes: {red: [scarlet, crimson], green: [leaf], blue: [sky]}}
  - {name: no_plant, kind: keyword, any: [stone], vote: {not: green}}
"""
HUES = {"red": (230, 30, 20), "green": (20, 220, 40), "blue": (30, 20, 230)}


def call(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    told = f"{result.stdout}\n{result.stderr}"
    assert result.exit_code == code, f"{told}\n{result.exception!r}"
    assert "Traceback" not in told
    return result


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twenty pictures of each of three colours, one with a text beside it, and one that is broken."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, hue in HUES.items():
        for i in range(20):
            pixels = np.clip(np.array(hue) + rng.integers(-20, 20, size=3), 0, 255).astype(np.uint8)
            Image.fromarray(np.tile(pixels, (20, 30, 1))).save(folder / f"{name}{i}.png")
    (folder / "red0.txt").write_text("a crimson <b>thing</b>", encoding="utf-8")
    (folder / "blue0.txt").write_text("a stone", encoding="utf-8")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE, encoding="utf-8")
    return file


def toy(*arguments: str | Path, code: int = 0) -> Result:
    return call("prompt", *arguments, "--using", "toy", "--background", "none", code=code)


class Page(HTMLParser):
    """What a page loads and runs, and how many figures it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "action")]


# --- the command -----------------------------------------------------------------------------------------------------


def test_top_borderline_bottom_and_coverage(photos: Path, recipe: Path) -> None:
    result = toy("red", photos, "--against", "green", "--against", "blue", "--recipe", recipe, "--show", 5)
    parts = re.split(r"^(?:Top|Borderline|Bottom|Beside.*|Coverage)\s*$", result.stdout, flags=re.M)
    assert len(re.findall(r"^red\d+\.png", parts[1], flags=re.M)) == 5
    assert not re.findall(r"^red\d+\.png", parts[3], flags=re.M)
    assert re.search(r"votes on 20 of 61 items \(32\.8%\)", result.stdout)
    assert "Suggested threshold" in result.stdout
    assert re.search(r"^looks +100\.0% +0\.0% +33\.3%", result.stdout, flags=re.M)
    assert re.search(r"^says +5\.0% +0\.0% +100\.0% +red 1", result.stdout, flags=re.M)
    assert "1 item with an error" in result.stderr


def test_json_tells_the_same_with_every_score(photos: Path, recipe: Path) -> None:
    arguments = ("a scarlet or red one", photos, "--against", "green", "--against", "blue")
    document = json.loads(
        toy(*arguments, "--recipe", recipe, "--threshold", "0.6", "--show", 4, "--json").stdout
    )
    assert len(document["scores"]) == 61 and document["scores"]["broken.png"] is None
    assert document["vote"] == "red" and document["threshold"] == 0.6
    assert [row["id"][:3] for row in document["top"]] == ["red"] * 4
    assert document["coverage"] == pytest.approx(20 / 61)
    found = {a["lf"]: a for a in document["agreements"]}
    assert found["looks"]["conflicts"] == 0.0 and found["looks"]["says"] == [["red", 20]]
    assert found["no_plant"]["overlaps"] == 0.0
    shares = [share for _, share in document["coverage_at"]]
    assert shares == sorted(shares, reverse=True)


def test_a_vote_for_another_class_conflicts(photos: Path, recipe: Path) -> None:
    document = json.loads(
        toy(
            "red",
            photos,
            "--against",
            "blue",
            "--recipe",
            recipe,
            "--vote",
            "green",
            "--threshold",
            0.9,
            "--json",
        ).stdout
    )
    found = {a["lf"]: a for a in document["agreements"]}
    assert found["looks"]["conflicts"] == 1.0
    assert found["no_plant"]["conflicts"] == 0.0


def test_gold_says_how_often_it_is_right(photos: Path, recipe: Path, tmp_path: Path) -> None:
    gold = tmp_path / "gold.csv"
    rows = [f"{name}{i}.png,{name}" for name in HUES for i in range(10)]
    gold.write_text("id,label\nbroken.png,red\n" + "\n".join(rows) + "\n", encoding="utf-8")
    document = json.loads(
        toy("red", photos, "--against", "blue", "--recipe", recipe, "--gold", gold, "--json").stdout
    )
    assert document["right"] == 1.0
    assert 0 < document["suggested_threshold"] < 1


def test_the_sheet_is_one_file_that_loads_nothing(photos: Path, tmp_path: Path, recipe: Path) -> None:
    sheet = tmp_path / "sheet.html"
    evil = "<script>alert(1)</script> red"
    toy(evil, photos, "--against", "</title><img src=http://x> blue", "--recipe", recipe, "--html", sheet)
    text = sheet.read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in page.tags and "link" not in page.tags
    assert page.sources and all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert page.tags.count("figure") == 36
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "&lt;b&gt;thing&lt;/b&gt;" in text
    assert "default-src 'none'" in text
    assert "Beside the recipe" in text


def test_texts_can_be_tried_too(tmp_path: Path, recipe: Path) -> None:
    table = tmp_path / "texts.csv"
    table.write_text("id,text\na,red\nb,blue\nc,green and red\nd,\n", encoding="utf-8")
    document = json.loads(
        toy("red", table, "--on", "text", "--against", "blue", "--recipe", recipe, "--json").stdout
    )
    assert document["scores"]["a"] > document["scores"]["c"] > document["scores"]["b"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--vote", "pink"], "is not a class of the recipe"),
        (["--background", "romms"], "did you mean 'rooms'"),
        (["--template", "phot"], "did you mean 'photo'"),
        (["--html", "sheet.pdf"], "html"),
        (["--on", "sound"], "cannot be read"),
        (["--using", "nothing"], "nothing"),
    ],
)
def test_what_cannot_be_used_is_told(photos: Path, recipe: Path, arguments: list[str], told: str) -> None:
    assert told in call("prompt", "red", photos, "--recipe", recipe, *arguments, code=2).stderr


def test_nothing_to_compare_is_no_success(tmp_path: Path, recipe: Path) -> None:
    table = tmp_path / "texts.csv"
    table.write_text("id,text\na,red\n", encoding="utf-8")
    assert "nothing to compare" in toy("red", table, "--against", "blue", "--recipe", recipe, code=1).stderr


# --- from Python -----------------------------------------------------------------------------------------------------


def items() -> list[Item]:
    return [Item(f"{word}{i}", text=word) for word in HUES for i in range(30)]


def test_the_order_of_items_changes_no_score() -> None:
    recipe = Recipe.parse(RECIPE)
    common: dict[str, Any] = {
        "against": ["blue"],
        "background": (),
        "on": "text",
        "using": "toy",
        "recipe": recipe,
    }
    here, there = try_prompt("red", items(), **common), try_prompt("red", items()[::-1], **common)
    assert dict(zip(here.ids, here.scores, strict=True)) == dict(zip(there.ids, there.scores, strict=True))
    assert (here.suggested, here.coverage) == (there.suggested, there.coverage)
    assert here.agreements == there.agreements


def test_several_sentences_are_one_prompt() -> None:
    common: dict[str, Any] = {
        "against": ["white"],
        "background": (),
        "on": "text",
        "recipe": Recipe.parse(RECIPE),
    }
    one = try_prompt("red", items(), using="toy", **common)
    two = try_prompt(["red", "blue"], items(), using="toy", **common)
    assert two.scores[60] > one.scores[60]


def test_no_items_are_no_error() -> None:
    view = try_prompt("red", [], recipe=Recipe.parse(RECIPE), against=["blue"], background=(), using="toy")
    assert view.coverage == 0.0 and view.top == () and view.suggested is None
    assert "There is nothing to show" in render_sheet(view, items={})


def test_a_threshold_lies_between_two_heaps() -> None:
    rng = np.random.default_rng(0)
    odds = np.concatenate([rng.normal(-4, 1, 900), rng.normal(3, 1, 100)])
    found = suggest_threshold((1 / (1 + np.exp(-odds))).astype(np.float32))
    assert found is not None and 0.3 < found < 0.7
    assert suggest_threshold(np.full(100, 0.5, dtype=np.float32)) is None
    assert suggest_threshold(np.array([0.1, 0.9], dtype=np.float32)) is None


def test_pictures_in_a_terminal() -> None:
    picture = Image.new("RGB", (8, 4), (255, 0, 0))
    text = half_blocks(Item("a", image=picture), columns=4)
    assert text is not None and text.plain == "▀▀▀▀\n"
    console = Console(force_terminal=True, color_system="truecolor", width=40)
    with console.capture() as told:
        console.print(text)
    assert "38;2;" in told.get()
    assert half_blocks(Item("b", text="x"), columns=4) is None
    assert half_blocks(Item("c", image=b"no picture"), columns=4) is None


# --- calibration -----------------------------------------------------------------------------------------------------


def test_a_calibrated_recipe_names_its_numbers(photos: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "calibrated.yaml"
    assert "comments are not kept" in call("recipe", "calibrate", recipe, photos, "--out", out).stderr
    before, after = Recipe.load(recipe), Recipe.load(out)
    assert before.version != after.version
    told = after.document()["lfs"][0]["calibrated"]["image"]
    assert told["scale"] == 10.0 and set(told["gain"]) == {"red", "green", "blue"}
    assert after.document()["lfs"][1:] == before.document()["lfs"][1:]
    assert Recipe.parse(call("recipe", "calibrate", recipe, photos).stdout) == after
    assert (
        Recipe.parse(call("recipe", "calibrate", out, photos).stdout) == after
    )  # an earlier one is forgotten
    labels = Labeler(after).label([Item("x", image=Image.new("RGB", (9, 9), HUES["blue"]))])
    assert labels[0].label == "blue"
    after.check_untrusted()


def test_calibration_does_not_hang_on_the_order_of_items() -> None:
    recipe = Recipe.parse(RECIPE.replace("using: toy", "using: toy, on: text"))
    assert calibrate(recipe, items()) == calibrate(recipe, items()[::-1])


def test_gold_of_nothing_is_refused() -> None:
    recipe = Recipe.parse(RECIPE.replace("using: toy", "using: toy, on: text"))
    with pytest.raises(InvalidRequest, match="nobody"):
        calibrate(recipe, items(), gold={"nobody": "red"})
    with pytest.raises(InvalidRequest, match="pink"):
        calibrate(recipe, items(), gold={"red0": "pink"})
    assert calibrate(recipe, items(), gold={"red0": "green"}) != calibrate(recipe, items())


def test_what_cannot_be_calibrated_is_told(photos: Path, recipe: Path, tmp_path: Path) -> None:
    told = call("recipe", "calibrate", recipe, photos, "--lf", "says", code=2).stderr
    assert "'says' is no prompt LF of this recipe; there are: looks" in told
    few = tmp_path / "few"
    few.mkdir()
    (photos / "red0.png").rename(few / "red0.png")
    assert "50 items or more, got 1" in call("recipe", "calibrate", recipe, few, code=2).stderr


@pytest.mark.slow
def test_the_starter_finds_the_dresses(shared_data: Path, tmp_path: Path) -> None:
    from zipfile import ZipFile

    with ZipFile(shared_data / "clothing_train.zip") as archive:
        for kind in ("dress", "shoes", "hat"):
            for name in sorted(name for name in archive.namelist() if name.startswith(f"{kind}/"))[:8]:
                archive.extract(name, tmp_path / "photos")
    sheet = tmp_path / "sheet.html"
    result = call("prompt", "a photo of a dress", tmp_path / "photos", "--html", sheet, "--show", 6, "--json")
    document = json.loads(result.stdout)
    assert [row["id"].partition("/")[0] for row in document["top"]] == ["dress"] * 6
    assert "dress" not in {row["id"].partition("/")[0] for row in document["bottom"]}
    assert Page(sheet.read_text(encoding="utf-8")).tags.count("img") == 18
