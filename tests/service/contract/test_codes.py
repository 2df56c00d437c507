"""Every error code, sent by a real server, is raised as the same class by the SDK."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import Response

from manyeyes import AsyncClient, Client
from manyeyes.errors import ItemError, ManyeyesError, by_code
from manyeyes.service.app import listen
from manyeyes.service.errors import STATUS, handle_errors
from manyeyes.service.middleware.log import RequestLog
from manyeyes.service.routes.answers import as_json, item_error
from manyeyes.service.settings import ServiceSettings

CODES = sorted(by_code())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Return the address of a service that refuses every call with the error that its recipe names."""
    app = FastAPI()
    handle_errors(app)
    app.add_middleware(RequestLog)

    @app.post("/v1/label")
    async def label(request: Request) -> Response:
        is_form = request.headers["content-type"].startswith("multipart/")
        code = str((await request.form() if is_form else await request.json())["recipe"])
        if code.startswith("row:"):
            error = by_code()[code.removeprefix("row:")](f"about {code}")
            assert isinstance(error, ItemError)
            row = {"id": "item-0", "status": "error", "error": item_error(error)}
            versions = {"recipe": "", "primitives": {}, "label_model": ""}
            return as_json({"labels": [row], "versions": versions, "recipe": "paint"})
        raise by_code()[code](f"about {code}")

    listener = listen(ServiceSettings(port=0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=30)


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(by_code())


@pytest.mark.parametrize("code", CODES)
def test_the_sdk_raises_the_class_of_a_code(url: str, code: str) -> None:
    with Client(url, max_retries=0) as client, pytest.raises(ManyeyesError) as caught:
        client.label(["a wall"], recipe=code)
    assert type(caught.value) is by_code()[code]
    assert str(caught.value).startswith(f"about {code}")


@pytest.mark.parametrize("code", CODES)
def test_the_asynchronous_sdk_does_too(url: str, code: str) -> None:
    async def ask() -> None:
        async with AsyncClient(url, max_retries=0) as client:
            await client.label(["a wall"], recipe=code)

    with pytest.raises(ManyeyesError) as caught:
        asyncio.run(ask())
    assert type(caught.value) is by_code()[code]


@pytest.mark.parametrize("code", [code for code, kind in by_code().items() if issubclass(kind, ItemError)])
def test_the_error_of_an_item_is_of_the_class_of_its_code(url: str, code: str) -> None:
    with Client(url, max_retries=0) as client:
        error = client.label(["a wall"], recipe=f"row:{code}")[0].error
    assert type(error) is by_code()[code]
