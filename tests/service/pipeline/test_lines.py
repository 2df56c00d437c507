"""What waits in front of a model: batches over calls and recipes, poison, those who left, and threads that die."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from manyeyes import Item
from manyeyes.errors import MissingDependency, PrimitiveFailed
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.features import Layout
from manyeyes.service.pipeline.lines import Line, Lines
from manyeyes.service.pipeline.stage import Watch
from manyeyes.service.pipeline.tickets import TICKET, CallOver, Ticket, Uncached

Until = Callable[..., None]


def extractor(primitive: Any, lines: Lines, **options: Any) -> Extractor:
    """Return an extractor as one recipe has it."""
    return Extractor({"toy.text": primitive}, run=lines, **options)


def embeddings(found: Any) -> list[list[float]]:
    return found["toy.text"]["embedding"].tolist()


def ask(made: Extractor, *texts: str, ticket: Ticket | None = None) -> Any:
    """Compute features of some texts, for a call."""
    TICKET.set(ticket)
    return made.extract([Item(str(i), text=text) for i, text in enumerate(texts)], ["toy.text"])


def test_what_waits_is_one_batch_whoever_asked(controlled: Any, watch: Watch, wait_until: Until) -> None:
    lines = Lines(max_batch=64, watch=watch)
    recipes = [extractor(controlled, lines), extractor(controlled, lines)]
    alone = Extractor({"toy.text": type(controlled)()})
    controlled.hold()
    with ThreadPoolExecutor(16) as pool:
        first = pool.submit(ask, recipes[0], "red")
        assert controlled.begun.wait(10)
        others = [pool.submit(ask, recipes[i % 2], "blue " * (9 - i), f"green {i}") for i in range(8)]
        (line,) = lines.all()
        wait_until(lambda: line.state().queued == 16)
        controlled.open.set()
        assert embeddings(first.result()) == embeddings(ask(alone, "red"))
        for i, other in enumerate(others):
            assert embeddings(other.result()) == embeddings(ask(alone, "blue " * (9 - i), f"green {i}"))
    assert [len(batch) for batch in controlled.seen] == [1, 16]
    lengths = [len(text) for text in controlled.seen[1]]
    assert lengths == sorted(lengths)  # those of like length are neighbours, and need the least padding
    assert [made.counter.passes["toy.text"] for made in recipes] == [5, 4]


def test_a_batch_is_no_larger_than_it_may_be(controlled: Any, watch: Watch, wait_until: Until) -> None:
    lines = Lines(max_batch=4, watch=watch)
    controlled.hold()
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(ask, extractor(controlled, lines), "red", *[f"{i} blue" for i in range(13)])
        assert controlled.begun.wait(10)
        wait_until(lambda: sum(line.state().queued for line in lines.all()) == 10)
        controlled.open.set()
        assert len(asked.result().errors) == 0
    assert [len(batch) for batch in controlled.seen] == [4, 4, 4, 2]


def test_poison_in_a_batch_of_64_of_many_calls_fails_alone(
    controlled: Any, watch: Watch, wait_until: Until
) -> None:
    lines = Lines(max_batch=64, watch=watch)
    made = extractor(controlled, lines)
    controlled.hold()
    with ThreadPoolExecutor(16) as pool:
        first = pool.submit(ask, made, "red")
        assert controlled.begun.wait(10)
        calls = [
            pool.submit(
                ask, made, *[f"{call} {i} {'poison' if (call, i) == (3, 5) else ''}" for i in range(8)]
            )
            for call in range(8)
        ]
        wait_until(lambda: lines.all()[0].state().queued == 64)
        controlled.open.set()
        errors = [call.result().errors for call in calls]
        first.result()
    assert [len(error) for error in errors] == [0, 0, 0, 1, 0, 0, 0, 0]
    assert isinstance(errors[3][5], PrimitiveFailed)
    assert "toy.text failed on this item alone: ValueError: this text is poison" in str(errors[3][5])
    # 1, 64, and two of each half down to the poison: no more than twice log2 of the batch.
    assert len(controlled.seen) == 2 + 2 * 6


def test_what_concerns_all_is_told_to_all(controlled: Any, watch: Watch) -> None:
    def compute(batch: Any) -> Any:
        raise MissingDependency("nothing runs without it")

    controlled.compute = compute
    with pytest.raises(MissingDependency, match="nothing runs"):
        ask(extractor(controlled, Lines(max_batch=8, watch=watch)), "red", "blue")


def test_nobody_works_for_those_who_left_or_are_late(
    controlled: Any, watch: Watch, wait_until: Until
) -> None:
    lines = Lines(max_batch=64, watch=watch)
    made = extractor(controlled, lines)
    controlled.hold()
    gone, late = Ticket(), Ticket(time.monotonic() + 0.2)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(ask, made, "red")
        assert controlled.begun.wait(10)
        left = pool.submit(ask, made, "he left", ticket=gone)
        expired = pool.submit(ask, made, "too late", ticket=late)
        stays = pool.submit(ask, made, "blue")
        wait_until(lambda: lines.all()[0].state().queued == 3)
        gone.cancel()
        time.sleep(0.25)
        controlled.open.set()
        stays.result(timeout=10)
        first.result(timeout=10)
        why = [_why(left), _why(expired)]
    assert why == ["gone", "expired"]
    assert controlled.seen == [["red"], ["blue"]]


def test_those_who_left_need_not_wait_for_the_model(controlled: Any, watch: Watch) -> None:
    made = extractor(controlled, Lines(max_batch=64, watch=watch))
    controlled.hold()
    ticket = Ticket()
    with ThreadPoolExecutor(2) as pool:
        left = pool.submit(ask, made, "red", ticket=ticket)
        assert controlled.begun.wait(10)
        ticket.cancel()
        assert _why(left) == "gone"  # though the model still works on it
        controlled.open.set()


def _why(future: Future[Any]) -> str:
    error = future.exception(timeout=10)
    assert isinstance(error, CallOver)
    return str(error.why)


def test_a_thread_that_dies_is_replaced_and_only_what_kills_it_fails(controlled: Any, watch: Watch) -> None:
    lines = Lines(max_batch=64, watch=watch)
    found = ask(extractor(controlled, lines), *[f"{i} red" for i in range(5)], "deadly", "blue")
    assert list(found.errors) == [5]
    assert "died of it" in str(found.errors[5])
    assert found["toy.text"]["embedding"][0].tolist() == [1, 0, 0]
    # All seven went down with the first thread; then each was tried by itself.
    assert [len(batch) for batch in controlled.seen] == [7, *[1] * 7]
    (line,) = lines.all()
    assert line.state().restarts == 2


def test_a_killed_thread_shows_until_it_is_back(controlled: Any, wait_until: Until) -> None:
    watch = Watch(every_s=60)
    lines = Lines(max_batch=8, watch=watch)
    made = extractor(controlled, lines)
    ask(made, "red")
    (line,) = lines.all()
    assert line.state().alive
    for thread in threading.enumerate():
        if thread.name == f"manyeyes-{line.name}":
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident or 0), ctypes.py_object(SystemExit)
            )
    wait_until(lambda: not line.state().alive)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, made, "blue")
        wait_until(lambda: line.state().queued == 1)
        line.mend()
        assert embeddings(asked.result(timeout=10)) == [[0, 0, 1]]
    state = line.state()
    assert (state.alive, state.restarts, state.queued, state.busy) == (True, 1, 0, 0)
    watch.close()
    line.close()


def test_what_is_cached_needs_no_line(controlled: Any, watch: Watch, tmp_path: Any) -> None:
    lines = Lines(max_batch=8, watch=watch)
    made = extractor(controlled, lines, cache=Cache(tmp_path))
    ticket = Ticket()
    ticket.cached_only = True
    with pytest.raises(Uncached):
        ask(made, "red", ticket=ticket)
    assert controlled.seen == []
    first = ask(made, "red", ticket=Ticket())
    assert embeddings(ask(made, "red", ticket=ticket)) == embeddings(first)
    assert len(controlled.seen) == 1


def test_a_line_has_a_bound_and_those_who_bring_more_wait(controlled: Any, wait_until: Until) -> None:
    line = Line(controlled, Layout.of(controlled), max_batch=2, observer=_Listener())
    controlled.hold()
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(lambda: line.submit(["red"] * 8).wait()) for _ in range(4)]
        wait_until(lambda: line.state().queued >= 14)
        time.sleep(0.05)
        assert line.state().queued <= 16
        controlled.open.set()
        assert [len(one.result(timeout=10)) for one in asked] == [8] * 4
    line.close()


def test_a_canary_goes_through_as_everybody_does(controlled: Any, watch: Watch) -> None:
    lines = Lines(max_batch=8, watch=watch)
    ask(extractor(controlled, lines), "red")
    (line,) = lines.all()
    line.sing(timeout_s=5)
    assert len(controlled.seen) == 2
    controlled.hold()
    with pytest.raises(CallOver):
        line.sing(timeout_s=0.2)
    controlled.open.set()


class _Listener:
    """Remembers what the pipeline tells."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *what: self.told.append((name, *what))


def test_whoever_counts_is_told(controlled: Any, watch: Watch) -> None:
    listener = _Listener()
    lines = Lines(max_batch=8, watch=watch, observer=listener)
    ask(extractor(controlled, lines), "red", "blue", "deadly")
    names = {one[0] for one in listener.told}
    assert names == {"queued", "waited", "inferred", "restarted"}
    assert ("inferred", "controlled 1", 3) in [one[:3] for one in listener.told]


def test_a_model_that_says_so_gets_the_next_input_while_a_batch_is_under_way(
    controlled: Any, watch: Watch, wait_until: Until
) -> None:
    controlled.side_by_side = 1
    made = extractor(controlled, Lines(max_batch=8, watch=watch))
    controlled.hold()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, made, "red")
        assert controlled.begun.wait(10)
        second = pool.submit(ask, made, "blue")
        wait_until(lambda: controlled.seen == [["red"], ["blue"]])
        controlled.open.set()
        assert embeddings(first.result(timeout=10)) == [[1, 0, 0]]
        assert embeddings(second.result(timeout=10)) == [[0, 0, 1]]
