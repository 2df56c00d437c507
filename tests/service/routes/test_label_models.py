"""Label models fitted on what was labeled before: the same as in Python, compared, and put to use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from starlette.testclient import TestClient

from manyeyes import Item, Labeler, Recipe
from manyeyes.service.schemas.label_models import (
    EXAMPLE_LABEL_MODEL,
    Comparison,
    LabelModelList,
    LabelModelOut,
)
from tests.service.routes.conftest import TEXTS

Running = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def batches(http: TestClient, paint: Any, call: Any) -> list[str]:
    """Return two batches of the same items, the second with one that cannot be read in front."""
    http.post("/v1/recipes", json={"recipe": paint})
    first = http.post("/v1/label", json=call).json()["batch_id"]
    call["items"].insert(0, {"id": "scan", "image": "!"})
    return [first, http.post("/v1/label", json=call).json()["batch_id"]]


def test_the_example_has_the_shape_that_is_promised() -> None:
    LabelModelOut.model_validate(EXAMPLE_LABEL_MODEL)


def test_a_fit_is_that_of_python_and_labels_once_it_is_put_to_use(
    http: TestClient, paint: Any, call: Any, batches: list[str]
) -> None:
    made = http.post("/v1/label-models", json={"recipe": "paint", "batches": batches})
    assert made.status_code == 201, made.text
    told = LabelModelOut.model_validate(made.json())
    items = [Item(str(n), text=text) for n, text in enumerate(TEXTS * 2)]
    labeler = Labeler(Recipe.parse(paint)).fit(items)
    assert labeler.label_model is not None
    assert told.version == labeler.label_model.version
    assert told.batches == batches
    assert told.metrics["n_items"] == 16
    assert not told.is_active
    before = http.post("/v1/label", json=call).json()["versions"]["label_model"]
    assert before != told.version
    done = http.post(f"/v1/label-models/{told.id}/activate")
    assert done.json()["is_active"]
    after = http.post("/v1/label", json=call).json()
    assert after["versions"]["label_model"] == told.version
    assert http.get("/v1/recipes/paint").status_code == 200
    assert http.get("/v1/recipes").json()["recipes"][-1]["fitted"]
    # Each item is labeled by itself now.
    alone = http.post("/v1/label", json={"recipe": "paint", "items": call["items"][1:2]}).json()
    assert alone["labels"][0]["probs"] == after["labels"][1]["probs"]


def test_gold_names_labels_and_items(http: TestClient, batches: list[str]) -> None:
    body = {"recipe": "paint", "batches": batches, "label_model": "dawid_skene"}
    gold = {f"{batches[1]}-1": "red", "t1": "blue", f"{batches[0]}-5": "blue", "t6": "red"}
    told = http.post("/v1/label-models", json=body | {"gold": gold})
    assert told.status_code == 201, told.text
    metrics = told.json()["metrics"]
    assert told.json()["kind"] == "dawid_skene"
    assert metrics["n_gold"] == 6  # t1 and t6 are in both batches
    assert metrics["accuracy"] == 1.0
    assert 0 < metrics["log_loss"] < 1
    for wrong, message in (
        ({"t99": "red"}, "no label or item"),
        ({"t1": "green"}, "not a class"),
        ({f"{batches[1]}-0": "red"}, "could not be read"),
        ({"t1": "red", f"{batches[0]}-1": "blue"}, "of one item"),
    ):
        refused = http.post("/v1/label-models", json=body | {"gold": wrong})
        assert (refused.status_code, message in refused.json()["detail"]) == (422, True)


def test_a_precision_is_found_on_votes_of_the_version_before(
    http: TestClient, paint: Any, call: Any, batches: list[str]
) -> None:
    paint["abstain_below"] = {"precision": 0.6}
    wanted = http.post("/v1/recipes", json={"recipe": paint, "activate": True}).json()["version"]
    assert http.post("/v1/label", json=call).status_code == 422  # nothing was fitted with gold
    body = {"recipe": "paint", "batches": batches}
    refused = http.post("/v1/label-models", json=body)
    assert (refused.status_code, "gold" in refused.json()["detail"]) == (422, True)
    gold = {"t0": "red", "t1": "blue", "t2": "red", "t5": "blue", "t6": "red", "t7": "blue"}
    made = http.post("/v1/label-models", json=body | {"gold": gold, "activate": True})
    assert made.status_code == 201, made.text
    assert made.json()["recipe_version"] == wanted
    answer = http.post("/v1/label", json=call)
    assert answer.status_code == 200, answer.text
    assert answer.json()["versions"]["label_model"].startswith(made.json()["version"] + "@")


def test_embeddings_are_kept_with_the_votes(http: TestClient, call: Any) -> None:
    recipe = {
        "name": "paint",
        "classes": ["red", "blue"],
        "primitives": {"toy": {}},
        "lfs": [
            {"name": "says_red", "kind": "keyword", "on": "text", "any": ["red"], "vote": "red"},
            {"name": "says_blue", "kind": "keyword", "on": "text", "any": ["blue"], "vote": "blue"},
        ],
        "label_model": {"name": "embedding_aware", "embeddings": "toy.text"},
    }
    assert http.post("/v1/recipes", json={"recipe": recipe}).status_code == 201
    batch = http.post("/v1/label", json=call).json()["batch_id"]
    made = http.post("/v1/label-models", json={"recipe": "paint", "batches": [batch], "activate": True})
    assert (made.status_code, made.json().get("kind")) == (201, "embedding_aware"), made.text
    answer = http.post("/v1/label", json=call).json()
    assert answer["versions"]["label_model"] == made.json()["version"]


def test_label_models_are_listed_read_and_removed(http: TestClient, batches: list[str]) -> None:
    ids = [
        http.post(
            "/v1/label-models",
            json={
                "recipe": "paint",
                "batches": batches[:1],
                "label_model": kind,
                "activate": kind == "majority",
            },
        ).json()["id"]
        for kind in ("majority", "dawid_skene")
    ]
    page = LabelModelList.model_validate(http.get("/v1/label-models?limit=1").json())
    assert [one.id for one in page.data] == ids[1:]
    rest = http.get(f"/v1/label-models?cursor={page.next_cursor}&recipe=paint").json()
    assert [one["id"] for one in rest["data"]] == ids[:1]
    assert http.get(f"/v1/label-models/{ids[0]}").json()["is_active"]
    stale = http.post(f"/v1/label-models/{ids[1]}/activate", headers={"If-Match": f'"{ids[1]}"'})
    assert stale.status_code == 412
    assert http.delete(f"/v1/label-models/{ids[0]}").status_code == 412
    known = http.post(f"/v1/label-models/{ids[1]}/activate", headers={"If-Match": f'"{ids[0]}"'})
    assert known.status_code == 200
    assert http.delete(f"/v1/label-models/{ids[0]}").status_code == 204
    assert http.get(f"/v1/label-models/{ids[0]}").status_code == 404
    for _ in range(2):
        assert not http.post(f"/v1/label-models/{ids[1]}/deactivate").json()["is_active"]
    assert not http.get("/v1/recipes").json()["recipes"][-1]["fitted"]
    actions = [line["action"] for line in http.get("/v1/audit").json()["data"]]
    assert actions[:3] == ["label_model.deactivate", "label_model.delete", "label_model.activate"]


def test_label_models_are_held_beside_each_other(http: TestClient, batches: list[str]) -> None:
    ids = [
        http.post(
            "/v1/label-models", json={"recipe": "paint", "batches": batches, "label_model": kind}
        ).json()["id"]
        for kind in ("majority", "dawid_skene", "triplet")
    ]
    body = {"ids": ids, "batches": batches[:1], "gold": {"t0": "red", "t1": "blue"}}
    told = Comparison.model_validate(http.post("/v1/label-models/compare", json=body).json())
    assert told.n_items == 8
    assert [one.id for one in told.label_models] == ids
    assert all(one.n_gold == 2 and one.accuracy == 1.0 and one.log_loss for one in told.label_models)
    assert all(0 < one.coverage <= 1 and one.mean_confidence for one in told.label_models)
    assert {(pair.a, pair.b) for pair in told.agreement} == {
        (ids[0], ids[1]),
        (ids[0], ids[2]),
        (ids[1], ids[2]),
    }
    assert all(pair.agreement is not None and 0 <= pair.agreement <= 1 for pair in told.agreement)
    one = http.post("/v1/label-models/compare", json=body | {"ids": [ids[0], ids[0]]})
    assert one.status_code == 422
    none = http.post("/v1/label-models/compare", json=body | {"ids": [ids[0], "0" * 32]})
    assert none.status_code == 404


def test_what_cannot_be_fitted_says_why(http: TestClient, paint: Any, batches: list[str]) -> None:
    paint["lfs"].pop()
    http.post("/v1/recipes", json={"recipe": paint})
    for body, status, message in (
        ({"recipe": "paint", "version": 2, "batches": batches}, 422, "labeling functions"),
        ({"recipe": "operators", "batches": batches}, 404, "operator's folder"),
        ({"recipe": "nobody", "batches": batches}, 404, "no recipe"),
        ({"recipe": "paint", "batches": ["0" * 32]}, 404, "batch"),
        ({"recipe": "paint", "batches": []}, 422, "batches"),
        ({"recipe": "paint", "batches": batches, "label_model": "magic"}, 422, "magic"),
        (
            {
                "recipe": "paint",
                "batches": batches,
                "label_model": {"name": "embedding_aware", "embeddings": "clip.text"},
            },
            422,
            "",
        ),
        ({"recipe": "paint", "batches": batches, "stray": 1}, 422, "stray"),
    ):
        refused = http.post("/v1/label-models", json=body)
        assert (refused.status_code, message in refused.json()["detail"]) == (status, True), refused.text
    assert http.get("/v1/label-models").json()["data"] == []


def test_fits_have_bounds(running: Running, paint: Any, call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(max_fit_items=7) as http:
        http.post("/v1/recipes", json={"recipe": paint})
        batch = http.post("/v1/label", json=call).json()["batch_id"]
        refused = http.post("/v1/label-models", json={"recipe": "paint", "batches": [batch]})
        assert (refused.status_code, refused.json()["code"]) == (413, "request_too_large")
    from manyeyes.service.routes import label_models

    held = threading.Event()
    monkeypatch.setattr(label_models, "fit", lambda *_, **__: held.wait(20))
    with running() as http:
        body = {"recipe": "paint", "batches": [batch]}
        statuses: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: statuses.append(http.post("/v1/label-models", json=body).status_code)
            )
            for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        while len(statuses) < 2:  # four wait or are made, the others are told to come back
            assert any(thread.is_alive() for thread in threads)
        assert statuses == [429, 429]
        # Labels do not wait behind fits.
        assert http.post("/v1/label", json=call).status_code == 200
        held.set()
        for thread in threads:
            thread.join(timeout=20)
