"""Keys over HTTP: made, used, revoked; which scope opens which route; who changed what."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from manyeyes.service.schemas.access import (
    EXAMPLE_AUDIT,
    EXAMPLE_KEY,
    AuditLine,
    AuditList,
    KeyList,
    KeyOut,
    NewKey,
)

Running = Callable[..., AbstractContextManager[TestClient]]

ADMIN = "the-operators-own-key"


@pytest.fixture
def locked(running: Running) -> Iterator[TestClient]:
    """Return a client of a service that asks for keys; it brings the operator's."""
    with running(api_keys=ADMIN, key_cache_s=1) as client:
        client.headers["Authorization"] = f"Bearer {ADMIN}"
        yield client


def make(locked: TestClient, *scopes: str, **more: Any) -> Any:
    made = locked.post("/v1/keys", json={"name": "team", "scopes": list(scopes), **more})
    assert made.status_code == 201, made.text
    return made.json()


def with_key(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def test_the_examples_have_the_shapes_that_are_promised() -> None:
    KeyOut.model_validate(EXAMPLE_KEY)
    AuditLine.model_validate(EXAMPLE_AUDIT)


def test_a_key_is_shown_once_and_opens_what_its_scopes_say(locked: TestClient, call: Any, paint: Any) -> None:
    made = locked.post("/v1/keys", json={"name": "team", "scopes": ["label"], "rate_per_minute": 50})
    key = NewKey.model_validate(made.json())
    assert made.headers["cache-control"] == "no-store"
    assert key.secret not in locked.get("/v1/keys").text + locked.get(made.headers["location"]).text
    headers = with_key(key.secret)
    answer = locked.post("/v1/label", json=call | {"recipe": paint}, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["ratelimit-limit"] == "50"
    batch = locked.get(f"/v1/batches/{answer.json()['batch_id']}").json()
    assert batch["key_id"] == key.id
    for path in ("/v1/recipes", "/v1/batches", "/v1/keys", "/v1/audit"):
        refused = locked.get(path, headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "not_permitted")
    reader = with_key(make(locked, "read")["secret"])
    assert locked.get("/v1/recipes", headers=reader).status_code == 200
    for method, path in (
        ("POST", "/v1/recipes"),
        ("POST", "/v1/label"),
        ("POST", "/v1/keys"),
        ("POST", "/v1/label-models"),
        ("DELETE", "/v1/recipes/x"),
        ("DELETE", f"/v1/batches/{batch['id']}"),
    ):
        assert locked.request(method, path, json={}, headers=reader).status_code == 403


def test_a_revoked_key_opens_nothing(locked: TestClient, running: Running) -> None:
    key = make(locked, "read")
    headers = with_key(key["secret"])
    with running(api_keys=ADMIN, key_cache_s=1) as replica:
        for http in (locked, replica):
            assert http.get("/v1/recipes", headers=headers).status_code == 200
        revoked = locked.delete(f"/v1/keys/{key['id']}")
        assert KeyOut.model_validate(revoked.json()).revoked_at
        # At once where it was revoked, and within seconds elsewhere.
        assert locked.get("/v1/recipes", headers=headers).status_code == 401
        time.sleep(1.1)
        assert replica.get("/v1/recipes", headers=headers).status_code == 401
    assert locked.delete(f"/v1/keys/{key['id']}").status_code == 200
    assert locked.delete(f"/v1/keys/{'0' * 32}").status_code == 404


def test_a_key_may_end_by_itself(locked: TestClient) -> None:
    soon = (datetime.now(UTC) + timedelta(seconds=1.5)).isoformat()
    headers = with_key(make(locked, "read", expires_at=soon)["secret"])
    assert locked.get("/v1/recipes", headers=headers).status_code == 200
    time.sleep(1.6)
    assert locked.get("/v1/recipes", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "body",
    [
        {"name": "x", "scopes": []},
        {"name": "x", "scopes": ["root"]},
        {"name": "", "scopes": ["read"]},
        {"name": "x", "scopes": ["read"], "expires_at": "2001-01-01T00:00:00Z"},
        {"name": "x", "scopes": ["read"], "expires_at": "2040-01-01T00:00:00"},
        {"name": "x", "scopes": ["read"], "rate_per_minute": 0},
        {"name": "x", "scopes": ["read"], "secret": "mine"},
        {"name": "\x00", "scopes": ["read"]},
        [],
    ],
)
def test_a_key_that_cannot_be_made_is_refused(locked: TestClient, body: Any) -> None:
    refused = locked.post("/v1/keys", json=body)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


def test_changes_are_in_the_audit_with_who_and_when(locked: TestClient, paint: Any, call: Any) -> None:
    key = make(locked, "admin")
    headers = with_key(key["secret"]) | {"X-Request-Id": "change-1"}
    locked.post("/v1/recipes", json={"recipe": paint}, headers=headers)
    locked.post("/v1/recipes", json={"recipe": paint | {"abstain_below": 0.1}, "activate": True})
    batch = locked.post("/v1/label", json=call).json()["batch_id"]
    locked.post("/v1/label-models", json={"recipe": "paint", "batches": [batch], "activate": True})
    locked.delete(f"/v1/keys/{key['id']}")
    locked.delete("/v1/recipes/paint")
    told = AuditList.model_validate(locked.get("/v1/audit").json())
    assert [line.action for line in reversed(told.data)] == [
        "key.create",
        "recipe.create",
        "recipe.create",
        "recipe.activate",
        "label_model.add",
        "label_model.activate",
        "key.revoke",
        "recipe.archive",
    ]
    mine = locked.get(f"/v1/audit?actor={key['id']}").json()["data"]
    assert [(line["action"], line["request_id"]) for line in mine] == [("recipe.create", "change-1")]
    assert len(locked.get("/v1/audit?subject=recipe:paint").json()["data"]) == 4
    first = locked.get("/v1/audit?limit=3").json()
    rest = locked.get(f"/v1/audit?cursor={first['next_cursor']}").json()
    assert (len(first["data"]), len(rest["data"]), rest["has_more"]) == (3, 5, False)
    assert key["secret"] not in locked.get("/v1/audit").text


def test_keys_are_listed_in_pages(locked: TestClient) -> None:
    ids = [make(locked, "read")["id"] for _ in range(3)]
    page = KeyList.model_validate(locked.get("/v1/keys?limit=2").json())
    assert [key.id for key in page.data] == ids[:0:-1]
    rest = locked.get(f"/v1/keys?cursor={page.next_cursor}").json()
    assert [key["id"] for key in rest["data"]] == ids[:1]


def test_no_secret_reaches_the_log(locked: TestClient, caplog: pytest.LogCaptureFixture, call: Any) -> None:
    with caplog.at_level(logging.DEBUG):
        key = make(locked, "label")
        locked.post("/v1/label", json=call, headers=with_key(key["secret"]))
        locked.post("/v1/label", json=call, headers=with_key(key["secret"] + "x"))
    assert key["secret"] not in caplog.text
    assert ADMIN not in caplog.text
    denied = [getattr(record, "facts", {}).get("denied") for record in caplog.records]
    assert denied.count("testclient") == 1  # the address from which a wrong key came
