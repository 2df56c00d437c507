"""Label models: their files come back as they were, and one at most labels."""

from __future__ import annotations

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from manyeyes import Item, Labeler, Recipe
from manyeyes.errors import InvalidRequest, NotFound, VersionConflict, WeightsMismatch
from manyeyes.service.store import tables
from manyeyes.service.store.records import LabelModelRecord
from manyeyes.service.store.store import Store

ITEMS = [Item("1", text="a gown"), Item("2", text="a cap", metadata={"shelf": "H"}), Item("3", text="a hat")]


@pytest.fixture
def files(recipe: Recipe, tmp_path: Path) -> dict[str, bytes]:
    labeler = Labeler(recipe).fit(ITEMS)
    labeler.save_label_model(tmp_path / "saved")
    return {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}


def add(store: Store, files: dict[str, bytes], **said: Any) -> LabelModelRecord:
    told = {"recipe_name": "shelves", "recipe_version": "v1", "author": "ada"} | said
    return store.label_models.add(files=files, **told)


def test_a_label_model_comes_back_as_it_was(
    store: Store, files: dict[str, bytes], recipe: Recipe, tmp_path: Path
) -> None:
    record = add(store, files, batches=["b2", "b1"], metrics={"accuracy": 0.5}, request_id="r")
    assert not record.is_active and record.batches == ("b2", "b1") and record.metrics == {"accuracy": 0.5}
    header = json.loads(files["label_model.json"])
    assert (record.kind, record.version) == (header["label_model"], header["version"])
    assert store.label_models.get(record.id) == record
    assert store.label_models.list(recipe_name="shelves", recipe_version="v1").items == (record,)
    assert not store.label_models.list(recipe_name="other")
    assert store.label_models.files(record.id) == files
    folder = tmp_path / "loaded"
    folder.mkdir()
    for name, content in store.label_models.files(record.id).items():
        (folder / name).write_bytes(content)
    model = Labeler(recipe).load_label_model(folder).label_model
    assert model is not None and model.version == record.version
    (told,) = store.audit.list()
    assert (told.actor, told.action, told.subject) == ("ada", "label_model.add", f"label_model:{record.id}")


def test_one_at_most_labels_for_a_version(store: Store, files: dict[str, bytes]) -> None:
    first, second, other = add(store, files), add(store, files), add(store, files, recipe_version="v2")
    assert store.label_models.active("shelves", "v1") is None
    assert store.label_models.activate(first.id, author="a").is_active
    store.label_models.activate(other.id, author="a")
    with pytest.raises(VersionConflict, match=f"{first.id} is active"):
        store.label_models.activate(second.id, author="a", expect=second.id)
    assert store.label_models.activate(second.id, author="b", expect=first.id).is_active
    assert store.label_models.activate(second.id, author="b").is_active
    active = store.label_models.active("shelves", "v1")
    assert active is not None and active.id == second.id
    assert not store.label_models.get(first.id).is_active
    assert store.label_models.get(other.id).is_active
    assert len(store.audit.list(action="label_model.activate")) == 3

    with pytest.raises(VersionConflict, match="in use"):
        store.label_models.delete(second.id, author="a")
    store.label_models.deactivate("shelves", "v1", author="a")
    store.label_models.deactivate("shelves", "v1", author="a")
    assert store.label_models.active("shelves", "v1") is None
    store.label_models.delete(second.id, author="a")
    for call in (store.label_models.get, store.label_models.files):
        with pytest.raises(NotFound):
            call(second.id)
    with pytest.raises(NotFound):
        store.label_models.activate(second.id, author="a")
    assert [row.action for row in store.audit.list(limit=2)] == [
        "label_model.delete",
        "label_model.deactivate",
    ]


def test_many_who_activate_at_once_leave_one_active(store: Store, files: dict[str, bytes]) -> None:
    ids = [add(store, files).id for _ in range(6)]
    failed: list[BaseException] = []

    def activate(id: str) -> None:
        try:
            store.label_models.activate(id, author=id)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=activate, args=(id,)) for id in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert sum(record.is_active for record in store.label_models.list()) == 1


def test_a_recipe_takes_its_label_models_with_it(store: Store, files: dict[str, bytes]) -> None:
    store.recipes.create("shelves", "text", author="a")
    mine, other = add(store, files), add(store, files, recipe_name="other")
    store.recipes.delete("shelves", author="a")
    assert store.label_models.list().items == (other,)
    with pytest.raises(NotFound):
        store.label_models.files(mine.id)
    assert store.audit.list(action="recipe.delete").items[0].details["n_label_models"] == 1


def test_damage_is_seen(store: Store, files: dict[str, bytes]) -> None:
    record = add(store, files)
    harm = update(tables.label_model_files).values(content=b"else")
    store.database.write(lambda connection: connection.execute(harm).rowcount)
    with pytest.raises(WeightsMismatch, match="is not what was kept"):
        store.label_models.files(record.id)


def test_what_is_no_label_model_is_refused(store: Store, files: dict[str, bytes]) -> None:
    header = json.loads(files["label_model.json"])
    arrays, json_file = files["label_model.safetensors"], files["label_model.json"]
    pickled = pickle.dumps({"weights": [1.0]})

    def described(content: bytes) -> dict[str, bytes]:
        import hashlib

        told = json.dumps(header | {"sha256": hashlib.sha256(content).hexdigest()}).encode()
        return {"label_model.json": told, "label_model.safetensors": content}

    for wrong in (
        {},
        {"label_model.json": json_file},
        {"label_model.safetensors": arrays},
        files | {"model.pkl": pickled},
        files | {"../escape.json": b"{}"},
        files | {"thresholds.json": b"no json"},
        files | {"label_model.safetensors": arrays + b"x"},
        files | {"label_model.json": b"[]"},
        files | {"label_model.json": b"null"},
        files | {"label_model.json": b"[" * 100_000},
        files | {"label_model.json": json.dumps(header | {"version": None}).encode()},
        files | {"label_model.json": b"\xff\xfe"},
        described(pickled),
        described(b""),
        described(b"\xff" * 64),
    ):
        with pytest.raises(InvalidRequest, match=r"label_model\.json"):
            add(store, wrong)
    assert not store.label_models.list()
