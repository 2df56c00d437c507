"""Conditions over what primitives tell of texts: facts, and fields taken out of them."""

from __future__ import annotations

from typing import Any

import pytest

from manyeyes.errors import InvalidRecipe, UntrustedRecipe
from manyeyes.labeler import Labeler, extractor_for
from manyeyes.recipe import Recipe
from manyeyes.types import Item

OFFER = {"kind": "fields", "fields": {"price": {"type": "price"}, "code": r"#(\w+)"}}
TITLE = {"kind": "fields", "on": "metadata.title", "fields": {"size": r"size (\w+)"}}


def recipe_of(*lfs: dict[str, Any], **primitives: Any) -> Recipe:
    named = [{"name": f"lf{i}", "kind": "metadata", "vote": "yes", **lf} for i, lf in enumerate(lfs)]
    return Recipe.parse({"name": "r", "classes": ["yes", "no"], "primitives": primitives, "lfs": named})


def holds(recipe: Recipe, *items: Item) -> list[list[bool]]:
    votes, errors, _ = Labeler(recipe, extractor=extractor_for(recipe, cache=None)).votes(items)
    assert not errors
    told: list[list[bool]] = (votes.classes == 0).tolist()
    return told


def test_fields_are_read_like_metadata() -> None:
    recipe = recipe_of(
        {"when": "price < 10"},
        {"when": "code == 'ab' or code == 12"},
        {"when": "price == None"},
        {"when": "size in ('M', 42)"},
        offer=OFFER,
        title=TITLE,
    )
    items = [
        Item("a", text="€ 5 #ab", metadata={"title": "Size M"}),
        Item("b", text="50 € #12", metadata={"title": "size 42"}),
        Item("c", text="nothing", metadata={"title": "no"}),
        Item("d", text="50 €", metadata={"price": 3}),
        Item("e", text="#" + "x" * 200, metadata={"code": None}),
    ]
    assert holds(recipe, *items) == [
        [True, True, False, True],
        [False, True, False, True],
        [False, False, True, False],
        [True, False, False, False],
        [False, False, True, False],
    ]


def test_long_texts_are_whole() -> None:
    recipe = recipe_of({"when": f"code == '{'x' * 200}'"}, {"when": "len(code) == 200"}, offer=OFFER)
    assert holds(recipe, Item("a", text="#" + "x" * 200), Item("b", text="#" + "x" * 199)) == [
        [True, True],
        [False, False],
    ]


def test_what_is_named_is_found_and_written_down() -> None:
    recipe = recipe_of(
        {"when": "price < 10 and n_words > 2"},
        {"when": "size == 1"},
        {"when": "brand == 'x'"},
        offer=OFFER,
        title=TITLE,
    )
    assert [lf.using for lf in recipe.lfs] == [("offer",), ("title@metadata.title",), ()]  # type: ignore[attr-defined]
    assert Recipe.parse(recipe.to_yaml()) == recipe
    labeler = Labeler(recipe, extractor=extractor_for(recipe, cache=None))
    assert [lf.reads for lf in labeler.lfs] == [("offer", "text_facts"), ("title@metadata.title",), ()]


def test_two_fields_of_one_name_must_be_told_apart() -> None:
    with pytest.raises(
        InvalidRecipe, match="'price' is a field of a and of b; say which is meant: using: \\[a\\]"
    ):
        recipe_of({"when": "price < 10"}, a=OFFER, b=OFFER)
    assert recipe_of({"when": "price < 10", "using": ["b"]}, a=OFFER, b=OFFER).lfs[0].using == ("b",)  # type: ignore[attr-defined]


def test_counted_facts_need_no_declaration() -> None:
    recipe = recipe_of(
        {"when": "n_words < 3 and n_sentences == 1"}, {"when": "capitals > 0.9"}, {"when": "n_chars == 0"}
    )
    items = [
        Item("a", text="A hat"),
        Item("b", text="A RED HAT. NEW"),
        Item("c", text="x", metadata={"n_words": 9}),
    ]
    assert holds(recipe, *items) == [[True, False, False], [False, True, False], [False, False, False]]
    assert "text_facts" in recipe.primitives


def test_language_and_sentiment() -> None:
    recipe = recipe_of({"when": "language == 'de' and language_score > 0.5"}, {"when": "sentiment < -0.3"})
    items = [
        Item("a", text="Ein handgemachter Hut, nur einmal getragen"),
        Item("b", text="This is awful, I hate it"),
        Item("c", text="x", metadata={"language": "de", "language_score": 1}),
    ]
    assert holds(recipe, *items) == [[True, False], [False, True], [True, False]]
    labeler = Labeler(recipe, extractor=extractor_for(recipe, cache=None))
    assert labeler.needs == ("text_facts.language", "text_facts.sentiment")


def test_facts_of_another_text_come_first() -> None:
    recipe = recipe_of({"when": "n_words == 2", "using": ["text_facts@metadata.title"]})
    assert holds(recipe, Item("a", text="one two three", metadata={"title": "one two"})) == [[True]]


@pytest.mark.parametrize(
    ("using", "told"),
    [
        (["nothing"], "unknown primitive 'nothing'"),
        (["text_facts@clip"], "'text_facts' cannot read 'clip', which gives no text; allowed: ocr, filename"),
        (["text_facts.laguage"], "did you mean 'text_facts.language'?"),
    ],
)
def test_what_cannot_be_read_is_refused(using: list[str], told: str) -> None:
    with pytest.raises(InvalidRecipe) as caught:
        recipe_of({"when": "n_words == 2", "using": using})
    assert told in str(caught.value)


def test_fields_may_come_from_outside() -> None:
    recipe_of({"when": "price < 10 and language == 'de'"}, offer=OFFER).check_untrusted()
    with pytest.raises(UntrustedRecipe):
        recipe_of({"when": "price < 10"}, offer=OFFER, clip="/etc/passwd.pt").check_untrusted()
