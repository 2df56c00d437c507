"""Pages: newest first, nothing twice, nothing left out, also while rows are added."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manyeyes.errors import InvalidRequest
from manyeyes.service.store.ids import new_id
from manyeyes.service.store.rows import MAX_PAGE
from manyeyes.service.store.store import Store


def test_ids_sort_as_they_were_made() -> None:
    ids = [new_id() for _ in range(10_000)]
    assert ids == sorted(set(ids))
    assert all(len(id) == 32 and id[12] == "7" and id[16] in "89ab" for id in ids)


def test_the_time_in_an_id_is_now() -> None:
    assert abs(int(new_id()[:12], 16) / 1000 - time.time()) < 60


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 12), st.integers(1, 13), st.integers(0, 3))
def test_pages_are_the_whole_newest_first(store: Store, n: int, limit: int, n_added: int) -> None:
    actor = new_id()
    made = [store.audit.add(actor=actor, action="a", subject=str(i)) for i in range(n)]
    found, cursor, n_pages = [], None, 0
    while n_pages == 0 or cursor is not None:
        page = store.audit.list(limit, cursor, actor=actor)
        assert len(page) <= limit and (page.next_cursor is None or len(page) == limit)
        found += page.items
        cursor = page.next_cursor
        n_pages += 1
        # What is added meanwhile stands before the first page, and disturbs none after it.
        for _ in range(n_added):
            store.audit.add(actor=actor, action="later", subject="")
    assert found == made[::-1]
    assert n_pages == max(1, -(-n // limit))


def test_every_list_has_pages(store: Store) -> None:
    for i in range(3):
        store.recipes.create(f"r{i}", "1", author="a")
        store.recipes.create("r0", str(i), author="a")
        store.keys.create(str(i), ["read"], author="a")
    recipes, keys = store.recipes.list(limit=2), store.keys.list(limit=2)
    assert [one.name for one in recipes] == ["r2", "r1"]
    assert [one.name for one in store.recipes.list(2, recipes.next_cursor)] == ["r0"]
    assert [one.name for one in store.keys.list(2, keys.next_cursor)] == ["0"]
    versions = store.recipes.versions("r0", limit=1)
    assert [one.number for one in store.recipes.versions("r0", 9, versions.next_cursor)] == [2, 1]


@pytest.mark.parametrize(
    "asked", [(0,), (-1,), (MAX_PAGE + 1,), (1, ""), (1, "x"), (1, "\0" * 32), (1, "0" * 33)]
)
def test_what_is_no_page(store: Store, asked: tuple[int, str | None]) -> None:
    for part in (store.recipes, store.batches, store.label_models, store.keys, store.audit):
        with pytest.raises(InvalidRequest, match=r"limit|cursor"):
            part.list(*asked)
