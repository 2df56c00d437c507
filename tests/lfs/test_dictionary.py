"""Dictionaries: what occurs, what it weighs, and what a file may hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from manyeyes.errors import InvalidRecipe, UntrustedRecipe
from manyeyes.lfs.terms import TermIndex, read_terms
from manyeyes.recipe import Recipe

CLASSES = ("dress", "hat", "t-shirt")


def voted(tools: Any, *texts: str | None, **fields: Any) -> list[str | None]:
    lf = tools.make_lf(kind="dictionary", **fields)
    lf.prepare(None)
    told: list[str | None] = tools.votes_of(lf, tools.with_texts(*texts))
    return told


def test_the_heaviest_class_wins(tools: Any) -> None:
    words = {"hat": {"stetson": 2, "straw": 0.5, "silk": -1}, "dress": ["silk", "gown"]}
    assert voted(tools, "a Stetson", "silk gown", "straw", words=words) == ["hat", "dress", None]
    assert voted(tools, "straw", words=words, least=0.5) == ["hat"]
    # 2 − 1 for hat, 1 for dress
    assert voted(tools, "a Stetson in silk", words=words) == [None]


def test_a_word_counts_once_and_only_whole(tools: Any) -> None:
    words = {"hat": ["hat", "red hat"], "t-shirt": ["t-shirt"], "dress": ["shirt", "shirt"]}
    texts = (
        "hat hat hat shirt",
        "that hatter",
        "a T-SHIRT",
        "red  hat",
        "RED\nHAT and shirt",
        "hat. (shirt)",
    )
    assert voted(tools, *texts, words=words) == [None, None, "t-shirt", "hat", None, None]
    assert voted(tools, "that", words={"hat": "hat", "dress": "gown"}, whole_words=False) == ["hat"]
    assert voted(tools, "Hat", "hat", words={"hat": "Hat"}, ignore_case=False) == ["hat", None]


def test_any_script(tools: Any) -> None:
    words = {"hat": ["шляпа", "帽子", "chapeau d'été", "e\u0301te\u0301"], "dress": "STRASSE"}
    assert voted(tools, "Красная ШЛЯПА", "été", "Straße", words=words) == ["hat", "hat", "dress"]
    assert voted(tools, "黒い帽子です", words=words, whole_words=False) == ["hat"]


def test_a_word_of_several_classes(tools: Any) -> None:
    words = {"hat": {"lace": 1, "brim": 1}, "dress": {"lace": 2}}
    assert voted(tools, "lace", "lace brim", words=words) == ["dress", None]


WORD = st.text("abc", min_size=1, max_size=4)


@settings(max_examples=200)
@given(st.lists(WORD, min_size=1, max_size=8, unique=True), st.text("abc -", max_size=30), st.booleans())
def test_it_finds_what_a_slow_search_finds(terms: list[str], text: str, whole_words: bool) -> None:
    text = " ".join(text.split())
    places = [
        (start, start + len(term), i)
        for i, term in enumerate(terms)
        for start in range(len(text))
        if text.startswith(term, start)
        and not (whole_words and start and text[start - 1].isalnum())
        and not (whole_words and text[start + len(term) : start + len(term) + 1].isalnum())
    ]
    wanted = {
        i
        for start, end, i in places
        if not any(s <= start and end <= e and (s, e) != (start, end) for s, e, _ in places)
    }
    assert TermIndex(terms, whole_words=whole_words).find(text) == wanted


def test_thousands_of_terms_are_found(tools: Any) -> None:
    rng = np.random.default_rng(0)
    terms = [f"term{i}" for i in range(20_000)]
    index = TermIndex(terms)
    for chosen in rng.choice(20_000, size=(50, 5)):
        assert index.find(" and ".join(terms[i] for i in chosen)) == set(chosen.tolist())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "words.csv").write_text(
        'word,class,weight\nStetson,hat,2\n"red, wide",hat,\ngown,dress,1.5\n'
    )
    (tmp_path / "hats.txt").write_text("# hats\n\nfedora\nbowler hat\n", encoding="utf-8-sig")
    return tmp_path


def recipe_in(folder: Path | None, **fields: Any) -> Recipe:
    lf = {"name": "words", "kind": "dictionary", **fields}
    return Recipe.parse({"name": "r", "classes": list(CLASSES), "lfs": [lf]}, folder=folder)


def votes_in(recipe: Recipe, *texts: str) -> list[int]:
    from manyeyes.labeler import Labeler, extractor_for
    from manyeyes.types import Item

    labeler = Labeler(recipe, extractor=extractor_for(recipe, cache=None))
    votes, errors, _ = labeler.votes([Item(str(i), text=text) for i, text in enumerate(texts)])
    assert not errors
    told: list[int] = votes.classes[:, 0].tolist()
    return told


def test_a_file_is_read_from_beside_the_recipe(folder: Path) -> None:
    recipe = recipe_in(folder, file="words.csv")
    assert votes_in(recipe, "a stetson", "a Gown", "red, wide", "fedora") == [1, 0, 1, -1]
    listed = recipe_in(folder, file="hats.txt", vote="hat", words={"dress": "gown"})
    assert votes_in(listed, "a bowler hat", "# hats", "gown") == [1, -1, 0]
    # Written out and read again elsewhere, it is the same recipe and finds its file.
    again = Recipe.parse(recipe.to_yaml())
    assert again.version == recipe.version and votes_in(again, "a stetson") == [1]


def test_the_version_follows_the_file(folder: Path) -> None:
    before = recipe_in(folder, file="words.csv")
    (folder / "words.csv").write_text("word,class\nstetson,dress\n")
    after = recipe_in(folder, file="words.csv")
    assert before.version != after.version
    assert votes_in(after, "stetson") == [0]
    with pytest.raises(InvalidRecipe, match="its content changed"):
        votes_in(before, "stetson")
    with pytest.raises(InvalidRecipe, match="is not the file that the recipe names"):
        Recipe.parse(before.to_yaml(), folder=folder)


def test_without_a_folder_no_file_is_opened(folder: Path) -> None:
    recipe = recipe_in(None, file=str(folder / "words.csv"))
    with pytest.raises(InvalidRecipe, match="nobody said which folder"):
        votes_in(recipe, "stetson")


def test_from_outside_no_file_is_named(folder: Path) -> None:
    with pytest.raises(UntrustedRecipe, match=r"lfs\[0\].file: 'words.csv' is a file of this machine"):
        recipe_in(folder, file="words.csv").check_untrusted()
    recipe_in(None, words={"hat": "fedora"}).check_untrusted()


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.csv", "word,class\nfedora,hut\n", "line 2: unknown class 'hut'.*did you mean 'hat'"),
        ("a.csv", "word,class\nfedora,\n", "line 2: no class; write vote"),
        ("a.csv", "term,class\nfedora,hat\n", "has the columns term, class"),
        ("a.csv", "", "has the columns none"),
        ("a.tsv", "word\tclass\tweight\nfedora\that\theavy\n", "line 2: 'heavy' is no weight"),
        ("a.csv", "word,class,weight\nfedora,hat,nan\n", "'nan' is no weight"),
        ("a.csv", "word,class\n ,hat\n", "the word is empty"),
        ("a.txt", "fedora\n", "no class"),
        ("a.txt", b"\xff\xfe", "is not UTF-8: byte 0"),
    ],
)
def test_what_a_file_may_not_hold(name: str, content: str | bytes, told: str) -> None:
    data = content.encode() if isinstance(content, str) else content
    with pytest.raises(InvalidRecipe, match=told):
        read_terms(data, name, vote=None, classes=CLASSES)


def test_a_file_of_too_many_terms_is_refused() -> None:
    data = "\n".join(f"w{i}" for i in range(200_001)).encode()
    with pytest.raises(InvalidRecipe, match="more than the 200,000"):
        read_terms(data, "a.txt", vote="hat", classes=CLASSES)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "needs words"),
        ({"words": {"hat": []}}, "at least 1"),
        ({"words": {"hut": ["a"]}}, "did you mean 'hat'?"),
        ({"words": {"hat": " "}}, "at least 1 character"),
        ({"words": {"hat": {"a": True}}}, "truth value"),
        ({"words": {"hat": {"a": float("nan")}}}, "greater than or equal to -1000"),
        ({"words": {"hat": "a"}, "vote": "hat"}, "vote and sha256 belong to a file"),
        ({"words": {"hat": [f"w{i}" for i in range(10_001)]}}, "at most 10,000"),
        ({"words": {"hat": "a"}, "least": 0}, "greater than 0"),
    ],
)
def test_what_is_refused(tools: Any, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tools.make_lf(kind="dictionary", **fields)
    assert told in str(caught.value)
