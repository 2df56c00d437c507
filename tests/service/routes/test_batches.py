"""What was labeled is kept, read in pages, explained to the last nat, and removed."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
from starlette.testclient import TestClient

from manyeyes.errors import StoreUnavailable
from manyeyes.service.schemas.batches import (
    EXAMPLE_BATCH,
    EXAMPLE_EXPLANATION,
    BatchLabels,
    BatchList,
    BatchOut,
    Explanation,
)

Running = Callable[..., AbstractContextManager[TestClient]]


@pytest.fixture
def labeled(http: TestClient, paint: Any, call: Any) -> dict[str, Any]:
    """Return the answer to a call whose last item cannot be read."""
    http.post("/v1/recipes", json={"recipe": paint})
    call["items"].append({"id": "scan", "image": "!"})
    told: dict[str, Any] = http.post("/v1/label", json=call).json()
    return told


def test_the_examples_have_the_shapes_that_are_promised() -> None:
    BatchOut.model_validate(EXAMPLE_BATCH)
    Explanation.model_validate(EXAMPLE_EXPLANATION)


def test_labels_are_kept_as_they_were_answered(http: TestClient, labeled: Any) -> None:
    id = labeled["batch_id"]
    assert [row["label_id"] for row in labeled["labels"]] == [f"{id}-{n}" for n in range(9)]
    batch = BatchOut.model_validate(http.get(f"/v1/batches/{id}").json())
    assert (batch.recipe, batch.n_items, batch.n_errors, batch.has_votes) == ("paint", 9, 1, True)
    assert batch.versions.model_dump() == labeled["versions"]
    rows, cursor = [], ""
    while cursor is not None:
        page = http.get(f"/v1/batches/{id}/labels?limit=4{cursor}").json()
        BatchLabels.model_validate(page)
        rows += page["data"]
        cursor = page["next_cursor"] and f"&cursor={page['next_cursor']}"
        assert page["has_more"] == (cursor is not None)
    assert rows == labeled["labels"]
    assert http.get(f"/v1/batches/{id}/labels?cursor=-1").status_code == 422


def test_a_call_may_say_whether_it_is_kept(http: TestClient, paint: Any, call: Any, running: Running) -> None:
    answer = http.post("/v1/label", json=call | {"recipe": paint, "store": False}).json()
    assert "batch_id" not in answer
    assert "label_id" not in answer["labels"][0]
    form = {"recipe": (None, "operators"), "texts": (None, "x"), "store": (None, "false")}
    assert "batch_id" not in http.post("/v1/label", files=form).json()
    form["store"] = (None, "true")
    assert "batch_id" in http.post("/v1/label", files=form).json()
    assert http.post("/v1/label", json=call | {"store": "perhaps"}).status_code == 422
    with running(store_labels=False) as other:
        assert "batch_id" not in other.post("/v1/label", json=call | {"recipe": paint}).json()
        assert "batch_id" in other.post("/v1/label", json=call | {"recipe": paint, "store": True}).json()


def test_batches_are_listed_newest_first(http: TestClient, paint: Any, call: Any) -> None:
    ids = [
        http.post("/v1/label", json=call | {"recipe": paint | {"name": name}}).json()["batch_id"]
        for name in ("a", "b", "a")
    ]
    page = BatchList.model_validate(http.get("/v1/batches?limit=2").json())
    assert [batch.id for batch in page.data] == ids[:0:-1]
    rest = http.get(f"/v1/batches?limit=2&cursor={page.next_cursor}").json()
    assert ([batch["id"] for batch in rest["data"]], rest["has_more"]) == (ids[:1], False)
    only = http.get("/v1/batches?recipe=b").json()["data"]
    assert [batch["id"] for batch in only] == [ids[1]]


def test_an_explanation_adds_up_to_the_answer(http: TestClient, labeled: Any) -> None:
    for row in labeled["labels"][:-1]:
        told = Explanation.model_validate(http.get(f"/v1/explain/{row['label_id']}").json())
        assert told.label.model_dump(exclude_unset=True) == row
        assert told.top == max(row["probs"], key=lambda name: row["probs"][name])
        added = told.prior + sum(reason.moved for reason in told.reasons)
        assert told.log_odds == pytest.approx(added, abs=1e-5)
        expected = math.log(row["probs"][told.top] / row["probs"][told.runner_up])
        assert told.log_odds == pytest.approx(expected, abs=1e-4)
        moved = [abs(reason.moved) for reason in told.reasons]
        assert moved == sorted(moved, reverse=True)
        assert told.batch.versions.recipe == labeled["versions"]["recipe"]
    broken = http.get(f"/v1/explain/{labeled['labels'][-1]['label_id']}").json()
    assert broken["label"]["status"] == "error"
    assert "log_odds" not in broken


@pytest.mark.parametrize("path", ["{id}-9", "{id}-01", "{id}", "0" * 32 + "-0", "..%2f..", "\udcff"])
def test_a_label_that_is_not_there_is_not_found(http: TestClient, labeled: Any, path: str) -> None:
    found = http.get("/v1/explain/" + path.format(id=labeled["batch_id"]).encode("utf-8", "replace").decode())
    assert found.status_code == 404


def test_what_is_removed_is_gone(http: TestClient, labeled: Any) -> None:
    id = labeled["batch_id"]
    assert http.delete(f"/v1/batches/{id}").status_code == 204
    for path in (f"/v1/batches/{id}", f"/v1/batches/{id}/labels", f"/v1/explain/{id}-0"):
        assert http.get(path).status_code == 404
    assert http.delete(f"/v1/batches/{id}").status_code == 404
    (line, *_) = http.get("/v1/audit").json()["data"]
    assert (line["action"], line["subject"]) == ("batch.delete", f"batch:{id}")


def test_no_answer_is_sent_for_what_could_not_be_kept(
    http: TestClient, paint: Any, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: Any) -> None:
        raise StoreUnavailable("the database does not answer")

    service = http.app.state.service  # type: ignore[attr-defined]
    monkeypatch.setattr(service.store.batches, "add", fail)
    refused = http.post("/v1/label", json=call | {"recipe": paint})
    assert (refused.status_code, refused.json()["code"]) == (503, "store_unavailable")
    assert refused.headers["retry-after"] == "1"
    assert http.post("/v1/label", json=call | {"recipe": paint, "store": False}).status_code == 200
