"""Every error has a status, and every answer that is no success is a problem document."""

from __future__ import annotations

import json

import pytest
from fastapi import FastAPI
from starlette.responses import Response
from starlette.testclient import TestClient

from manyeyes.errors import ItemError, ManyeyesError, by_code
from manyeyes.service.errors import STATUS, handle_errors, problem_of


def _document(response: Response) -> dict[str, object]:
    assert response.media_type == "application/problem+json"
    told = json.loads(bytes(response.body))
    assert isinstance(told, dict)
    return told


def test_every_code_has_a_status_and_every_status_a_code() -> None:
    assert STATUS.keys() == by_code().keys()


def test_no_error_has_a_status_of_success() -> None:
    assert all(400 <= status < 600 for status in STATUS.values())


def test_codes_are_unique_so_that_the_sdk_finds_the_class_again() -> None:
    # A subclass made elsewhere, with an inherited code, would take its parent's place in the map.
    assert all(kind.__module__ == "manyeyes.errors" for kind in by_code().values())


@pytest.mark.parametrize("kind", by_code().values(), ids=list(by_code()))
def test_every_error_becomes_a_problem_that_names_its_code(kind: type[ManyeyesError]) -> None:
    told = _document(problem_of(kind("what went wrong"), request_id="r1"))
    assert told["code"] == kind.code
    assert told["status"] == STATUS[kind.code]
    assert told["detail"] == "what went wrong"
    assert told["type"] == f"urn:manyeyes:error:{kind.code}"
    assert told["request_id"] == "r1"
    assert told["title"]


def test_a_message_that_quotes_broken_text_can_be_sent() -> None:
    told = _document(problem_of(ItemError("not text: '\ud800'")))
    assert told["detail"] == "not text: '\ud800'"


def test_the_caller_is_told_when_to_come_back_and_which_key_to_bring() -> None:
    assert problem_of(by_code()["service_unavailable"]("busy")).headers["retry-after"] == "1"
    assert "Bearer" in problem_of(by_code()["access_denied"]("no")).headers["www-authenticate"]


def test_what_fastapi_refuses_is_a_problem_too() -> None:
    app = FastAPI()
    handle_errors(app)

    @app.get("/square/{side}")
    def square(side: int) -> int:
        return side * side

    client = TestClient(app)
    assert client.get("/square/3").json() == 9
    told = client.get("/square/three")
    assert (told.status_code, told.headers["content-type"]) == (422, "application/problem+json")
    assert told.json()["errors"][0]["where"] == "path.side"
    assert client.get("/circle").json()["status"] == 404
    refused = client.post("/square/3")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert refused.json()["title"] == "Method Not Allowed"
