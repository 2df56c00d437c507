"""The events of a job: each once and in order, whoever hangs up when; and a stream that costs next to nothing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from manyeyes.service.app import create_app, listen, make_server
from manyeyes.service.routes import job_events
from manyeyes.service.settings import ServiceSettings

CALL: dict[str, Any] = {"recipe": "paint", "source": "s3://photos/2026", "out": "s3://labels/all/a"}


@pytest.fixture
def url(
    settings_of: Callable[..., ServiceSettings],
    serving: Callable[[ServiceSettings], AbstractContextManager[str]],
    played: Callable[..., None],
) -> Iterator[str]:
    with serving(settings_of()) as address:
        yield address


def begin(url: str) -> str:
    answer = httpx.post(f"{url}/v1/jobs", json=CALL, trust_env=False)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def listen_to(
    url: str, id: str, last: int | None = None, *, hang_up_after: int | None = None, timeout_s: float = 20
) -> tuple[list[tuple[int | None, str, Any]], str]:
    """Return (id, kind, data) of each event, and the whole stream."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    events: list[tuple[int | None, str, Any]] = []
    whole = ""
    with httpx.stream(
        "GET", f"{url}/v1/jobs/{id}/events", headers=headers, timeout=timeout_s, trust_env=False
    ) as answer:
        assert answer.status_code == 200, answer.read()
        for text in answer.iter_text():
            whole += text
            blocks = whole.split("\n\n")[:-1]
            events = []
            for block in blocks:
                told = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
                if "event" in told:
                    number = int(told["id"]) if "id" in told else None
                    events.append((number, told["event"], json.loads(told["data"])))
            if hang_up_after is not None and len(events) >= hang_up_after:
                break
    return events, whole


def test_a_stream_holds_every_event_once_and_ends_with_the_job(url: str, played: Callable[..., None]) -> None:
    played("log", "a file\nid: 99\n\nevent: end", "shards", 4, "sleep", 1.2, "shards", 2, "end", "completed")
    id = begin(url)
    events, whole = listen_to(url, id)
    numbers = [number for number, _, _ in events[:-1]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [kind for _, kind, _ in events].count("end") == 1
    assert events[-1][0] is None and events[-1][2]["status"] == "completed"
    assert events[-1][2] == httpx.get(f"{url}/v1/jobs/{id}", trust_env=False).json()
    statuses = [data["status"] for _, kind, data in events if kind == "status"]
    assert statuses == ["validating", "in_progress", "completed"]
    assert [data["message"] for _, kind, data in events if kind == "log"] == ["a file\nid: 99\n\nevent: end"]
    progress = [data["request_counts"]["completed"] for _, kind, data in events if kind == "progress"]
    assert progress == sorted(progress) and len(progress) >= 2
    assert whole.startswith("retry: 1000\n\n")
    assert listen_to(url, id)[0] == events, "who comes later hears all of it"
    assert listen_to(url, id, last=numbers[-1])[0] == events[-1:]


def test_who_hangs_up_again_and_again_misses_nothing(url: str, played: Callable[..., None]) -> None:
    played(
        *[step for n in range(6) for step in ("log", f"line {n}", "sleep", 0.3, "shards", 1)],
        "end",
        "completed",
    )
    id = begin(url)
    heard: list[tuple[int | None, str, Any]] = []
    last: int | None = None
    for _ in range(100):
        events, _ = listen_to(url, id, last, hang_up_after=2)
        heard += events
        last = next((number for number, _, _ in reversed(heard) if number is not None), None)
        if heard and heard[-1][1] == "end":
            break
    numbers = [number for number, kind, _ in heard if kind != "end"]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [data["message"] for _, kind, data in heard if kind == "log"] == [f"line {n}" for n in range(6)]


def test_headers_heartbeats_and_no_compression(
    url: str, played: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_events.Listeners.stream, "__kwdefaults__", {"heartbeat_s": 0.3})
    played("wait")
    id = begin(url)
    began = time.monotonic()
    with httpx.stream(
        "GET",
        f"{url}/v1/jobs/{id}/events",
        headers={"Accept-Encoding": "gzip, zstd"},
        timeout=5,
        trust_env=False,
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache, no-transform"
        assert answer.headers["x-accel-buffering"] == "no"
        assert "content-encoding" not in answer.headers
        whole = ""
        for text in answer.iter_text():
            whole += text
            if whole.count(": still here\n\n") >= 2:
                break
    assert time.monotonic() - began < 4


def test_listeners_hold_no_thread_and_others_are_answered(url: str, played: Callable[..., None]) -> None:
    played("wait")
    id = begin(url)
    before = threading.active_count()
    with httpx.Client(timeout=10, trust_env=False, limits=httpx.Limits(max_connections=200)) as client:
        streams, texts = [], []
        for _ in range(60):
            stream = client.stream("GET", f"{url}/v1/jobs/{id}/events")
            answer = stream.__enter__()
            texts.append(answer.iter_text())
            next(texts[-1])
            streams.append(stream)
        assert threading.active_count() - before < 10
        began = time.monotonic()
        assert client.get(f"{url}/healthz").status_code == 200
        assert time.monotonic() - began < 1
        client.post(f"{url}/v1/jobs/{id}/cancel")
        for stream in streams:
            stream.__exit__(None, None, None)


@pytest.mark.parametrize("last", ["x", "-1", "1e3", "99999999999999999999", ""])
def test_a_wrong_last_event_id_is_refused(url: str, last: str) -> None:
    id = begin(url)
    answer = httpx.get(f"{url}/v1/jobs/{id}/events", headers={"Last-Event-ID": last}, trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert httpx.get(f"{url}/v1/jobs/none/events", trust_env=False).status_code == 404


def test_there_may_be_so_many_listeners(
    settings_of: Callable[..., ServiceSettings],
    serving: Callable[[ServiceSettings], AbstractContextManager[str]],
    played: Callable[..., None],
) -> None:
    played("wait")
    with serving(settings_of(jobs_max_listeners=1)) as url:
        id = begin(url)
        with httpx.stream("GET", f"{url}/v1/jobs/{id}/events", timeout=5, trust_env=False) as answer:
            texts = answer.iter_text()  # kept: an iterator that is gone closes its connection
            next(texts)
            refused = httpx.get(f"{url}/v1/jobs/{id}/events", trust_env=False)
            assert refused.status_code == 429 and refused.headers["retry-after"]
        deadline = time.monotonic() + 5
        while True:  # the place is free once the service has seen that its listener left
            with httpx.stream("GET", f"{url}/v1/jobs/{id}/events", timeout=5, trust_env=False) as answer:
                if answer.status_code == 200:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_a_service_that_drains_ends_its_streams_without_an_end(
    settings_of: Callable[..., ServiceSettings], played: Callable[..., None]
) -> None:
    played("wait")
    settings = settings_of(port=0)
    listener = listen(settings)
    server = make_server(create_app(settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    id = begin(url)
    time.sleep(0.5)
    threading.Timer(0.5, lambda: server.handle_exit(15, None)).start()
    began = time.monotonic()
    events, _ = listen_to(url, id)
    assert "end" not in [kind for _, kind, _ in events]
    thread.join(timeout=20)
    assert not thread.is_alive() and time.monotonic() - began < 10
