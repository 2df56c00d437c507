"""What was labeled, and the votes that a label model can be fitted from."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from manyeyes import Item, Recipe
from manyeyes.errors import InvalidRequest, LabelNotFound, NotFound, UndecodableImage
from manyeyes.fitting import Collected, fit_label_model
from manyeyes.service.store.database import SWEEP_EVERY
from manyeyes.service.store.ids import new_id
from manyeyes.service.store.packing import pack_labels, pack_votes, unpack_labels, unpack_votes
from manyeyes.service.store.records import Batch
from manyeyes.service.store.settings import StoreSettings
from manyeyes.service.store.store import Store
from manyeyes.types import Label, Labels, Lent, Reason, Versions, Votes, no_scores

LabelSome = Callable[[list[Item]], tuple[Labels, Collected]]
VERSIONS = Versions(recipe="0123456789abcdef", primitives={"clip": "x:1"}, label_model="auto:1")


def keep(store: Store, labels: list[Label], collected: Collected | None = None, **said: str) -> Batch:
    told = {"key_id": "k", "recipe_name": "shelves"} | said
    return store.batches.add(versions=VERSIONS, labels=labels, collected=collected, **told)  # type: ignore[arg-type]


def test_labels_and_their_reasons_come_back_equal(store: Store, label_some: LabelSome) -> None:
    made, collected = label_some([Item("x", text="a gown"), Item("y", text="nothing")])
    labels = [*made, Label(id="z", status="error", error=UndecodableImage("no image"))]
    batch = keep(store, labels, collected, request_id="r", key_id="me")
    assert (batch.n_items, batch.n_errors, batch.has_votes) == (3, 1, True)
    assert (batch.key_id, batch.request_id, batch.recipe_version) == ("me", "r", VERSIONS.recipe)
    assert store.batches.get(batch.id) == batch
    assert store.batches.list().items == (batch,)
    assert [label.to_dict() for label in store.batches.labels(batch.id)] == [
        label.to_dict() for label in labels
    ]
    for position, label in enumerate(labels):
        found = store.batches.label(batch.label_id(position))
        assert (found.id, found.position, found.batch) == (f"{batch.id}-{position}", position, batch)
        assert found.label.to_dict() == label.to_dict()
    assert isinstance(store.batches.label(batch.label_id(2)).label.error, UndecodableImage)


def test_an_id_that_was_asked_for_beforehand(store: Store) -> None:
    id = new_id()
    assert keep(store, [], id=id).id == id
    with pytest.raises(InvalidRequest, match="new_id"):
        keep(store, [], id="mine")


@pytest.mark.parametrize(
    "id",
    [
        "",
        "x",
        "-1",
        "{batch}",
        "{batch}-",
        "{batch}-1",
        "{batch}-00",
        "{batch}--1",
        "{batch}-9999999999",
        "{batch}-٠",
        "\0-0",
        "{batch}-0\n",
    ],
)
def test_labels_that_are_not_there(store: Store, id: str) -> None:
    batch = keep(store, [Label(id="x", status="abstained")])
    assert store.batches.label(batch.label_id(0)).label.id == "x"
    with pytest.raises(LabelNotFound):
        store.batches.label(id.format(batch=batch.id))
    with pytest.raises(LabelNotFound):
        store.batches.label(f"{new_id()}-0")


def test_votes_of_several_batches_fit_the_label_model_of_all(
    store: Store, label_some: LabelSome, recipe: Recipe
) -> None:
    items = [
        Item("1", text="a gown"), Item("2", text="a cap", metadata={"shelf": "H"}), Item("3", text="a hat"),
        Item("4", text="a dress", metadata={"shelf": "H"}), Item("5"), Item("6", text="hat gown"),
    ]  # fmt: skip
    _, whole = label_some(items)
    ids = []
    for some in (items[:2], items[2:3], items[3:]):
        labels, collected = label_some(some)
        ids.append(keep(store, list(labels), collected).id)
    read = store.batches.votes(ids)
    assert read.ids == whole.ids
    assert {row: str(error) for row, error in read.errors.items()} == {
        row: str(error) for row, error in whole.errors.items()
    }
    assert np.array_equal(read.votes.classes, whole.votes.classes)
    assert np.array_equal(read.votes.scores, whole.votes.scores, equal_nan=True)
    for name in ("class_names", "lf_names", "shared", "sets"):
        assert getattr(read.votes, name) == getattr(whole.votes, name)
    assert fit_label_model(recipe, read, None).version == fit_label_model(recipe, whole, None).version
    # The order is the one asked for, and naming a batch twice counts once.
    assert store.batches.votes([ids[1], ids[0], ids[1]]).ids == ("3", "1", "2")


def test_votes_that_cannot_be_had(store: Store, label_some: LabelSome) -> None:
    labels, collected = label_some([Item("x", text="a gown")])
    with_votes, without = keep(store, list(labels), collected).id, keep(store, list(labels)).id
    with pytest.raises(InvalidRequest, match="at least one"):
        store.batches.votes([])
    for id in (without, new_id(), "\0"):
        with pytest.raises(NotFound):
            store.batches.votes([with_votes, id])
    others = dataclasses.replace(
        collected, votes=dataclasses.replace(collected.votes, class_names=("coat", "hat"))
    )
    with pytest.raises(InvalidRequest, match="their classes differ"):
        store.batches.votes([with_votes, keep(store, [], others).id])
    embedded = dataclasses.replace(collected, embeddings=np.ones((1, 4), np.float32))
    with pytest.raises(InvalidRequest, match="embeddings differ"):
        store.batches.votes([with_votes, keep(store, [], embedded).id])


def test_batches_are_listed_by_recipe_and_key(store: Store) -> None:
    mine = keep(store, [], key_id="me")
    hats = keep(store, [], recipe_name="hats")
    assert store.batches.list(key_id="me").items == (mine,)
    assert store.batches.list(recipe_name="hats", recipe_version=VERSIONS.recipe).items == (hats,)
    assert store.batches.list(recipe_name="hats", recipe_version="other").items == ()
    assert store.batches.list().items == (hats, mine)


def test_a_deleted_batch_is_told_of(store: Store) -> None:
    batch = keep(store, [])
    store.batches.delete(batch.id, author="ada")
    for call in (store.batches.get, store.batches.labels):
        with pytest.raises(NotFound):
            call(batch.id)
    with pytest.raises(NotFound):
        store.batches.delete(batch.id, author="ada")
    assert [(row.actor, row.action, row.subject) for row in store.audit.list()] == [
        ("ada", "batch.delete", f"batch:{batch.id}")
    ]


def test_what_is_old_is_purged(store: Store, clock: Callable[[], object]) -> None:
    start = clock()
    old = [keep(store, [Label(id="x", status="abstained")]) for _ in range(3)]
    clock.pass_by(3600)  # type: ignore[attr-defined]
    young = keep(store, [])
    assert store.batches.purge(start + timedelta(minutes=1)) == 3  # type: ignore[operator]
    assert store.batches.list().items == (young,)
    assert store.batches.purge(start + timedelta(minutes=1)) == 0  # type: ignore[operator]
    with pytest.raises(LabelNotFound):
        store.batches.label(old[0].label_id(0))
    (told,) = store.audit.list(action="batch.purge")
    assert told.details["n_batches"] == 3


def test_what_is_old_goes_as_others_come(store_url: str) -> None:
    with Store.open(settings=StoreSettings(store_url=store_url, keep_days=30)) as store:
        now = store.database.now()
        store.database.clock = lambda: now - timedelta(days=31)
        for _ in range(120):
            keep(store, [])
        store.database.clock = lambda: now
        for _ in range(3 * SWEEP_EVERY):
            keep(store, [])
        keep(store, [])  # in the group after the last sweep, or in the same
        assert store.status().rows["batches"] == 3 * SWEEP_EVERY + 1


def test_many_threads_lose_nothing_and_mix_nothing(store: Store) -> None:
    kept: dict[str, str] = {}

    def work(who: int) -> None:
        for n in range(20):
            name = f"{who}/{n}"
            kept[keep(store, [Label(id=name, status="abstained")], key_id=name).id] = name

    threads = [threading.Thread(target=work, args=(who,)) for who in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == 160
    for id, name in kept.items():
        found = store.batches.label(f"{id}-0")
        assert (found.label.id, found.batch.key_id) == (name, name)


def test_one_that_cannot_be_kept_does_not_take_others_with_it(store: Store) -> None:
    """A second row with the same id breaks the group that it shares with others; those are kept nonetheless."""
    first = keep(store, [])
    failed: list[BaseException] = []
    start = threading.Barrier(9)

    def add(id: str | None) -> None:
        start.wait()
        try:
            keep(store, [], **({} if id is None else {"id": id}))
        except Exception as error:
            failed.append(error)

    for _ in range(5):
        threads = [threading.Thread(target=add, args=(first.id if n == 4 else None,)) for n in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(failed) == 5
    assert len(store.batches.list(limit=100)) == 1 + 5 * 8


finite = st.floats(allow_nan=False, allow_infinity=False)
some_text = st.text(st.characters(), max_size=8)  # lone surrogates and NUL, too: ids come from callers
reasons = st.builds(
    Reason, lf=some_text, vote=st.none() | some_text, score=st.none() | finite, moved=finite,
    lent=st.none() | st.builds(Lent, st.integers(0, 9), finite, finite), at=st.none() | some_text,
)  # fmt: skip
labels = st.builds(
    Label, id=some_text, status=st.sampled_from(["labeled", "abstained"]), label=st.none() | some_text,
    confidence=st.none() | finite, probs=st.dictionaries(some_text, finite, max_size=3),
    runner_up=st.none() | some_text, prior=st.none() | finite, reasons=st.lists(reasons, max_size=3).map(tuple),
)  # fmt: skip


@given(st.lists(labels, max_size=4))
def test_any_labels_are_packed_and_unpacked(some: list[Label]) -> None:
    assert unpack_labels(pack_labels(some)) == some


@st.composite
def collections(draw: st.DrawFn) -> list[Collected]:
    n_lfs, n_classes = draw(st.integers(0, 4)), draw(st.sampled_from([2, 3, 200]))
    sets = draw(st.sampled_from([(), ((0,),), ((0,), (1,))]))
    dtype = np.int16 if n_classes == 200 else np.int8
    hard, width = draw(st.booleans()), draw(st.none() | st.integers(0, 3))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        n = draw(st.integers(0, 4))
        values = st.integers(-1, n_classes + len(sets) - 1)
        scores = arrays.arrays(np.float32, (n, n_lfs), elements=st.floats(0, 1, width=32) | st.just(np.nan))
        found.append(
            Collected(
                votes=Votes(
                    classes=draw(arrays.arrays(dtype, (n, n_lfs), elements=values)),
                    scores=no_scores((n, n_lfs)) if hard else draw(scores),
                    class_names=tuple(f"c{i}" for i in range(n_classes)),
                    lf_names=tuple(f"l{j}" for j in range(n_lfs)),
                    shared=tuple(("clip",) for _ in range(n_lfs)),
                    sets=sets,
                ),
                errors={row: UndecodableImage("no") for row in range(n) if draw(st.booleans())},
                ids=tuple(draw(some_text) for _ in range(n)),
                embeddings=None if width is None else np.full((n, width), np.nan, np.float32),
            )
        )
    return found


@given(collections())
def test_any_votes_are_packed_and_joined(parts: list[Collected]) -> None:
    read = unpack_votes([pack_votes(part) for part in parts])
    whole = Votes.concatenate([part.votes for part in parts])
    assert (
        np.array_equal(read.votes.classes, whole.classes) and read.votes.classes.dtype == whole.classes.dtype
    )
    assert np.array_equal(read.votes.scores, whole.scores, equal_nan=True)
    assert (read.votes.sets, read.votes.shared) == (whole.sets, whole.shared)
    assert read.ids == tuple(id for part in parts for id in part.ids)
    start, errors = 0, []
    for part in parts:
        errors += [start + row for row in part.errors]
        start += part.votes.n_items
    assert sorted(read.errors) == sorted(errors)
    if parts[0].embeddings is not None:
        assert read.embeddings is not None and len(read.embeddings) == start
