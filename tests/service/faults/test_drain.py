"""A service that is told to stop finishes what it took on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from manyeyes import Client, Item
from manyeyes.errors import ManyeyesError, ServiceUnavailable

Photo = Callable[..., bytes]


@pytest.mark.slow
def test_sigterm_under_load_loses_nothing_that_was_accepted(server: Any, photo: Photo) -> None:
    def ask(n: int) -> list[str | None]:
        items = [Item(f"{i}", image=photo("magenta", 10 * n + i)) for i in range(4)]
        with Client(server.address, max_retries=0, timeout_s=60) as client:
            return [label.status for label in client.label(items, recipe="looks")]

    ask(1000)  # loads what there is to load
    with ThreadPoolExecutor(16) as pool:
        before = server.metric("manyeyes_http_requests_total")
        accepted = [pool.submit(ask, n) for n in range(8)]
        deadline = time.monotonic() + 10
        while server.metric("manyeyes_http_requests_in_progress") < 9:  # those eight, and this question
            assert time.monotonic() < deadline, before
            time.sleep(0.02)
        time.sleep(0.3)  # in progress is also what has not been let in yet
        started = time.monotonic()
        server.process.terminate()
        time.sleep(0.2)
        late: list[Exception | None] = []
        while server.process.poll() is None and time.monotonic() - started < 40:
            late.append(pool.submit(ask, 100 + len(late)).exception())
            time.sleep(0.05)
        assert [call.result() for call in accepted] == [["labeled"] * 4] * 8
    assert server.process.wait(timeout=40) == 0
    assert time.monotonic() - started < 35
    # Whoever comes after the signal is told so, or finds nobody.
    assert late and all(
        isinstance(error, ServiceUnavailable | httpx.TransportError | ManyeyesError) for error in late
    )
