"""Jobs of a service without a socket: the whole of it in a test, as `Client.in_process` promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from manyeyes import AsyncClient, Client, Item
from manyeyes.service.app import create_app
from manyeyes.service.settings import ServiceSettings

CALL: dict[str, Any] = {"recipe": "paint", "out": "s3://labels/all/inside"}


@pytest.mark.slow
def test_a_job_without_a_socket(settings_of: Callable[..., ServiceSettings]) -> None:
    app = create_app(settings_of())
    with Client.in_process(app) as client:
        job = client.jobs.submit([Item("a", text="a red wall"), Item("b", text="navy")], **CALL).wait(
            timeout_s=60
        )
        assert [label.label for label in job.labels()] == ["red", "blue"]
        assert client.ready()
    app.state.service.jobs.drain(10)
    app.state.service.store.close()


@pytest.mark.slow
def test_the_same_awaited(settings_of: Callable[..., ServiceSettings]) -> None:
    async def run() -> list[str | None]:
        async with AsyncClient.in_process(app) as client:
            job = await client.jobs.submit([Item("a", text="a red wall")], **CALL)
            await job.wait(timeout_s=60)
            return [label.label async for label in job.labels()]

    app = create_app(settings_of())
    assert asyncio.run(run()) == ["red"]
    app.state.service.jobs.drain(10)
    app.state.service.store.close()
