"""Saying no: at the door, and without closing the connection of a caller whose body is small."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from manyeyes.service.app import create_app
from manyeyes.service.settings import ServiceSettings


@pytest.mark.parametrize("path", ["/v1/label", "/v1/votes", "/v1/embed", "/v1/detect", "/v1/embeddings"])
def test_a_full_service_refuses_at_the_door(path: str, tmp_path: Path) -> None:
    app = create_app(ServiceSettings(max_waiting=1))
    engine = app.state.service.engine

    async def ask(**options: Any) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
            return await client.post(path, **options)

    ticket = engine.admission.enter(1, 1)
    refused = asyncio.run(ask(content=b"{}"))
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert "connection" not in refused.headers  # the small body was read, so that the connection is of use
    assert asyncio.run(ask(content=b"x" * 2**21)).headers["connection"] == "close"
    engine.admission.leave(ticket)
    assert asyncio.run(ask(content=b"{}")).status_code in (415, 422)
    engine.close()
