"""Calls that share their work: what each gets is what it would get alone, whoever it is put beside."""

from __future__ import annotations

import asyncio
import gc
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manyeyes import Item, Labeler
from manyeyes.errors import DeadlineExceeded, InvalidRequest, UndecodableImage
from manyeyes.labeler import extractor_for
from manyeyes.primitives.base import Features, FeatureSet
from manyeyes.primitives.toy import ToySpec, ToyText
from manyeyes.service.pipeline.engine import Engine, Labeled
from manyeyes.service.pipeline.gate import Gate
from manyeyes.service.pipeline.headers import pixels_told
from manyeyes.service.pipeline.lanes import Lane, Member, TogetherTicket
from manyeyes.service.pipeline.tickets import CallOver, Ticket
from manyeyes.service.pipeline.together import features_of, is_small
from manyeyes.service.recipes import ServedRecipe
from manyeyes.service.settings import ServiceSettings

MakeEngine = Callable[..., Engine]
Rows = list[tuple[str, Any]]

BOTH = """
name: both
classes: [red, green, blue]
primitives: {toy: {}}
label_model: %s
lfs:
  - {name: looks, kind: prompt, using: toy, prompts: {red: red, green: green, blue: blue}, threshold: 0.4}
  - {name: reads, kind: prompt, using: toy, on: text, prompts: {red: red, green: green, blue: blue}, threshold: 0.4}
  - {name: says, kind: keyword, on: text, votes: {red: [crimson], green: [lime], blue: [navy]}}
  - {name: wide, kind: metadata, when: "width > 100 or shelf == 'B'", vote: blue}
"""
WORDS = ("crimson", "a lime wall", "navy and lime", "red and blue", "nothing", "green")


def photo(n: int, width: int = 0) -> bytes:
    stream = io.BytesIO()
    colour = (255, n % 251, 40) if n % 2 else (n % 251, 40, 255)
    Image.new("RGB", (width or 8 + n % 120, 8), colour).save(stream, "PNG")
    return stream.getvalue()


def item(name: str, n: int) -> Item:
    """Return one of many items: with an image, a text or both, some of them broken."""
    image = None if n % 3 == 1 else b"no image" if n % 7 == 0 else photo(n)
    text = WORDS[n % len(WORDS)] if n % 3 or n % 2 else None
    return Item(name, image=image, text=text, metadata={"shelf": "B" if n % 5 == 0 else n})


def rows_of(numbers: list[int]) -> Rows:
    """Return a call; its ids are those of every other call, too. Some rows could not be read at all."""
    return [
        (str(i), UndecodableImage("cut off") if n % 11 == 0 else item(str(i), n))
        for i, n in enumerate(numbers)
    ]


def same(one: Labeled, other: Labeled) -> None:
    assert [label.to_dict() for label in one.labels] == [label.to_dict() for label in other.labels]
    assert one.versions == other.versions
    assert one.collected.ids == other.collected.ids
    assert {row: str(error) for row, error in one.collected.errors.items()} == {
        row: str(error) for row, error in other.collected.errors.items()
    }
    np.testing.assert_array_equal(one.collected.votes.classes, other.collected.votes.classes)
    np.testing.assert_array_equal(one.collected.votes.scores, other.collected.votes.scores)
    assert (one.collected.embeddings is None) == (other.collected.embeddings is None)
    if one.collected.embeddings is not None and other.collected.embeddings is not None:
        np.testing.assert_array_equal(one.collected.embeddings, other.collected.embeddings)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("MANYEYES_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module", params=["dawid_skene", "{name: auto, embeddings: toy}"])
def fitted(request: Any, home: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedRecipe:
    """Return a recipe with a fitted label model; one that compares items with those that it was fitted on, too."""
    from manyeyes import Recipe

    recipe = Recipe.parse(BOTH % request.param)
    labeler = Labeler(recipe, extractor=extractor_for(recipe, cache=None))
    folder = tmp_path_factory.mktemp("models") / "both.label_model"
    labeler.fit([item(str(n), n) for n in range(1, 60)]).save_label_model(folder)
    return ServedRecipe(name="both", recipe=recipe, label_model=folder, stored=True)


@pytest.fixture(scope="module")
def ready(fitted: ServedRecipe) -> Iterator[Engine]:
    """Return an engine whose recipe was used once, so that its calls may share."""
    engine = Engine(ServiceSettings())

    async def stays() -> bool:
        return False

    asyncio.run(engine.label(rows_of([1]), fitted, is_gone=stays))
    yield engine
    engine.close()


@settings(max_examples=25, deadline=None)
@given(
    calls=st.lists(st.lists(st.integers(0, 200), min_size=1, max_size=4), min_size=1, max_size=8).map(
        lambda calls: [list(dict.fromkeys(call)) for call in calls]
    )
)
def test_a_call_gets_what_it_would_get_alone(
    calls: list[list[int]], fitted: ServedRecipe, ready: Engine
) -> None:
    used = ready._ready_for(fitted)
    assert used.lane is not None
    asked = [rows_of(call) for call in calls]
    alone = [ready._label(rows, fitted, used) for rows in asked]
    for one, other in zip(used.lane._work(asked), alone, strict=True):
        same(one, other)


def test_calls_that_wait_are_worked_on_together_and_get_the_same(
    fitted: ServedRecipe, ready: Engine, stays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = [n for n in range(300, 500) if n % 7]  # what tells no size is labeled by itself
    calls = [rows_of(numbers[2 * n : 2 * n + 1 + n % 2]) for n in range(40)]
    groups: list[int] = []
    collect = Labeler.collect

    def counted(self: Labeler, items: Any, **options: Any) -> Any:
        groups.append(len(items))
        time.sleep(0.02)
        return collect(self, items, **options)

    monkeypatch.setattr(Labeler, "collect", counted)

    async def run() -> list[Labeled]:
        return list(await asyncio.gather(*[ready.label(rows, fitted, is_gone=stays) for rows in calls]))

    together = asyncio.run(run())
    assert len(groups) <= 12  # of forty calls
    assert max(groups) <= 16
    again = asyncio.run(run())  # from the cache alone
    monkeypatch.undo()
    for rows, one, other in zip(calls, together, again, strict=True):
        expected = ready._label(rows, fitted, ready._ready_for(fitted))
        same(one, expected)
        same(other, expected)


def test_what_fails_as_a_whole_fails_for_its_caller_alone(
    fitted: ServedRecipe, ready: Engine, stays: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = Labeler.collect

    def fails(self: Labeler, items: Any, **options: Any) -> Any:
        time.sleep(0.05)
        if any(one.text == "boom" for one in items):
            raise InvalidRequest("this recipe does not like it")
        return collect(self, items, **options)

    monkeypatch.setattr(Labeler, "collect", fails)

    async def run() -> list[Any]:
        calls = [[("a", Item("a", text="boom" if n == 7 else f"crimson {n}"))] for n in range(20)]
        asked = [ready.label(rows, fitted, is_gone=stays) for rows in calls]
        return list(await asyncio.gather(*asked, return_exceptions=True))

    came = asyncio.run(run())
    assert [n for n, one in enumerate(came) if isinstance(one, InvalidRequest)] == [7]
    assert all(isinstance(one, Labeled) for n, one in enumerate(came) if n != 7)


def test_a_free_lane_takes_a_call_at_once_and_ids_are_still_refused_in_a_call(
    fitted: ServedRecipe, ready: Engine, stays: Any
) -> None:
    async def run() -> None:
        started = time.perf_counter()
        await ready.label(rows_of([401]), fitted, is_gone=stays)
        assert time.perf_counter() - started < 1
        with pytest.raises(InvalidRequest, match="have the id 'a'"):
            await ready.label([("a", item("a", 1)), ("a", item("a", 2))], fitted, is_gone=stays)

    asyncio.run(run())


def test_who_leaves_or_is_late_leaves_the_others_alone(
    fitted: ServedRecipe, stays: Any, home: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    engine = Engine(ServiceSettings(deadline_s=3.0))
    seen: list[str] = []
    compute = ToyText.compute

    def slow(self: ToyText, batch: Any) -> Any:
        seen.extend(batch)
        time.sleep(0.5)
        return compute(self, batch)

    async def left() -> bool:
        return True

    async def run() -> None:
        await engine.label([("a", Item("a", text="warm"))], fitted, is_gone=stays)
        monkeypatch.setattr(ToyText, "compute", slow)

        def ask(n: int, is_gone: Any) -> asyncio.Future[Any]:
            return asyncio.ensure_future(
                engine.label([("a", Item("a", text=f"unseen {n}"))], fitted, is_gone=is_gone)
            )

        busy = []
        for n in range(3):  # one in each lane
            busy.append(ask(n, stays))
            await asyncio.sleep(0.1)
        waiting = [ask(10 + n, left if n % 3 == 1 else stays) for n in range(9)]
        await asyncio.sleep(0.05)
        for n in (0, 3, 6):
            waiting[n].cancel()
        came = await asyncio.gather(*busy, *waiting, return_exceptions=True)
        kinds = [type(one).__name__ for one in came]
        assert kinds[:3] == ["Labeled"] * 3
        for n, kind in enumerate(kinds[3:]):
            wanted = ("CancelledError",), ("ClientDisconnect", "Labeled"), ("Labeled",)
            assert kind in wanted[n % 3]
        assert not {"unseen 10", "unseen 13", "unseen 16"} & set(seen)
        monkeypatch.setattr(ToyText, "compute", lambda *_: time.sleep(4) or [])
        late = [ask(100 + n, stays) for n in range(8)]
        for one in await asyncio.gather(*late, return_exceptions=True):
            assert isinstance(one, DeadlineExceeded)

    asyncio.run(run())
    assert engine.n_waiting == 0
    monkeypatch.undo()
    wait_until(lambda: engine.gate.active == 0)
    engine.close()


def test_an_engine_whose_calls_shared_is_forgotten_too(
    fitted: ServedRecipe, stays: Any, home: Path, wait_until: Any
) -> None:
    def ours() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name.startswith("manyeyes-")}

    before = ours()
    engine = Engine(ServiceSettings())

    async def run(engine: Engine) -> None:
        for n in range(3):
            await engine.label(rows_of([500 + n]), fitted, is_gone=stays)

    asyncio.run(run(engine))
    assert ours() - before
    del engine
    gc.collect()
    wait_until(lambda: not ours() - before)


def test_features_are_seen_together(make_engine: MakeEngine, stays: Any, home: Path) -> None:
    engine = make_engine()
    specs, needs = {"toy": ToySpec(kind="toy")}, ["toy", "toy.text"]
    calls = [rows_of([600 + n, 700 + n][: 1 + n % 2]) for n in range(24)]

    async def run() -> list[Any]:
        await engine.see(rows_of([1]), specs, needs, is_gone=stays)
        return list(await asyncio.gather(*[engine.see(rows, specs, needs, is_gone=stays) for rows in calls]))

    for rows, seen in zip(calls, asyncio.run(run()), strict=True):
        alone = asyncio.run(make_engine().see(rows, specs, needs, is_gone=stays))
        assert seen.versions == alone.versions
        assert {n: str(e) for n, e in seen.features.errors.items()} == {
            n: str(e) for n, e in alone.features.errors.items()
        }
        for name, block in alone.features.blocks.items():
            np.testing.assert_array_equal(seen.features[name].rows, block.rows)
            np.testing.assert_array_equal(seen.features[name].present, block.present)


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=2, max_size=6))
def test_boxes_are_cut_as_their_images_are(calls: list[list[int]]) -> None:
    """Every inner number is an image with so many rows."""
    counts = [n for call in calls for n in call]
    rows = np.arange(sum(counts)).astype([("x", "i8")])
    offsets = np.cumsum([0, *counts]).astype(np.int64)
    block = Features(rows=rows, present=np.ones(len(counts), dtype=bool), offsets=offsets)
    whole = FeatureSet(items=[Item(str(n)) for n in range(len(counts))], blocks={"boxes": block})
    left = iter(range(sum(counts)))
    for call, part in zip(calls, features_of(whole, [len(call) for call in calls]), strict=True):
        own = part["boxes"]
        assert own.offsets is not None
        assert own.offsets.tolist() == np.cumsum([0, *call]).tolist()
        assert own["x"].tolist() == [next(left) for _ in range(sum(call))]
        assert len(part) == len(call)


def test_only_small_calls_share() -> None:
    assert is_small([("a", Item("a", image=photo(3)))])
    assert is_small([("a", UndecodableImage("cut off"))])
    assert not is_small([(str(n), item(str(n), n)) for n in range(1, 6)])
    assert not is_small([("a", item("a", 1)), ("a", item("a", 2))])
    assert not is_small([("a", Item("a", text="x" * 5000))])
    assert not is_small([("a", Item("a", text="x", metadata={"note": "x" * 5000}))])
    assert not is_small([("a", Item("a", image=photo(1, 600_000)))])
    assert not is_small([("a", Item("a", image=b"GIF89a of unknown size"))])
    assert not is_small([("a", Item("a", image=photo(3) + bytes(2**20)))])


@given(st.binary(max_size=200))
def test_headers_are_read_without_a_fault(rest: bytes) -> None:
    for start in (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff\xe0\0\x04ab"):
        assert pixels_told(start + rest) >= 0


@pytest.mark.parametrize(
    "options", [{"format": "JPEG"}, {"format": "JPEG", "progressive": True}, {"format": "PNG"}]
)
def test_headers_tell_the_size(options: dict[str, Any]) -> None:
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E] = "a description"
    Image.new("RGB", (321, 123)).save(stream, exif=exif, **options)
    assert pixels_told(stream.getvalue()) == 321 * 123
    assert pixels_told(stream.getvalue()[:20]) == 0


def test_lanes_take_turns_with_others_at_the_gate(wait_until: Any) -> None:
    gate = Gate(4)
    go = threading.Event()
    begun: list[list[Any]] = []

    def work(parts: Any) -> list[Any]:
        begun.append(list(parts))
        assert go.wait(10)
        return list(parts)

    async def run() -> None:
        lane = Lane(work, lambda parts: [False] * len(parts), n_lanes=2, most_items=3)
        tickets = [Ticket(weight=1, n_items=1) for _ in range(8)]
        members = [Member(ticket, n) for n, ticket in enumerate(tickets)]
        for member in members[:2]:
            gate.join(lane, [member])
        await asyncio.to_thread(wait_until, lambda: len(begun) == 2)  # each at once, and alone
        gate.join(lane, members[2:])
        other = gate.submit(Ticket(weight=1), lambda: "other")
        assert await asyncio.to_thread(other.result, 5) == "other"  # who comes later need not wait for a lane
        assert begun == [[0], [1]]
        tickets[2].cancel()
        members[3].future.cancel()
        go.set()
        told = await asyncio.gather(*[member.future for member in members], return_exceptions=True)
        assert isinstance(told[2], CallOver)
        assert isinstance(told[3], asyncio.CancelledError)
        assert told[:2] + told[4:] == [0, 1, 4, 5, 6, 7]
        assert all(len(parts) <= 3 for parts in begun)
        assert lane.busy == lane.lined_up == 0 or not lane.waiting

    asyncio.run(run())
    wait_until(lambda: gate.active == 0)
    gate.close()


def test_a_group_is_over_when_all_of_it_is() -> None:
    one, other = Ticket(n_items=1, weight=1), Ticket(n_items=2, weight=2)
    both = TogetherTicket([one, other])
    assert (both.n_items, both.weight, both.over) == (3, 3, None)
    one.cancel()
    both.check()
    other.cancel("expired")
    assert both.over is not None
    with pytest.raises(CallOver):
        both.check()
