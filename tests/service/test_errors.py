"""Every error has a status, and every answer that is no success is a problem document."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import Response

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

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
            asked = [
                ("GET", "/square/3"),
                ("GET", "/square/three"),
                ("GET", "/circle"),
                ("POST", "/square/3"),
            ]
            return [await client.request(method, path) for method, path in asked]

    fine, wrong, nowhere, refused = asyncio.run(ask())
    assert fine.json() == 9
    assert (wrong.status_code, wrong.headers["content-type"]) == (422, "application/problem+json")
    assert wrong.json()["errors"][0]["where"] == "path.side"
    assert nowhere.json()["status"] == 404
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
    assert refused.json()["title"] == "Method Not Allowed"
