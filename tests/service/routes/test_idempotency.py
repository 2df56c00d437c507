"""Calls that are made once, however often they are sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from starlette.testclient import TestClient

from manyeyes.errors import StoreUnavailable
from manyeyes.service.middleware import idempotency
from manyeyes.service.middleware.idempotency import _Digest

Running = Callable[..., AbstractContextManager[TestClient]]


def key(name: str) -> dict[str, str]:
    return {"Idempotency-Key": name}


def n_batches(http: TestClient) -> int:
    return len(http.get("/v1/batches").json()["data"])


def test_the_same_call_is_made_once(http: TestClient, paint: Any, call: Any) -> None:
    body = call | {"recipe": paint}
    first = http.post("/v1/label", json=body, headers=key("a"))
    again = http.post("/v1/label", json=body, headers=key("a"))
    assert again.json() == first.json()
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert "idempotency-replayed" not in first.headers
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert n_batches(http) == 1
    assert http.post("/v1/label", json=body, headers=key("b")).json() != first.json()
    assert n_batches(http) == 2


def test_another_call_under_the_same_key_is_refused(http: TestClient, paint: Any, call: Any) -> None:
    body = call | {"recipe": paint}
    http.post("/v1/label", json=body, headers=key("a"))
    for path, other in (
        ("/v1/label", body | {"store": True}),
        ("/v1/recipes", body),
        ("/v1/label?x=1", body),
    ):
        refused = http.post(path, json=other, headers=key("a"))
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_mismatch")
    assert n_batches(http) == 1


def test_headers_come_back_too(http: TestClient, paint: Any) -> None:
    first = http.post("/v1/recipes", json={"recipe": paint}, headers=key("a"))
    again = http.post("/v1/recipes", json={"recipe": paint}, headers=key("a"))
    assert (first.status_code, again.status_code) == (201, 201)
    for name in ("location", "etag", "cache-control", "content-type"):
        assert again.headers[name] == first.headers[name]


def test_a_form_is_the_same_whatever_its_boundary(http: TestClient) -> None:
    def form(boundary: str, text: str) -> dict[str, Any]:
        parts = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in (("recipe", "operators"), ("texts", text))
        )
        return {
            "content": f"{parts}--{boundary}--\r\n".encode(),
            "headers": key("a") | {"Content-Type": f"multipart/form-data; boundary={boundary}"},
        }

    first = http.post("/v1/label", **form("one", "x"))
    assert first.status_code == 200
    assert http.post("/v1/label", **form("another-two", "x")).json() == first.json()
    assert http.post("/v1/label", **form("one", "y")).status_code == 422


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 4096])
def test_a_boundary_is_found_across_chunks(size: int) -> None:
    def digest(boundary: str, step: int) -> str:
        found = _Digest("multipart/form-data", f' boundary="{boundary}"')
        body = f"--{boundary}\r\nabc--{boundary[:3]}\r\n--{boundary}--\r\n".replace(
            boundary[:3] + "\r", "bbb\r"
        )
        data = body.encode()
        for start in range(0, len(data), step):
            found.update(data[start : start + step])
        return found.hexdigest()

    assert digest("boundary-1", size) == digest("boundary-1", 10_000) == digest("bbbother", size)


def test_what_is_final_is_kept_and_what_is_not_is_asked_again(
    http: TestClient, paint: Any, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = http.app.state.service  # type: ignore[attr-defined]
    body = call | {"recipe": paint}

    def fail(**_: Any) -> None:
        raise StoreUnavailable("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(service.store.batches, "add", fail)
        assert http.post("/v1/label", json=body, headers=key("a")).status_code == 503
    made = http.post("/v1/label", json=body, headers=key("a"))
    assert (made.status_code, "idempotency-replayed" in made.headers) == (200, False)
    absent = [http.post("/v1/label", json=call, headers=key("b")) for _ in range(2)]
    assert [answer.status_code for answer in absent] == [404, 404]
    assert "idempotency-replayed" in absent[1].headers


def test_a_call_under_way_is_not_made_twice(
    http: TestClient, paint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = http.app.state.service  # type: ignore[attr-defined]
    entered, go_on = threading.Event(), threading.Event()
    create = service.store.recipes.create

    def slowly(*args: Any, **options: Any) -> Any:
        entered.set()
        assert go_on.wait(20)
        return create(*args, **options)

    monkeypatch.setattr(service.store.recipes, "create", slowly)
    answers: list[Any] = []
    thread = threading.Thread(
        target=lambda: answers.append(http.post("/v1/recipes", json={"recipe": paint}, headers=key("a")))
    )
    thread.start()
    assert entered.wait(20)
    meanwhile = http.post("/v1/recipes", json={"recipe": paint}, headers=key("a"))
    assert (meanwhile.status_code, meanwhile.json()["code"]) == (409, "idempotency_conflict")
    assert int(meanwhile.headers["retry-after"]) >= 1
    go_on.set()
    thread.join(timeout=20)
    after = http.post("/v1/recipes", json={"recipe": paint}, headers=key("a"))
    assert after.json() == answers[0].json()
    assert after.headers["idempotency-replayed"] == "true"


def test_a_bug_frees_the_key(http: TestClient, paint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    service = http.app.state.service  # type: ignore[attr-defined]

    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(service.store.recipes, "create", fail)
        assert http.post("/v1/recipes", json={"recipe": paint}, headers=key("a")).status_code == 500
    assert http.post("/v1/recipes", json={"recipe": paint}, headers=key("a")).status_code == 201


def test_a_secret_is_not_kept_with_the_answer(http: TestClient) -> None:
    body = {"name": "team", "scopes": ["read"]}
    first, second = (http.post("/v1/keys", json=body, headers=key("a")).json() for _ in range(2))
    assert first["secret"] != second["secret"]


@pytest.mark.parametrize("name", ["", "x" * 256, "ü"])
def test_a_key_that_is_none_is_refused(http: TestClient, call: Any, name: str) -> None:
    refused = http.post("/v1/label", json=call, headers={"Idempotency-Key": name.encode("latin-1")})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_request")


def test_limits_hold_with_a_key_as_without(running: Running, paint: Any, call: Any) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(8):
            yield b"x" * 1024

    with running(max_body_bytes=4096) as http:
        for headers in ({}, key("a")):
            refused = http.post(
                "/v1/label", content=parts(), headers=headers | {"Content-Type": "application/json"}
            )
            assert (refused.status_code, refused.json()["code"]) == (413, "request_too_large")
        assert http.post("/v1/label", json=call | {"recipe": paint}, headers=key("a")).status_code == 200


def test_a_long_answer_goes_through_and_is_not_kept(running: Running, paint: Any, call: Any) -> None:
    with running(idempotency_max_bytes=1024) as http:
        body = call | {"recipe": paint}
        first, second = (http.post("/v1/label", json=body, headers=key("a")) for _ in range(2))
        assert len(first.content) > 1024
        assert (second.status_code, "idempotency-replayed" in second.headers) == (200, False)


def test_keys_of_one_caller_are_not_those_of_another(running: Running, call: Any, paint: Any) -> None:
    keys = ("the-first-callers-key", "the-second-callers-key")
    with running(api_keys=",".join(keys)) as http:
        body = json.dumps(call | {"recipe": paint})
        answers = [
            http.post(
                "/v1/label",
                content=body,
                headers=key("a") | {"Content-Type": "application/json", "X-Api-Key": caller},
            )
            for caller in keys
        ]
        assert answers[0].json()["batch_id"] != answers[1].json()["batch_id"]


def test_replicas_make_a_call_once_between_them(running: Running, paint: Any, call: Any) -> None:
    body = call | {"recipe": paint}
    with running() as one, running() as other:
        answers: list[Any] = []

        def send(http: TestClient) -> None:
            while True:
                answer = http.post("/v1/label", json=body, headers=key("a"))
                if answer.status_code != 409:
                    answers.append(answer)
                    return
                assert answer.json()["code"] == "idempotency_conflict"

        threads = [threading.Thread(target=send, args=(http,)) for http in (one, other) * 4]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert [answer.status_code for answer in answers] == [200] * 8
        assert len({answer.json()["batch_id"] for answer in answers}) == 1
        assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
        assert n_batches(one) == 1


def test_a_call_that_died_with_its_process_can_be_made_again(
    http: TestClient, paint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(*_: Any) -> None:
        pass  # a process that is killed neither keeps the answer nor frees the key

    with monkeypatch.context() as patch:
        patch.setattr(idempotency, "_LEASE_S", 0.5)
        patch.setattr(idempotency.Idempotency, "_end", die)
        http.post("/v1/recipes", json={"recipe": paint}, headers=key("a"))
    assert http.post("/v1/recipes", json={"recipe": paint}, headers=key("a")).status_code == 409
    time.sleep(0.6)
    again = http.post("/v1/recipes", json={"recipe": paint}, headers=key("a"))
    # What was kept before stays, and is found.
    assert (again.status_code, "idempotency-replayed" in again.headers) == (200, False)
