"""/readyz says no while anything that calls need is down, says what, and costs little however often it is asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import httpx
import pytest

from manyeyes.errors import StoreUnavailable
from manyeyes.service.app import create_app
from manyeyes.service.operations.canary import Canaries
from manyeyes.service.operations.checks import store_check
from manyeyes.service.operations.metrics import Metrics
from manyeyes.service.operations.readiness import Readiness
from manyeyes.service.settings import ServiceSettings

KEY = "a key of at least sixteen characters"


def ask(app: Any, path: str = "/readyz", n: int = 1) -> list[httpx.Response]:
    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost"
        ) as client:
            found: list[httpx.Response] = []

            async def one() -> None:
                found.append(await client.get(path))

            async with anyio.create_task_group() as group:
                for _ in range(n):
                    group.start_soon(one)
            return found

    return anyio.run(send)


def test_it_is_ready_without_a_key_and_says_what_was_looked_at() -> None:
    (answer,) = ask(create_app(ServiceSettings(api_keys=KEY)))
    assert answer.status_code == 200
    assert answer.json()["status"] == "ready"
    assert answer.json()["checks"]["store"] == "ok"


def test_what_is_down_is_named_in_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(ServiceSettings())
    service = app.state.service

    def gone() -> None:
        raise StoreUnavailable("postgresql://ann:secret@db.private/labels does not answer")

    monkeypatch.setattr(service.store, "ping", gone)
    (answer,) = ask(app)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    told = answer.json()
    assert told["code"] == "service_unavailable" and "store" in told["detail"]
    assert told["checks"]["store"] == "the database does not answer (store_unavailable)"
    assert "secret" not in answer.text and "private" not in answer.text
    page = service.metrics.page()[0].decode()
    assert 'manyeyes_ready_check{check="store"} 0.0' in page and "\nmanyeyes_ready 0.0" in page
    # The process itself is well: restarting it would help nobody.
    assert ask(app, "/healthz")[0].status_code == 200
    monkeypatch.undo()
    service.readiness.keep_s = 0
    assert ask(app)[0].status_code == 200


def test_many_probes_look_once() -> None:
    looked = []
    app = create_app(ServiceSettings())
    app.state.service.readiness.checks["counted"] = lambda: looked.append(1)
    app.state.service.readiness._threads["counted"] = anyio.CapacityLimiter(1)
    answers = ask(app, n=100)
    assert {answer.status_code for answer in answers} == {200}
    assert len(looked) == 1


def test_a_check_that_hangs_is_a_check_that_failed() -> None:
    release = threading.Event()
    readiness = Readiness(
        {"stuck": lambda: str(release.wait(5)), "well": lambda: None}, timeout_s=0.1, keep_s=0
    )

    async def look() -> list[dict[str, str | None]]:
        told = [await readiness.look(), await readiness.look()]
        release.set()
        return told

    started = time.monotonic()
    told = anyio.run(look)
    assert time.monotonic() - started < 2
    assert told == [{"stuck": "no answer within 0.1 s", "well": None}] * 2


def test_a_check_that_raises_tells_only_how() -> None:
    def wrong() -> str | None:
        raise RuntimeError("a private message")

    async def look() -> dict[str, str | None]:
        return await Readiness({"wrong": wrong}).look()

    assert anyio.run(look) == {"wrong": "failed with RuntimeError"}


class Line:
    """A model that sings, hangs or fails, as it is told."""

    def __init__(self) -> None:
        self.mood: Callable[[], Any] = lambda: None
        self.heard = 0

    async def sing(self, line: str) -> None:
        self.heard += 1
        if line == "bad":
            mood = self.mood()
            if isinstance(mood, Exception):
                raise mood
            if mood:
                await anyio.sleep(mood)


def test_canaries_find_a_line_that_hangs_or_fails_and_forgive_it_when_it_sings_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, metrics, lines = Line(), Metrics(), ["good", "bad"]
    canaries = Canaries(lambda: lines, model.sing, every_s=10, timeout_s=0.2, metrics=metrics)
    assert canaries.check() is None  # Nothing is loaded that could have failed.

    async def go() -> None:
        await canaries.round()
        assert canaries.check() is None
        model.mood = lambda: 5
        started = time.monotonic()
        await canaries.round()
        assert time.monotonic() - started < 2
        assert canaries.check() == "bad: a canary was not through after 0.2 s"
        model.mood = lambda: ValueError("a private message")
        await canaries.round()
        assert canaries.check() == "bad: a canary failed with ValueError"
        model.mood = lambda: None
        await canaries.round()
        assert canaries.check() is None
        model.mood = lambda: ValueError("again")
        await canaries.round()
        assert canaries.check() is not None
        lines.remove("bad")  # It is not loaded any more, so nobody waits for it.
        await canaries.round()
        assert canaries.check() is None

    anyio.run(go)
    page = metrics.page()[0].decode()
    assert 'manyeyes_canary_failures_total{line="bad"} 3.0' in page
    assert 'manyeyes_canary_seconds_count{line="good"} 6.0' in page


def test_canaries_that_stopped_coming_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    canaries = Canaries(lambda: ["clip"], Line().sing, every_s=1, timeout_s=1)
    anyio.run(canaries.round)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 10)
    assert canaries.check() == "clip: no canary has come through lately"


def test_canaries_go_on_until_they_are_cancelled() -> None:
    model = Line()
    canaries = Canaries(lambda: ["good"], model.sing, every_s=0.02, timeout_s=1)

    async def go() -> None:
        with anyio.move_on_after(0.5):
            await canaries.run()

    anyio.run(go)
    assert model.heard >= 5


def test_the_store_is_asked_and_its_address_is_not_told() -> None:
    class Gone:
        def ping(self) -> None:
            raise StoreUnavailable("postgresql://ann:secret@db.private/labels does not answer")

    told = store_check(Gone())()  # type: ignore[arg-type]
    assert told == "the database does not answer (store_unavailable)"
