"""/readyz says no while anything that calls need is down, says what, and costs little however often it is asked."""

from __future__ import annotations

import base64
import ctypes
import io
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from PIL import Image

from manyeyes.errors import StoreUnavailable
from manyeyes.service.app import create_app
from manyeyes.service.operations.canary import Canaries
from manyeyes.service.operations.checks import stages_check, store_check
from manyeyes.service.operations.metrics import Metrics
from manyeyes.service.operations.readiness import Readiness
from manyeyes.service.settings import ServiceSettings

_STREAM = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(_STREAM, "PNG")
PNG = _STREAM.getvalue()
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


class Model:
    """A line that sings, hangs or fails, as it is told. done: counts only what else it does."""

    def __init__(self, name: str = "bad") -> None:
        self.name = name
        self.mood: Callable[[], Any] = lambda: None
        self.heard = 0
        self.done = 1
        self.open = 0

    def sing(self, timeout_s: float) -> None:
        self.heard += 1
        self.open += 1
        try:
            mood = self.mood()
            if isinstance(mood, Exception):
                raise mood
            if mood:
                time.sleep(mood)
        finally:
            self.open -= 1


def canaries_of(*models: Model, metrics: Metrics | None = None, every_s: float = 10) -> Canaries:
    def sing(name: str, timeout_s: float) -> None:
        next(model for model in models if model.name == name).sing(timeout_s)

    return Canaries(lambda: models, sing, every_s=every_s, timeout_s=0.2, metrics=metrics)


def test_canaries_find_a_line_that_hangs_or_fails_and_forgive_it_when_it_sings_again() -> None:
    good, bad, metrics = Model("good"), Model("bad"), Metrics()
    canaries = canaries_of(good, bad, metrics=metrics)
    assert canaries.check() is None  # Nothing has been loaded that could have failed.

    async def go() -> None:
        await canaries.round()
        assert canaries.check() is None
        bad.mood = lambda: 0.5
        started = time.monotonic()
        await canaries.round()
        assert time.monotonic() - started < 0.45
        assert canaries.check() == "bad: no canary was through after 0.2 s"
        await canaries.round()
        assert bad.open == 1  # The second took no thread of its own while the first hangs.
        await anyio.sleep(0.6)
        bad.mood = lambda: ValueError("a private message")
        await canaries.round()
        assert canaries.check() == "bad: a canary failed with ValueError"
        bad.mood = lambda: None
        await canaries.round()
        assert canaries.check() is None

    anyio.run(go)
    page = metrics.page()[0].decode()
    assert 'manyeyes_canary_failures_total{line="bad"} 3.0' in page
    assert 'manyeyes_canary_seconds_count{line="good"} 5.0' in page


def test_a_line_that_is_busy_with_others_is_well() -> None:
    busy = Model()

    def work() -> float:
        busy.done += 32
        return 0.4

    busy.mood = work
    canaries = canaries_of(busy)
    anyio.run(canaries.round)
    assert canaries.check() is None


def test_a_line_that_loads_its_model_is_given_time() -> None:
    loading = Model()
    loading.done = 0
    loading.mood = lambda: 0.4
    canaries = canaries_of(loading)
    anyio.run(canaries.round)
    assert canaries.check() is None


def test_a_line_that_is_not_loaded_any_more_is_forgotten() -> None:
    models = [Model()]
    models[0].mood = lambda: ValueError("x")
    canaries = Canaries(lambda: models, lambda *_: models[0].sing(1), every_s=10, timeout_s=1)
    anyio.run(canaries.round)
    assert canaries.check() is not None
    models.clear()
    anyio.run(canaries.round)
    assert canaries.check() is None


def test_canaries_that_stopped_coming_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    canaries = canaries_of(Model("clip"), every_s=1)
    anyio.run(canaries.round)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 10)
    assert canaries.check() == "clip: no canary has come through lately"


def test_canaries_go_on_until_they_are_cancelled() -> None:
    model = Model()
    canaries = canaries_of(model, every_s=0.02)

    async def go() -> None:
        with anyio.move_on_after(0.5):
            await canaries.run()

    anyio.run(go)
    assert model.heard >= 5


@dataclass
class Stage:
    name: str = "decode"
    alive: bool = True
    beat_s: float = 0.5
    busy: int = 0


def test_stages_that_died_or_fell_silent_are_named() -> None:
    def told(*stages: Stage) -> str | None:
        return stages_check(lambda: stages, stale_after_s=30, busy_for_s=120)()

    assert told(Stage(), Stage("clip", busy=3, beat_s=100)) is None
    assert told(Stage(), Stage("clip", alive=False)) == "clip: a thread died and is being replaced"
    assert told(Stage(beat_s=31)) == "decode: no sign of life for 31 s"
    assert told(Stage(beat_s=121, busy=1), Stage("b", alive=False)) == (
        "decode: no sign of life for 121 s; b: a thread died and is being replaced"
    )


def test_a_service_with_loaded_models_hears_its_canaries(recipes_dir: Path, serving: Any) -> None:
    settings = ServiceSettings(recipes_dir=recipes_dir, canary_every_s=0.1, open_metrics=True)
    with serving(settings) as url:
        image = base64.b64encode(PNG).decode()
        call = {"recipe": "paint", "items": [{"image": image}, {"text": "a crimson wall"}]}
        assert httpx.post(f"{url}/v1/label", json=call).status_code == 200
        deadline = time.monotonic() + 10
        while "manyeyes_canary_seconds_count" not in (page := httpx.get(f"{url}/metrics").text):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ready = httpx.get(f"{url}/readyz")
        assert ready.status_code == 200
        assert ready.json()["checks"] == dict.fromkeys(("accepting", "pipeline", "models", "store"), "ok")
        failed = re.findall(r"^manyeyes_canary_failures_total\{.*\} (.*)$", page, flags=re.M)
        assert all(float(count) == 0 for count in failed)
        # What the pipeline tells is counted, too.
        for name in (
            "queue_wait_seconds_count",
            "batch_items_count",
            "inference_seconds_count",
            "votes_total",
        ):
            assert re.search(rf"^manyeyes_{name}\{{.*\}} [1-9]", page, flags=re.M), name
        assert re.search(r"^manyeyes_decode_seconds_count [1-9]", page, flags=re.M)


def test_a_killed_thread_shows_until_another_has_its_place() -> None:
    app = create_app(ServiceSettings(decode_threads=1))
    service = app.state.service
    service.readiness.keep_s = 0
    service.engine.watch.close()  # Nobody mends: how long it takes is not what is tested here.
    time.sleep(1.1)
    (thread,) = [one for one in service.engine.decoding._threads if one.is_alive()]
    ctypes.pythonapi.PyThreadState_SetAsyncExc(
        ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
    )
    thread.join(timeout=10)
    (answer,) = ask(app)
    assert answer.status_code == 503
    assert answer.json()["checks"]["pipeline"] == "decode: a thread died and is being replaced"
    service.engine.decoding.mend()
    assert ask(app)[0].status_code == 200
    assert 'manyeyes_stage_restarts_total{stage="decode"} 1.0' in service.metrics.page()[0].decode()
    service.engine.close()


def test_a_model_that_hangs_shows_and_its_canary_is_in_nobodys_way(recipes_dir: Path) -> None:
    app = create_app(ServiceSettings(recipes_dir=recipes_dir))
    engine = app.state.service.engine
    call = {"recipe": "paint", "items": [{"text": "a crimson wall"}]}

    async def label() -> int:
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost"
        ) as client:
            return (await client.post("/v1/label", json=call)).status_code

    assert anyio.run(label) == 200
    canaries = Canaries(engine.lines.all, engine.sing, every_s=10, timeout_s=0.3)
    anyio.run(canaries.round)
    assert canaries.check() is None
    (line, *_) = engine.lines.all()
    works, release = line.do, threading.Event()
    line.do = lambda entries: (release.wait(10), works(entries))
    anyio.run(canaries.round)
    assert canaries.check() == f"{line.name}: no canary was through after 0.3 s"
    release.set()
    deadline = time.monotonic() + 10
    while line.state().busy or line.state().queued:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    anyio.run(canaries.round)
    assert canaries.check() is None
    engine.close()


def test_a_service_that_drains_is_not_ready_and_lives() -> None:
    app = create_app(ServiceSettings())
    app.state.service.engine.drain(0.1)
    (answer,) = ask(app)
    assert answer.status_code == 503
    assert answer.json()["checks"]["accepting"] == "on its way down: nothing new is taken"
    assert ask(app, "/healthz")[0].status_code == 200
    app.state.service.engine.close()


def test_the_store_is_asked_and_its_address_is_not_told() -> None:
    class Gone:
        def ping(self) -> None:
            raise StoreUnavailable("postgresql://ann:secret@db.private/labels does not answer")

    told = store_check(Gone())()  # type: ignore[arg-type]
    assert told == "the database does not answer (store_unavailable)"
