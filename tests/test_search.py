"""``manyeyes search`` and ``manyeyes duplicates``, with a toy whose vectors can be checked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from manyeyes import Item
from manyeyes.cli import app
from manyeyes.errors import InvalidRequest, UnreadableItem
from manyeyes.search import Finder, duplicates

COLORS = {"red": (200, 0, 0), "blue": (0, 0, 200), "green": (0, 200, 0), "purple": (120, 0, 120)}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, color in COLORS.items():
        Image.new("RGB", (16, 16), color).save(folder / f"{name}.png")
    return folder


def run(*words: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(word) for word in words])
    return result.exit_code, result.stdout, result.stderr


def hits(*words: str | Path) -> list[str]:
    code, out, err = run("search", *words, "--clip", "toy", "--json")
    assert code == 0, err
    return [row["id"] for row in json.loads(out)]


def test_words_find_pictures(photos: Path) -> None:
    assert hits("something red", photos)[:2] == ["red.png", "purple.png"]
    assert hits("blue and red", photos, "-n", "1") == ["purple.png"]


def test_a_picture_finds_pictures_like_it(photos: Path) -> None:
    assert hits("--image", photos / "blue.png", photos)[:2] == ["blue.png", "purple.png"]


def test_words_find_texts(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"id": "a", "text": "green door"}\n{"id": "b", "text": "red car"}\n')
    assert hits("a red one", tmp_path / "t.jsonl", "--on", "text") == ["b", "a"]


def test_an_index_is_kept_and_brought_up_to_date(photos: Path, tmp_path: Path) -> None:
    kept = tmp_path / "index"
    assert hits("green", photos, "--index", kept)[0] == "green.png"
    assert hits("green", "--index", kept)[0] == "green.png"
    Image.new("RGB", (16, 16), COLORS["red"]).save(photos / "green.png")
    Image.new("RGB", (16, 16), (9, 250, 9)).save(photos / "lime.png")
    code, out, err = run("search", "green", photos, "--index", kept, "--clip", "toy")
    assert code == 0 and "2 items are new or changed" in err and "5 items" in out
    assert hits("green", "--index", kept)[0] == "lime.png"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--image", "a.png", "--index", "nowhere"], "there is no such file"),
        (["red"], "no paths were given"),
        ([], "neither of a text and --image"),
        (["red", ".", "--on", "txt"], "did you mean 'text'"),
        (["red", "--index", "nowhere"], "there is no index"),
        ([" ", "."], "is empty"),
    ],
)
def test_what_cannot_be_searched_is_told(working_directory: Path, words: list[str], said: str) -> None:
    code, _, err = run("search", *words, "--clip", "toy")
    assert code == 2 and said in err


def test_nothing_to_search_is_told(working_directory: Path) -> None:
    (working_directory / "broken.png").write_bytes(b"no picture")
    code, _, err = run("search", "red", working_directory, "--clip", "toy")
    assert code == 1 and "nothing to search" in err and "unsupported_format" in err


def test_what_is_there_twice_is_found(photos: Path) -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    noise.resize((200, 200)).save(photos / "a.jpg", quality=95)
    noise.resize((180, 180)).save(photos / "b.jpg", quality=60)
    code, out, err = run("duplicates", photos, "--clip", "toy", "--cosine", "0.9999", "--json")
    assert code == 0, err
    assert json.loads(out) == [["a.jpg", "b.jpg"]]
    code, out, _ = run("duplicates", photos, "--clip", "toy", "--cosine", "0.9999")
    assert "Groups of near-duplicates: 1; 1 of 6 items could go" in out


def test_texts_that_say_the_same_are_one_group() -> None:
    items = [Item(str(i), text=text) for i, text in enumerate(["red", "blue", "red", "green", "a red one"])]
    assert duplicates(items, finder=Finder(on="text", clip="toy")) == [["0", "2", "4"]]
    assert duplicates([], finder=Finder(on="text", clip="toy")) == []


def test_queries_that_say_nothing_are_refused() -> None:
    finder = Finder(on="text", clip="toy")
    with pytest.raises(InvalidRequest, match="among images alone"):
        finder.example("a.png")
    with pytest.raises(UnreadableItem):
        Finder(clip="toy").example("a.png")
