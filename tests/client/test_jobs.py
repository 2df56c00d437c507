"""Batch jobs from Python: what is sent, how a job is followed over lines that break, and what is raised."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes import AsyncClient, Client, Item, Url
from manyeyes.client.job_following import EventReader
from manyeyes.client.job_records import JobEvent, job_state
from manyeyes.errors import (
    AddressRefused,
    DeadlineExceeded,
    InvalidRequest,
    NotFound,
    NotPermitted,
    StorageFailed,
    UndecodableImage,
)
from manyeyes.service.schemas.jobs import EXAMPLE_JOB_OUT
from manyeyes.testing import FakeService

HERE = {"recipe": "paint", "out": "s3://labels/a"}


class Quick(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return 0.0


@pytest.fixture
def fake() -> FakeService:
    return FakeService({"a": "red", "b": "blue", "c": UndecodableImage("damaged")}, classes=["red", "blue"])


def test_the_example_of_the_description_is_read() -> None:
    state = job_state(EXAMPLE_JOB_OUT)
    assert (state.status, state.request_counts.failed, state.request_counts.total) == (
        "in_progress",
        3,
        60000,
    )
    assert state.progress is not None and state.progress.pass_ == "votes"
    assert state.created_at.tzinfo is not None and state.output.uri == "s3://labels/paint"


def test_from_the_call_to_the_labels(fake: FakeService) -> None:
    with fake.client() as client:
        job = client.jobs.submit("s3://photos/2026", **HERE, metadata={"team": "x"}, shard_rows=100)
        assert (job.status, job.counts.total) == ("validating", 3)
        assert job.wait(progress=True) is job
        assert (job.status, job.counts.completed, job.counts.failed) == ("completed", 2, 1)
        assert [label.label for label in job.labels()] == ["red", "blue", None]
        assert [line.message for line in job.logs()][-1] == "the job is completed"
        assert [state.id for state in client.jobs.list(status="completed")] == [job.id]
        assert client.jobs.get(job.id).output.labels == "s3://labels/a/labels/"
        assert job.retry().status == "validating"
    sent = fake.calls[0]
    assert sent.body == {
        "recipe": "paint", "out": "s3://labels/a", "source": "s3://photos/2026", "metadata": {"team": "x"},
        "shard_rows": 100,
    }  # fmt: skip
    assert len(sent.headers["idempotency-key"]) == 32


def test_the_same_awaited(fake: FakeService) -> None:
    async def run() -> list[str | None]:
        async with fake.async_client() as client:
            job = await client.jobs.submit([Item("a", text="red"), Item("c", text="?")], **HERE)
            await job.wait(progress=True)
            assert (job.status, job.counts.failed) == ("completed", 1)
            assert [line.kind async for line in job.logs()] == ["status"] * 3
            assert [state.id async for state in client.jobs.list()] == [job.id]
            assert (await (await client.jobs.get(job.id)).refresh()).status == "completed"
            return [label.label async for label in job.labels()]

    assert asyncio.run(run()) == ["red", None]


def test_items_go_by_address_or_as_text(fake: FakeService) -> None:
    with fake.client() as client:
        client.jobs.submit(
            [
                Url("s3://photos/a.png"),
                "a red wall",
                Item("t", text="x", metadata={"price": 3}),
                {"id": "u", "text": "y"},
            ],
            **HERE,
        )
        assert [item.get("object") or item["text"] for item in fake.calls[0].body["items"]] == [
            "s3://photos/a.png", "a red wall", "x", "y",
        ]  # fmt: skip
        with pytest.raises(InvalidRequest, match="by address"):
            client.jobs.submit([b"\x89PNG"], **HERE)
        with pytest.raises(InvalidRequest, match="no items"):
            client.jobs.submit([], **HERE)
        source = {"uri": "s3://photos/t.csv", "kind": "table", "columns": {"image": "photo"}}
        client.jobs.submit(
            source, **HERE, max_error_rate=0.1, workers=2, update=False, fit=True, same_rows=True
        )
    body = fake.calls[-1].body
    assert body["source"] == source and body["breaker"] == {"max_error_rate": 0.1}
    assert (body["engine"], body["update"], body["fit"]) == ({"workers": 2}, False, True)
    assert body["same_rows"] is True


def test_a_failed_job_raises_what_it_failed_with_and_may_be_retried(fake: FakeService) -> None:
    fake.jobs.fail(StorageFailed("the bucket does not answer"))
    with fake.client() as client:
        job = client.jobs.submit("s3://photos", **HERE)
        with pytest.raises(StorageFailed, match="does not answer"):
            job.wait()
        assert job.status == "failed"
        assert job.retry().wait().status == "completed"
        with pytest.raises(NotFound):
            client.jobs.get("none")


def test_cancelling(fake: FakeService) -> None:
    fake.jobs.hold = True
    with fake.client() as client:
        job = client.jobs.submit("s3://photos", **HERE)
        assert job.refresh().status == "in_progress"
        assert job.cancel().status == "cancelled"
        assert job.wait().status == "cancelled"
        with pytest.raises(NotFound):
            list(job.labels())


@pytest.mark.parametrize("error", [AddressRefused("no such bucket"), NotPermitted("not there")])
def test_refusals_are_raised_as_they_are(fake: FakeService, error: Exception) -> None:
    fake.fail(error)
    with fake.client() as client, pytest.raises(type(error)):
        client.jobs.submit("s3://photos", **HERE)


# --- lines that break


def written(number: int | None, kind: str, data: dict[str, Any]) -> bytes:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


DONE = {**EXAMPLE_JOB_OUT, "status": "completed"}
STREAM = [
    b"retry: 1000\n\n: still here\n\n",
    written(1, "status", {"status": "validating"}),
    written(2, "log", {"level": "info", "message": "é\n\nid: 9"}),
    written(
        3, "progress", {name: EXAMPLE_JOB_OUT[name] for name in ("status", "request_counts", "progress")}
    ),
    written(4, "status", {"status": "completed"}),
    written(None, "end", DONE),
]


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self, parts: list[bytes], error: Exception | None) -> None:
        self.parts, self.error = parts, error

    def __iter__(self) -> Iterator[bytes]:
        yield from self.parts
        if self.error is not None:
            raise self.error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            yield part
        if self.error is not None:
            raise self.error


def service(
    streams: list[Callable[[int], httpx.Response]], polls: list[dict[str, Any]]
) -> tuple[httpx.MockTransport, list[httpx.Request]]:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        if request.url.path.endswith("/events"):
            return streams.pop(0)(int(request.headers.get("last-event-id", 0)))
        return httpx.Response(200, json=polls.pop(0) if len(polls) > 1 else polls[0])

    return httpx.MockTransport(answer), seen


def breaking(data: bytes, error: Exception | None = None) -> Callable[[int], httpx.Response]:
    return lambda last: httpx.Response(
        200, headers={"content-type": "text/event-stream; charset=utf-8"}, stream=Broken([data], error)
    )


def follow(transport: httpx.MockTransport, *, awaited: bool) -> tuple[list[JobEvent], Any]:
    async def run() -> tuple[list[JobEvent], Any]:
        async with AsyncClient("http://fake", transport=transport, rng=Quick()) as client:
            job = await client.jobs.get(EXAMPLE_JOB_OUT["id"])
            return [event async for event in job.events()], job.state

    if awaited:
        return asyncio.run(run())
    with Client("http://fake", transport=transport, rng=Quick()) as client:
        job = client.jobs.get(EXAMPLE_JOB_OUT["id"])
        return list(job.events()), job.state


WHOLE = b"".join(STREAM)
EVENTS = list(EventReader().feed(WHOLE))


def test_the_stream_of_these_tests_is_one() -> None:
    assert [event.number for event in EVENTS] == [1, 2, 3, 4, None]
    assert EVENTS[1].data["message"] == "é\n\nid: 9"


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("error", [httpx.ReadError("reset"), httpx.ReadTimeout("silence"), None])
def test_a_line_that_breaks_anywhere_loses_nothing_and_repeats_nothing(
    error: Exception | None, awaited: bool
) -> None:
    for cut in range(0, len(WHOLE), 7):

        def rest(last: int, cut: int = cut) -> httpx.Response:
            parts = [STREAM[0]] + [part for n, part in enumerate(STREAM[1:], 1) if n > last]
            return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=b"".join(parts))

        transport, seen = service([breaking(WHOLE[:cut], error), rest], [EXAMPLE_JOB_OUT])
        events, state = follow(transport, awaited=awaited)
        assert events == EVENTS, cut
        assert state.status == "completed"
        assert len(seen) == 3


@pytest.mark.parametrize("awaited", [False, True])
def test_what_comes_twice_is_told_once(awaited: bool) -> None:
    transport, _ = service([breaking(WHOLE[: len(WHOLE) // 2]), breaking(WHOLE)], [EXAMPLE_JOB_OUT])
    assert follow(transport, awaited=awaited)[0] == EVENTS


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("status", [404, 405, 200, 500, 302])
def test_where_streams_do_not_come_through_the_job_is_asked_for(
    status: int, awaited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from manyeyes.client import async_jobs, jobs

    monkeypatch.setattr(jobs, "POLL_S", 0.0)
    monkeypatch.setattr(async_jobs, "POLL_S", 0.0)
    page = httpx.Response(status, text="<html>a proxy's own page</html>")
    transport, _ = service([lambda _: page], [EXAMPLE_JOB_OUT, EXAMPLE_JOB_OUT, EXAMPLE_JOB_OUT, DONE])
    events, state = follow(transport, awaited=awaited)
    assert [event.kind for event in events] == ["status", "progress", "end"]
    assert state.status == "completed"


@pytest.mark.parametrize("awaited", [False, True])
def test_a_proxy_that_holds_everything_back_is_given_up_after_three_silences(
    awaited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = breaking(b"", httpx.ReadTimeout("nothing came"))
    transport, seen = service([silent, silent, silent], [EXAMPLE_JOB_OUT, DONE])
    events, _ = follow(transport, awaited=awaited)
    assert [event.kind for event in events] == ["end"]
    assert sum(request.url.path.endswith("/events") for request in seen) == 3


def test_a_refusal_of_the_stream_is_raised() -> None:
    problem = {"code": "not_permitted", "detail": "this needs `read`"}
    headers = {"content-type": "application/problem+json"}
    transport, _ = service(
        [lambda _: httpx.Response(403, headers=headers, content=json.dumps(problem))], [EXAMPLE_JOB_OUT]
    )
    with pytest.raises(NotPermitted):
        follow(transport, awaited=False)


def test_too_many_listeners_and_a_service_that_drains_are_waited_for() -> None:
    def busy(status: int) -> Callable[[int], httpx.Response]:
        problem = {"code": "overloaded" if status == 429 else "service_unavailable", "detail": "later"}
        headers = {"content-type": "application/problem+json"}
        return lambda _: httpx.Response(status, headers=headers, content=json.dumps(problem))

    transport, _ = service([busy(429), busy(503), breaking(WHOLE)], [EXAMPLE_JOB_OUT])
    assert follow(transport, awaited=False)[0] == EVENTS


def test_there_is_an_end_to_waiting() -> None:
    beats = breaking(b": still here\n\n" * 3)
    transport, _ = service([beats] * 10_000, [EXAMPLE_JOB_OUT])
    with Client("http://fake", transport=transport, rng=Quick()) as client:
        job = client.jobs.get(EXAMPLE_JOB_OUT["id"])
        with pytest.raises(DeadlineExceeded, match="it goes on"):
            job.wait(timeout_s=0.1)


@given(st.lists(st.integers(0, len(WHOLE)), max_size=8))
def test_a_stream_reads_the_same_in_whichever_pieces_it_comes(cuts: list[int]) -> None:
    reader, at = EventReader(), 0
    read: list[JobEvent] = []
    for cut in [*sorted(cuts), len(WHOLE)]:
        read += reader.feed(WHOLE[at:cut])
        at = cut
    assert read == EVENTS


@given(st.binary(max_size=300))
def test_whatever_is_streamed_nothing_breaks(data: bytes) -> None:
    list(EventReader().feed(data + b"\n\n"))
