"""Words and patterns: which texts they are found in."""

from __future__ import annotations

import re
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from manyeyes.lfs.fields import file_name
from manyeyes.primitives.base import FeatureSet
from manyeyes.types import Item


@pytest.mark.parametrize(
    ("fields", "text", "votes"),
    [
        ({"any": ["hat", "cap"]}, "A nice Hat.", True),
        ({"any": ["hat"]}, "that", False),
        ({"any": ["hat"]}, "hats", False),
        ({"any": ["hat"], "whole_words": False}, "that", True),
        ({"any": ["hat"], "ignore_case": False}, "Hat", False),
        ({"any": "hat"}, "hat", True),
        ({"any": ["hat"]}, "", False),
        ({"any": ["hat"]}, None, False),
        ({"any": ["hat"]}, "hat_rack", False),
        ({"any": ["hat"]}, "hat-rack", True),
        ({"any": ["t-shirt"]}, "one t-shirt, new", True),
        ({"any": ["c++"]}, "I write C++", True),
        ({"any": ["red hat"]}, "a red\n  hat", True),
        ({"any": ["red hat"]}, "a red, hat", False),
        ({"any": ["straße"]}, "STRASSE", True),
        ({"any": ["größe"]}, "Die GRÖSSE", True),
        ({"any": ["übung"]}, "Übung", True),
        ({"any": ["café"]}, unicodedata.normalize("NFD", "Café"), True),
        ({"any": ["cafe"]}, unicodedata.normalize("NFD", "Café"), False),
        ({"any": ["шляпа"]}, "Новая ШЛЯПА!", True),
        ({"any": ["шляп"]}, "шляпа", False),
        ({"any": ["帽子"], "whole_words": False}, "新しい帽子です", True),
        ({"all": ["red", "hat"]}, "a hat, red", True),
        ({"all": ["red", "hat"]}, "a hat", False),
        ({"any": ["hat"], "none": ["no"]}, "no hat", False),
        ({"any": ["hat"], "none": ["no"]}, "a hat", True),
        ({"none": ["hat"]}, "a dress", True),
        ({"none": ["hat"]}, None, False),
        ({"any": ["hat", "cap"], "all": ["new"]}, "new cap", True),
        ({"any": ["hat", "cap"], "all": ["new"]}, "old cap", False),
    ],
)
def test_words(tools: Any, fields: dict[str, Any], text: str | None, votes: bool) -> None:
    lf = tools.make_lf(kind="keyword", vote="hat", **fields)
    features = tools.with_texts("a hat", text, "nothing")
    assert tools.votes_of(lf, features)[1] == ("hat" if votes else None)


def test_words_by_class(tools: Any) -> None:
    votes = {"hat": ["hat", "cap"], "dress": ["dress", "gown", "cap"]}
    lf = tools.make_lf(kind="keyword", votes=votes, none=["toy"])
    features = tools.with_texts(
        "a hat", "a gown", "a hat and a gown", "a gown, a dress, a hat", "cap", "toy hat", None
    )
    assert tools.votes_of(lf, features) == ["hat", "dress", None, "dress", None, None, None]


def test_a_word_inside_a_longer_one_does_not_count(tools: Any) -> None:
    votes = {"t-shirt": ["t-shirt", "tee shirt"], "dress": ["shirt", "tee"], "hat": ["rack"]}
    lf = tools.make_lf(kind="keyword", votes=votes)
    texts = [
        "a T-Shirt",
        "a shirt",
        "tee shirt",
        "a t-shirt and a shirt",
        "a tee",
        "my-t-shirts shirt",
        "hat-rack",
    ]
    expected = ["t-shirt", "dress", "t-shirt", None, "dress", "dress", "hat"]
    assert tools.votes_of(lf, tools.with_texts(*texts)) == expected
    inside = tools.make_lf(kind="keyword", votes={"t-shirt": ["that"], "hat": ["hat"]}, whole_words=False)
    assert tools.votes_of(inside, tools.with_texts("that", "hats", "that hat")) == ["t-shirt", "hat", None]


def test_where_it_looks(tools: Any) -> None:
    items = [
        Item("1", image="shop/hat_01.jpg", text="x", metadata={"title": "Cap"}),
        Item("2", image=b"...", text="hat", metadata={"title": 7}),
        Item("hat-3.png", image=b"..."),
    ]
    features = FeatureSet(items)
    words = {"any": ["hat", "cap", "7"], "vote": "hat", "whole_words": False}
    assert tools.votes_of(tools.make_lf(kind="keyword", **words), features) == [None, "hat", None]
    by_name = tools.make_lf(kind="keyword", on="filename", **words)
    assert tools.votes_of(by_name, features) == ["hat", None, "hat"]
    by_title = tools.make_lf(kind="keyword", on="metadata.title", **words)
    assert tools.votes_of(by_title, features) == ["hat", "hat", None]


@pytest.mark.parametrize(
    ("item", "name"),
    [
        (Item("a/b.jpg"), "b.jpg"),
        (Item("x", image="a/b.jpg"), "b.jpg"),
        (Item("x", image=Path("a/b.jpg")), "b.jpg"),
        (Item("x", image="s3://bucket/a/b.jpg?version=3"), "b.jpg"),
        (Item("x", image="C:\\photos\\b.jpg"), "b.jpg"),
        (Item("x", image="a/b.jpg", metadata={"filename": "c.jpg"}), "c.jpg"),
        (Item("x", image="a/b.jpg", metadata={"filename": 3}), "b.jpg"),
        (Item("x", image=b"\xff\xd8"), "x"),
    ],
)
def test_file_names(item: Item, name: str) -> None:
    assert file_name(item) == name


words = st.text(st.sampled_from("abÀß .-"), min_size=1, max_size=4).filter(lambda word: word.strip())


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(st.sampled_from("abÀàß .-\n"), max_size=12) | st.none(), max_size=6),
    words,
    st.booleans(),
)
def test_one_scan_finds_what_a_search_of_each_text_finds(
    tools: Any, texts: list[str | None], word: str, whole: bool
) -> None:
    lf = tools.make_lf(kind="keyword", any=[word], vote="hat", whole_words=whole)
    pattern = re.escape(" ".join(word.split()).casefold())
    pattern = rf"(?<!\w){pattern}(?!\w)" if whole else pattern
    found = [text is not None and re.search(pattern, " ".join(text.split()).casefold()) for text in texts]
    assert tools.votes_of(lf, tools.with_texts(*texts)) == ["hat" if hit else None for hit in found]


def test_patterns(tools: Any) -> None:
    lf = tools.make_lf(kind="regex", pattern=r"^HT-\d+", vote="hat")
    assert tools.votes_of(lf, tools.with_texts("ht-12 x", "x HT-12", None, "HT-")) == [
        "hat",
        None,
        None,
        None,
    ]
    strict = tools.make_lf(kind="regex", pattern=r"^HT-\d+", vote="hat", ignore_case=False)
    assert tools.votes_of(strict, tools.with_texts("ht-12 x", "HT-12")) == [None, "hat"]
    several = tools.make_lf(kind="regex", votes={"hat": ["h.t", "cap"], "dress": "dress|gown"})
    texts = tools.with_texts("a hut", "gown", "hat, gown", "hat, cap, gown")
    assert tools.votes_of(several, texts) == ["hat", "dress", None, "hat"]


def test_patterns_for_one_class_are_the_short_form(tools: Any) -> None:
    long = tools.make_lf(kind="regex", votes={"hat": ["x", "y"]})
    short = tools.make_lf(kind="regex", pattern=["x", "y"], vote="hat")
    assert (long.spec, long.version) == (short.spec, short.version)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|a)*$", "(a|aa)+$", "(.*a){20}", "a*a*a*a*a*a*b"])
def test_no_pattern_can_hang(tools: Any, pattern: str) -> None:
    lf = tools.make_lf(kind="regex", pattern=pattern, vote="hat")
    started = time.perf_counter()
    tools.votes_of(lf, tools.with_texts("a" * 50_000 + "!"))
    assert time.perf_counter() - started < 2.0


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"kind": "keyword", "any": ["x"]}, "vote or votes, got neither"),
        ({"kind": "keyword", "any": ["x"], "vote": "hat", "votes": {"hat": ["x"]}}, "got both"),
        ({"kind": "keyword", "vote": "hat"}, "any, all or none"),
        ({"kind": "keyword", "votes": {"hat": ["x"]}, "any": ["y"]}, "beside votes"),
        ({"kind": "keyword", "votes": {"hat": []}}, "no words"),
        ({"kind": "keyword", "votes": {"hut": ["x"]}}, "did you mean 'hat'?"),
        ({"kind": "keyword", "any": ["x"], "vote": "hatt"}, "did you mean 'hat'?"),
        ({"kind": "keyword", "any": ["\u00a0"], "vote": "hat"}, "at least 1 character"),
        ({"kind": "keyword", "any": ["x"], "vote": "hat", "on": "txt"}, "did you mean 'text'?"),
        ({"kind": "keyword", "any": ["x"], "vote": "hat", "on": "title"}, "write metadata.title"),
        ({"kind": "keyword", "any": ["x"], "vote": "hat", "on": "metadata."}, "metadata.<field>"),
        ({"kind": "regex", "pattern": "("}, "missing )"),
        ({"kind": "regex", "pattern": "x"}, "vote is missing"),
        ({"kind": "regex", "vote": "hat"}, "pattern is missing"),
        ({"kind": "regex", "pattern": "(a)\\1", "vote": "hat"}, "no back-references"),
        ({"kind": "regex", "pattern": "x{1000}{1000}", "vote": "hat"}, "cannot be used"),
        ({"kind": "regex", "pattern": "x" * 501, "vote": "hat"}, "500"),
        ({"kind": "regex", "pattern": "x", "vote": "hat", "votes": {"hat": "x"}}, "beside votes"),
        ({"kind": "regex", "votes": {"hat": []}}, "no patterns"),
    ],
)
def test_what_is_refused(tools: Any, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tools.make_lf(**fields)
    assert told in str(caught.value)
