"""Sets of any size: complete, in order, within bounds, whatever the service and the wires do."""

from __future__ import annotations

import asyncio
import gc
import io
import random
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from manyeyes import AsyncClient, Client, Item, Label
from manyeyes.errors import (
    AccessDenied,
    ImageTooLarge,
    InvalidItem,
    InvalidRequest,
    Overloaded,
    RecipeNotFound,
    RequestTooLarge,
    ServiceUnavailable,
)
from manyeyes.testing import FakeService

TROUBLES = ("ok", "busy", "down", "gateway", "reset", "cut")
COLOURS = ("red", "blue")


class AtOnce(random.Random):
    """No jitter, so that tests take no longer than they must."""

    def uniform(self, a: float, b: float) -> float:
        return 0.001


def _texts(n: int, start: int = 0) -> Iterator[Item]:
    return (Item(str(i), text=f"a wall, {COLOURS[i % 3 % 2]}") for i in range(start, start + n))


def _expected(n: int) -> list[tuple[str, str]]:
    return [(str(i), COLOURS[i % 3 % 2]) for i in range(n)]


def _told(labels: list[Label]) -> list[tuple[str, str | None]]:
    return [(label.id, label.label) for label in labels]


async def _collect(stream: AsyncIterator[Label]) -> list[Label]:
    return [label async for label in stream]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(0, 60),
    batch_size=st.integers(1, 9),
    max_in_flight=st.integers(1, 6),
    max_items=st.integers(1, 9),
    troubles=st.lists(st.sampled_from(TROUBLES), max_size=25),
    is_async=st.booleans(),
)
def test_every_item_gets_its_label_once_and_in_order(
    flaky_services: Callable[[FakeService], AbstractContextManager[Any]],
    n: int,
    batch_size: int,
    max_in_flight: int,
    max_items: int,
    troubles: list[str],
    is_async: bool,
) -> None:
    fake = FakeService(lambda item: (item.text or "").rpartition(" ")[2], classes=COLOURS)
    options: dict[str, Any] = {"recipe": "r", "batch_size": batch_size, "max_in_flight": max_in_flight}
    with flaky_services(fake) as flaky:
        # In a row no more than a client is patient for: 25 at most, and one call may meet all of them.
        flaky.trouble = lambda number: troubles[number] if number < len(troubles) else "ok"
        flaky.max_items = max_items

        async def over_tasks() -> list[Label]:
            async with AsyncClient(flaky.url, max_retries=30, rng=AtOnce()) as client:
                return await _collect(client.label_many(_texts(n), **options))

        if is_async:
            labels = asyncio.run(over_tasks())
        else:
            with Client(flaky.url, max_retries=30, rng=AtOnce()) as client:
                labels = list(client.label_many(_texts(n), **options))
        assert _told(labels) == _expected(n)
        assert flaky.most_at_once <= max_in_flight


def test_a_generator_is_read_no_faster_than_labels_are_taken(flaky: Any) -> None:
    read = 0

    def items() -> Iterator[Item]:
        nonlocal read
        for item in _texts(10_000):
            read += 1
            yield item

    with (
        Client(flaky.url) as client,
        client.label_many(items(), recipe="r", batch_size=10, max_in_flight=3) as stream,
    ):
        for n in range(1, 200):
            next(stream)
            # What is in flight, and the batch whose labels are being given.
            assert read <= n + 3 * 10 + 10
    assert read < 300


def test_memory_stays_flat_over_many_items() -> None:
    fake = FakeService(lambda item: "red", classes=COLOURS)
    fake.calls = _Forgetful()  # type: ignore[assignment]

    def items(n: int) -> Iterator[Item]:
        for i in range(n):
            yield Item(str(i), image=bytes(20_000), text="red")

    def peak_bytes(n: int) -> int:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with fake.client() as client:
            for read, _ in enumerate(client.label_many(items(n), recipe="r", batch_size=16, max_in_flight=2)):
                if read % 160 == 0:
                    gc.collect()  # when cycles go by themselves depends on all that ran before, and is not asked here
        return tracemalloc.get_traced_memory()[1] - before

    tracemalloc.start()
    try:
        peak_bytes(64)
        few, many = peak_bytes(640), peak_bytes(6400)
    finally:
        tracemalloc.stop()
    # All images together are 128 MB; two calls of 16 are 0.64 MB, held in several copies while they are sent and read,
    # and the garbage of ten calls.
    assert many < 8e6
    assert many < 3 * few


class _Forgetful(list[Any]):
    def append(self, value: Any) -> None:
        self[:] = [value]


@pytest.mark.slow
def test_a_long_stream_passes_through_a_few_megabytes() -> None:
    fake = FakeService(lambda item: "red", classes=COLOURS)
    fake.calls = _Forgetful()  # type: ignore[assignment]
    n = 50_000
    with fake.client() as client:
        stream = client.label_many(_texts(n), recipe="r", batch_size=500)
        tracemalloc.start()
        try:
            count = sum(1 for _ in stream)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert count == stream.n_done == n
    assert peak < 50e6


def test_an_error_is_raised_and_the_next_label_goes_on_where_it_stopped(flaky: Any) -> None:
    flaky.trouble = lambda number: "down" if 2 <= number < 4 else "ok"
    labels, errors = [], 0
    with Client(flaky.url, rng=AtOnce()) as client:
        stream = client.label_many(_texts(50), recipe="r", batch_size=10, max_in_flight=1, max_retries=0)
        while True:
            try:
                labels.append(next(stream))
            except ServiceUnavailable as error:
                told = (error.status, stream.n_done, len(labels))
                errors += told == (503, 20, 20)
            except StopIteration:
                break
    assert errors == 2
    assert _told(labels) == _expected(50)


def test_an_error_can_be_rows(flaky: Any) -> None:
    flaky.trouble = lambda number: "down" if number == 1 else "ok"
    with Client(flaky.url, rng=AtOnce()) as client:
        stream = client.label_many(
            _texts(30), recipe="r", batch_size=10, max_in_flight=1, max_retries=0, on_error="rows"
        )
        labels = list(stream)
    assert [label.id for label in labels] == [str(n) for n in range(30)]
    assert [label.status for label in labels] == ["labeled"] * 10 + ["error"] * 10 + ["labeled"] * 10
    error = labels[12].error
    assert error is not None and error.status == 503
    assert isinstance(error.__cause__, ServiceUnavailable)
    assert stream.n_errors == 10


@pytest.mark.parametrize("error", [AccessDenied("no"), RecipeNotFound("none")])
def test_what_would_end_every_call_is_raised_all_the_same(error: Any) -> None:
    fake = FakeService()
    fake.fail(error)
    with fake.client() as client, pytest.raises(type(error)):
        list(client.label_many(["a", "b"], recipe="r", on_error="rows", max_in_flight=1))


def test_rows_keep_ids_that_are_made_up(flaky: Any) -> None:
    flaky.trouble = lambda number: "down"
    with Client(flaky.url, rng=AtOnce()) as client:
        stream = client.label_many(
            ["a", {"text": "b", "id": "own"}, "c"], recipe="r", batch_size=2, max_retries=0, on_error="rows"
        )
        assert [label.id for label in stream] == ["item-0", "own", "item-2"]


def test_a_busy_service_gets_fewer_calls_at_once(flaky: Any) -> None:
    flaky.trouble = lambda number: "busy" if number < 12 else "late"
    flaky.late_s = 0.01
    with Client(flaky.url, rng=AtOnce()) as client:
        stream = client.label_many(_texts(60), recipe="r", batch_size=1, max_in_flight=8, max_retries=20)
        next(stream)
        assert stream.pace.n_calls <= 4
        assert _told(list(stream)) == _expected(60)[1:]
        assert stream.pace.n_calls == 8
        assert client.stats.busy == 12


def test_a_service_that_takes_less_at_once_gets_less_at_once(flaky: Any) -> None:
    flaky.max_items = 3
    with Client(flaky.url) as client:
        assert _told(list(client.label_many(_texts(40), recipe="r", batch_size=20))) == _expected(40)


def test_one_item_that_is_too_large_by_itself_is_one_row(flaky: Any) -> None:
    fake = FakeService()
    fake.fail(RequestTooLarge("the request holds 3 bytes too many"), times=2)
    with fake.client() as client:
        labels = list(client.label_many([b"image", "text"], recipe="r", max_in_flight=1))
    assert [type(label.error) for label in labels] == [ImageTooLarge, type(None)]
    fake.fail(RequestTooLarge("too many"))
    with fake.client() as client:
        (label,) = client.label_many(["text"], recipe="r")
    assert isinstance(label.error, InvalidItem)


def test_what_the_source_of_items_raises_comes_after_what_it_gave() -> None:
    def items() -> Iterator[Item]:
        yield from _texts(25)
        raise OSError("the disk is gone")

    stream = FakeService(lambda item: "red").client().label_many(items(), recipe="r", batch_size=10)
    labels = []
    with pytest.raises(OSError, match="the disk is gone"):
        labels.extend(stream)
    assert len(labels) == 25
    assert list(stream) == []


def test_async_items_may_come_later() -> None:
    async def items() -> AsyncIterator[Item]:
        for item in _texts(25):
            await asyncio.sleep(0)
            yield item

    async def run() -> list[Label]:
        fake = FakeService(lambda item: (item.text or "").rpartition(" ")[2], classes=COLOURS)
        async with fake.async_client() as client:
            return await _collect(client.label_many(items(), recipe="r", batch_size=4))

    assert _told(asyncio.run(run())) == _expected(25)


def test_the_async_stream_fails_and_goes_on_like_the_other(flaky: Any) -> None:
    flaky.trouble = lambda number: "down" if number == 1 else "ok"

    async def run() -> tuple[list[Label], list[Label]]:
        async with AsyncClient(flaky.url, rng=AtOnce()) as client:
            options: dict[str, Any] = {"batch_size": 10, "max_in_flight": 1, "max_retries": 0}
            stream = client.label_many(_texts(30), recipe="r", **options)
            labels = [await anext(stream) for _ in range(10)]
            with pytest.raises(ServiceUnavailable):
                await anext(stream)
            labels += await _collect(stream)
            flaky.troubles.clear()
            rows = await _collect(client.label_many(_texts(30), recipe="r", on_error="rows", **options))
            return labels, rows

    labels, rows = asyncio.run(run())
    assert _told(labels) == _expected(30)
    assert [label.status for label in rows] == ["labeled"] * 10 + ["error"] * 10 + ["labeled"] * 10


def test_closing_gives_up_what_is_waited_for(flaky: Any) -> None:
    flaky.trouble = lambda number: "busy"
    flaky.retry_after = "30"
    with Client(flaky.url, max_retries=8) as client:
        stream = client.label_many(_texts(30), recipe="r", batch_size=10)
        stream._fill()
        stream.close()
        assert list(stream) == []
        stream._threads.join()  # would take 30 s if the wait were not given up


def test_closing_the_async_stream_ends_its_tasks(flaky: Any) -> None:
    flaky.trouble = lambda number: "late"
    flaky.late_s = 0.5

    async def run() -> int:
        async with AsyncClient(flaky.url) as client:
            stream = client.label_many(_texts(30), recipe="r", batch_size=10)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await anext(stream)
            await stream.close()
            return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1


def test_items_that_are_fitted_apart_are_told() -> None:
    fake = FakeService()
    for label_model in ("m1", "m2"):
        versions = {"recipe": "v", "primitives": {}, "label_model": label_model}
        row = Label(id="x", status="abstained", confidence=0.5, probs={"a": 0.5}, prior=0.0).to_dict()
        fake.answer("POST", "/v1/label", {"labels": [row], "versions": versions, "recipe": "r"})
    stream = fake.client().label_many(["a", "b"], recipe="r", batch_size=1, max_in_flight=1)
    with pytest.warns(RuntimeWarning, match="label model m1 and m2.*fit one first"):
        list(stream)
    assert [versions.label_model for versions in stream.versions] == ["m1", "m2"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"max_in_flight": 0},
        {"on_error": "ignore"},
        {"items": "text"},
        {"items": Item("a")},
    ],
)
def test_wrong_options_are_refused_at_once(wrong: dict[str, Any]) -> None:
    given = {"items": ["a"], "recipe": "r"} | wrong
    with FakeService().client() as client, pytest.raises(InvalidRequest):
        client.label_many(**given)


def test_a_bar_is_drawn_on_a_terminal_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with FakeService().client() as client:
        list(client.label_many(["a"] * 3, recipe="r", progress=True))
        assert capsys.readouterr() == ("", "")
        terminal = io.StringIO()
        monkeypatch.setattr(
            "rich.console.Console", lambda **_: Console(file=terminal, force_terminal=True, width=100)
        )
        list(client.label_many(["a"] * 3, recipe="r", progress=True))
    assert "3/3" in terminal.getvalue()


def test_a_stream_is_more_patient_than_a_call() -> None:
    fake = FakeService()
    fake.fail(Overloaded("wait"), times=8)
    fake.fail(httpx.ReadError("reset"))
    with fake.client() as client:
        with pytest.raises(ServiceUnavailable):
            client.with_options(max_retries=8).label_many(["a"], recipe="r", max_retries=0).__next__()
        assert next(client.label_many(["a"], recipe="r")).status == "abstained"


def test_an_interrupted_program_ends_at_once(flaky: Any) -> None:
    flaky.trouble = lambda number: "late"
    flaky.late_s = 20
    code = f"""
from manyeyes import Client
print("ready", flush=True)
for label in Client({flaky.url!r}).label_many(["a"] * 100, recipe="r", batch_size=10):
    pass
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while len(flaky.troubles) < 4:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        _, told = process.communicate(timeout=15)
        assert b"KeyboardInterrupt" in told
        assert time.monotonic() - began < 10


def test_threads_end_with_the_stream_that_began_them() -> None:
    def running() -> int:
        return sum(thread.name.startswith("manyeyes-label-many") for thread in threading.enumerate())

    before = running()
    with FakeService().client() as client:
        stream = client.label_many(["a"] * 10, recipe="r", batch_size=1)
        next(stream)
        assert running() > before
        del stream
        gc.collect()
        give_up_at = time.monotonic() + 10
        while running() > before and time.monotonic() < give_up_at:
            time.sleep(0.01)
    assert running() <= before
