"""Recipes in versions that never change, and who changed which."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manyeyes import Recipe
from manyeyes.errors import InvalidRequest, RecipeNotFound, VersionConflict
from manyeyes.service.store.store import Store


def test_a_first_version_is_active_and_later_ones_wait(store: Store, recipe: Recipe) -> None:
    first = store.recipes.create(
        "shelves", recipe.canonical(), author="ada", note="the first", request_id="r1"
    )
    assert (first.number, first.version, first.is_active) == (1, recipe.version, True)
    assert (first.author, first.note, first.request_id, first.text) == (
        "ada",
        "the first",
        "r1",
        recipe.canonical(),
    )
    assert first.created_at.utcoffset() is not None
    assert Recipe.parse(first.text) == recipe

    second = store.recipes.create("shelves", "second", author="bob")
    assert (second.number, second.is_active) == (2, False)
    assert store.recipes.get("shelves") == first
    assert store.recipes.get("shelves", 2) == store.recipes.get("shelves", second.version) == second

    activated = store.recipes.activate("shelves", 2, author="bob", expect=first.version, request_id="r2")
    assert activated.is_active and store.recipes.get("shelves") == activated
    assert not store.recipes.get("shelves", 1).is_active
    assert [version.number for version in store.recipes.versions("shelves")] == [2, 1]
    (summary,) = store.recipes.list()
    assert (summary.name, summary.number, summary.version, summary.n_versions) == (
        "shelves", 2, second.version, 2,
    )  # fmt: skip
    assert summary.created_at <= summary.updated_at and summary.author == "ada"

    told = store.audit.list(subject="recipe:shelves")
    assert [(row.actor, row.action, row.request_id) for row in told] == [
        ("bob", "recipe.activate", "r2"),
        ("bob", "recipe.create", None),
        ("ada", "recipe.create", "r1"),
    ]
    assert told.items[0].details == {"from": first.version, "to": second.version}


def test_the_same_text_is_the_same_version(store: Store) -> None:
    first = store.recipes.create("r", "text", author="ada")
    assert store.recipes.create("r", "text", author="bob", note="again") == first
    assert store.recipes.create("other", "text", author="bob").id != first.id
    assert len(store.audit.list(subject="recipe:r")) == 1  # nothing changed, so nothing is told


def test_a_stale_activation_is_refused(store: Store) -> None:
    first = store.recipes.create("r", "1", author="a")
    second = store.recipes.create("r", "2", author="a")
    store.recipes.activate("r", 2, author="a")
    with pytest.raises(VersionConflict, match=f"version {second.version} of recipe 'r' is active"):
        store.recipes.activate("r", 1, author="b", expect=first.version)
    assert store.recipes.get("r").number == 2
    # To activate what is active changes nothing.
    store.recipes.activate("r", 2, author="a", expect=second.version)
    assert len(store.audit.list(action="recipe.activate")) == 1


def test_what_is_not_there(store: Store) -> None:
    with pytest.raises(RecipeNotFound, match="the store holds none"):
        store.recipes.get("shelves")
    store.recipes.create("shelves", "1", author="a")
    with pytest.raises(RecipeNotFound, match="did you mean 'shelves'"):
        store.recipes.get("shelvs")
    for version in ("0123456789abcdef", 0, -1, 2, 2**40, ""):
        with pytest.raises(RecipeNotFound, match="has no version"):
            store.recipes.get("shelves", version)
        with pytest.raises(RecipeNotFound, match="has no version"):
            store.recipes.activate("shelves", version, author="a")
    for call in (store.recipes.archive, store.recipes.delete):
        with pytest.raises(RecipeNotFound):
            call("nothing", author="a")
    with pytest.raises(RecipeNotFound):
        store.recipes.versions("nothing")


def test_an_archived_recipe_is_out_of_use_until_it_comes_back(store: Store) -> None:
    first = store.recipes.create("r", "1", author="a")
    store.recipes.archive("r", author="b")
    store.recipes.archive("r", author="b")
    assert not store.recipes.list()
    assert [one.archived_at is not None for one in store.recipes.list(archived=True)] == [True]
    with pytest.raises(RecipeNotFound, match="archived"):
        store.recipes.get("r")
    with pytest.raises(RecipeNotFound, match="archived"):
        store.recipes.activate("r", 1, author="b")
    assert store.recipes.get("r", 1).text == "1" and not store.recipes.get("r", 1).is_active
    assert store.recipes.create("r", "1", author="c") == first
    assert store.recipes.get("r") == first
    assert [row.action for row in store.audit.list()] == ["recipe.restore", "recipe.archive", "recipe.create"]


def test_a_deleted_recipe_leaves_its_trace(store: Store) -> None:
    store.recipes.create("r", "1", author="a")
    store.recipes.create("r", "2", author="a")
    store.recipes.delete("r", author="b", request_id="why")
    with pytest.raises(RecipeNotFound):
        store.recipes.get("r", 1)
    (told, *_) = store.audit.list(subject="recipe:r")
    assert (told.actor, told.action, told.request_id) == ("b", "recipe.delete", "why")
    assert told.details == {"n_versions": 2, "n_label_models": 0}
    assert store.recipes.create("r", "3", author="a").number == 1


def test_many_threads_number_their_versions_without_a_gap(store: Store) -> None:
    def create(which: int) -> None:
        for n in range(5):
            store.recipes.create("r", f"{which} {n}", author=str(which))

    threads = [threading.Thread(target=create, args=(which,)) for which in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [version.number for version in store.recipes.versions("r")]
    assert numbers == list(range(30, 0, -1))


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0b", "\ud800"])
def test_names_that_cannot_be_kept(store: Store, name: str) -> None:
    with pytest.raises(InvalidRequest):
        store.recipes.create(name, "text", author="a")
    assert not store.audit.list()


@pytest.mark.parametrize(
    "said", [{"note": "\0"}, {"author": "\ud800"}, {"request_id": "\0"}, {"note": "x" * 10_001}]
)
def test_words_that_cannot_be_kept(store: Store, said: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        store.recipes.create("r", "text", **({"author": "a"} | said))  # type: ignore[arg-type]
    assert not store.recipes.list()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1, max_size=200), st.text(), st.text())
def test_whatever_is_accepted_comes_back_as_it_was(store: Store, name: str, text: str, note: str) -> None:
    try:
        made = store.recipes.create(name, text, author=name, note=note)
    except InvalidRequest:
        assert any("\0" in one for one in (name, text, note))
        return
    assert store.recipes.get(name, made.version) == made
    assert (made.name, made.text) == (name, text)
    assert store.audit.list(subject=f"recipe:{name}").items[-1].actor == name
