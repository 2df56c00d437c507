"""The whole: labels under concurrency, the cache, deadlines, those who leave, draining, and who is let in."""

from __future__ import annotations

import asyncio
import gc
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.requests import ClientDisconnect

from manyeyes import Item, Labeler
from manyeyes.errors import DeadlineExceeded, Overloaded, ServiceUnavailable, UndecodableImage
from manyeyes.labeler import extractor_for
from manyeyes.primitives.images import decode_image
from manyeyes.primitives.toy import ToyText
from manyeyes.service.errors import Refusal
from manyeyes.service.pipeline.engine import Engine

MakeEngine = Callable[..., Engine]
BOTH = """
name: %s
classes: [red, green, blue]
primitives: {toy: {}}
lfs:
  - {name: looks, kind: prompt, using: toy, prompts: {red: red, green: green, blue: blue}, threshold: 0.4}
  - {name: reads, kind: prompt, using: toy, on: text, prompts: {red: red, green: green, blue: blue}, threshold: 0.4}
  - {name: wide, kind: metadata, when: "width > 100", vote: blue}
"""


def photos(n: int, *, first: int = 0) -> list[tuple[str, Item]]:
    """Return rows of images, no two alike, every third with a text."""
    rows = []
    for i in range(first, first + n):
        stream = io.BytesIO()
        colour = (255, i % 251, i // 251) if i % 2 else (i % 251, i // 251, 255)
        Image.new("RGB", (8 + i % 120, 8), colour).save(stream, "PNG")
        text = "red and blue" if i % 3 == 0 else None
        rows.append((str(i), Item(str(i), image=stream.getvalue(), text=text)))
    return rows


def texts(*told: str) -> list[tuple[str, Item]]:
    return [(str(i), Item(str(i), text=text)) for i, text in enumerate(told)]


def told(labels: Any) -> list[dict[str, Any]]:
    return [label.to_dict() for label in labels]


def slowly(monkeypatch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Let the toy that reads texts take its time; return the sizes of its batches as they come."""
    sizes: list[int] = []
    compute = ToyText.compute

    def slow(self: ToyText, batch: Any) -> Any:
        sizes.append(len(batch))
        time.sleep(seconds)
        return compute(self, batch)

    monkeypatch.setattr(ToyText, "compute", slow)
    return sizes


def test_labels_are_those_of_a_labeler_whoever_asks_at_the_same_time(
    make_engine: MakeEngine, served: Any, stays: Any, tmp_path: Path
) -> None:
    recipe = served("fitted", BOTH).recipe
    fitted = Labeler(recipe, extractor=extractor_for(recipe, cache=None))
    fitted.fit([item for _, item in photos(60)]).save_label_model(tmp_path / "fitted.label_model")
    recipes = [served("plain", BOTH), served("fitted", BOTH, label_model=tmp_path / "fitted.label_model")]
    calls = [(recipes[n % 2], photos(1 + n % 5, first=100 + 3 * n)) for n in range(48)]
    expected = [
        told(
            (fitted if n % 2 else Labeler(recipes[0].recipe, extractor=fitted.extractor)).label(
                item for _, item in rows
            )
        )
        for n, (_, rows) in enumerate(calls)
    ]
    engine = make_engine()

    async def run() -> list[list[dict[str, Any]]]:
        asked = [engine.label(rows, recipe, is_gone=stays) for recipe, rows in calls]
        return [told(done.labels) for done in await asyncio.gather(*asked)]

    assert asyncio.run(run()) == expected
    # One line a model, not one a recipe.
    names = sorted(state.name for state in engine.stages())
    assert names == ["decode", "image/facts 1", "toy/colors/image 1", "toy/colors/text 1"]
    done = {state.name: state.done for state in engine.stages()}
    assert asyncio.run(run()) == expected
    assert {state.name: state.done for state in engine.stages()} == done  # all of it was cached


def test_small_calls_of_one_recipe_share_batches(
    make_engine: MakeEngine, served: Any, stays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = slowly(monkeypatch, 0.1)
    engine, recipe = make_engine(), served()

    async def run() -> None:
        await engine.label(texts("warm"), recipe, is_gone=stays)
        sizes.clear()
        await asyncio.gather(*[engine.label(texts(f"crimson {n}"), recipe, is_gone=stays) for n in range(32)])

    asyncio.run(run())
    assert sum(sizes) == 32
    assert len(sizes) <= 4


def test_cached_calls_pass_those_that_wait(
    make_engine: MakeEngine, served: Any, stays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, recipe = make_engine(max_active_items=2), served()

    async def run() -> None:
        await engine.label(texts("red"), recipe, is_gone=stays)
        slowly(monkeypatch, 0.3)
        waiting = [
            asyncio.ensure_future(engine.label(texts(f"new {n}"), recipe, is_gone=stays)) for n in range(8)
        ]
        await asyncio.sleep(0.05)
        started = time.perf_counter()
        await engine.label(texts("red"), recipe, is_gone=stays)
        assert time.perf_counter() - started < 0.25
        await asyncio.gather(*waiting)

    asyncio.run(run())


def test_one_bad_image_is_one_error_and_decoding_may_be_done_elsewhere(
    make_engine: MakeEngine, served: Any, stays: Any
) -> None:
    decoded = []

    def decode(source: Any, limits: Any = None, *, least_side: int | None = None) -> Any:
        decoded.append(threading.current_thread().name)
        if source == b"hostile":
            raise UndecodableImage("no image")
        return decode_image(source, limits, least_side=least_side)

    engine = make_engine(decode=decode)
    rows = [*photos(6), ("bad", Item("bad", image=b"hostile"))]
    done = asyncio.run(engine.label(rows, served("both", BOTH), is_gone=stays))
    assert [label.status for label in done.labels].count("error") == 1
    assert done.labels[6].error is not None
    assert done.labels[6].error.code == "undecodable_image"
    assert len(decoded) == 7
    assert set(decoded) == {"manyeyes-decode"}


def test_a_call_has_a_deadline(
    make_engine: MakeEngine, served: Any, stays: Any, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    slowly(monkeypatch, 0.4)
    engine = make_engine(deadline_s=0.2)
    started = time.perf_counter()
    with pytest.raises(DeadlineExceeded, match=r"0\.2 s"):
        asyncio.run(engine.label(texts("red"), served(), is_gone=stays))
    assert time.perf_counter() - started < 1.5
    assert engine.n_waiting == 0
    wait_until(lambda: engine.gate.active == 0)


def test_nobody_waits_for_a_caller_who_leaves(
    make_engine: MakeEngine, served: Any, stays: Any, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    engine, recipe = make_engine(max_active_items=4), served()
    left = False

    async def is_gone() -> bool:
        return left

    async def run() -> None:
        nonlocal left
        await engine.label(texts("red"), recipe, is_gone=stays)
        sizes = slowly(monkeypatch, 0.7)
        calls = [
            asyncio.ensure_future(engine.label(texts(f"n {n}"), recipe, is_gone=is_gone)) for n in range(40)
        ]
        await asyncio.sleep(0.1)
        left = True
        came = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(one, ClientDisconnect) for one in came) >= 30  # those before were done by then
        assert sum(sizes) <= 20  # of forty

    asyncio.run(run())
    assert engine.n_waiting == 0
    wait_until(lambda: engine.gate.active == 0)


def test_cancelling_wedges_nothing(make_engine: MakeEngine, served: Any, stays: Any, wait_until: Any) -> None:
    engine, recipe = make_engine(), served()

    async def run() -> None:
        for n in range(30):
            task = asyncio.ensure_future(engine.label(texts(f"x {n}"), recipe, is_gone=stays))
            await asyncio.sleep(0.0005 * n)
            task.cancel()
        done = await engine.label(texts("crimson"), recipe, is_gone=stays)
        assert done.labels[0].label == "red"

    asyncio.run(run())
    assert engine.n_waiting == 0
    wait_until(lambda: engine.gate.active == 0)


def test_draining_finishes_what_was_taken_and_takes_nothing_new(
    make_engine: MakeEngine, served: Any, stays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, recipe = make_engine(), served()

    async def run() -> None:
        await engine.label(texts("red"), recipe, is_gone=stays)
        slowly(monkeypatch, 0.3)
        taken = asyncio.ensure_future(engine.label(texts("a crimson wall"), recipe, is_gone=stays))
        await asyncio.sleep(0.05)
        drained = asyncio.ensure_future(asyncio.to_thread(engine.drain, 10))
        await asyncio.sleep(0.05)
        assert engine.draining
        assert not drained.done()
        with pytest.raises(Refusal) as refused:
            engine.admit()
        assert isinstance(refused.value.error, ServiceUnavailable)
        assert not isinstance(refused.value.error, Overloaded)
        assert refused.value.retry_after_s is not None
        assert (await taken).labels[0].label == "red"
        assert await drained

    asyncio.run(run())


def test_draining_gives_up_in_time(
    make_engine: MakeEngine, served: Any, stays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slowly(monkeypatch, 1.0)
    engine = make_engine()

    async def run() -> None:
        taken = asyncio.ensure_future(engine.label(texts("red"), served(), is_gone=stays))
        await asyncio.sleep(0.05)
        assert not await asyncio.to_thread(engine.drain, 0.1)
        await taken

    asyncio.run(run())


def _refused(engine: Engine, **what: int) -> str:
    with pytest.raises(Refusal) as refused:
        engine.admit(**what)
    assert isinstance(refused.value.error, Overloaded)
    assert refused.value.retry_after_s is not None
    assert 1 <= refused.value.retry_after_s <= 60
    return str(refused.value)


def test_who_is_let_in(make_engine: MakeEngine) -> None:
    engine = make_engine(max_waiting=3, max_queued_items=100, max_held_bytes=2048, max_wait_s=1.0)
    admission = engine.admission
    engine.admit(n_items=10**6, n_bytes=10**6)  # a service that does nothing takes whatever a call may hold
    first = admission.enter(90, 1000)
    engine.admit(n_items=10, n_bytes=1000)
    assert "90 items" in _refused(engine, n_items=11)
    assert "1,000 bytes" in _refused(engine, n_items=1, n_bytes=1049)
    second, third = admission.enter(1, 1), admission.enter(1, 1)
    assert "3 calls" in _refused(engine)
    for ticket in (first, second, third):
        admission.leave(ticket)
    assert (admission.n_calls, admission.n_items, admission.n_bytes) == (0, 0, 0)
    engine.admit()


def test_a_long_wait_is_foretold(
    make_engine: MakeEngine, served: Any, stays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, recipe = make_engine(max_wait_s=1.0, max_batch=1, max_active_items=4), served()
    slowly(monkeypatch, 0.05)

    async def run() -> None:
        for n in range(4):
            await engine.label(texts(f"n {n}"), recipe, is_gone=stays)
        calls = [
            asyncio.ensure_future(engine.label(texts(f"m {n}"), recipe, is_gone=stays)) for n in range(40)
        ]
        await asyncio.sleep(0.01)
        # About twenty of them take a second; those beyond were told so.
        assert 15 <= engine.n_waiting <= 25
        assert "have to wait about 1 s" in _refused(engine)
        came = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(one).__name__ for one in came} == {"Labeled", "Refusal"}
        engine.admit()

    asyncio.run(run())


def test_a_stage_tells_how_it_is(make_engine: MakeEngine, served: Any, stays: Any) -> None:
    engine = make_engine()
    asyncio.run(engine.label(photos(3), served("both", BOTH), is_gone=stays))
    for state in engine.stages():
        assert state.alive
        assert state.beat_s < 5
        assert (state.queued, state.busy, state.restarts) == (0, 0, 0)
        assert state.done >= 1
        if state.name != "decode":
            engine.sing(state.name, 5.0)


def test_engines_that_are_forgotten_leave_no_thread(served: Any, stays: Any, wait_until: Any) -> None:
    from manyeyes.service.settings import ServiceSettings

    def ours() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("manyeyes-")}

    before = ours()
    engine = Engine(ServiceSettings())
    asyncio.run(engine.label(texts("red"), served(), is_gone=stays))
    assert ours() - before
    del engine
    gc.collect()
    wait_until(lambda: not ours() - before)
