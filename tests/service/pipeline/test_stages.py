"""The parts around the lines: the gate, the threads that decode, what is learned of times, and the cache."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.models.evidence import one_blas_thread
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.cores import CORES, Cores
from manyeyes.primitives.workers import ModelWorkers
from manyeyes.service.pipeline.decoding import Decoding
from manyeyes.service.pipeline.estimate import Fit
from manyeyes.service.pipeline.gate import Gate
from manyeyes.service.pipeline.keeping import LateCache
from manyeyes.service.pipeline.tickets import TICKET, CallOver, Ticket

Until = Callable[..., None]


def test_the_gate_lets_in_what_fits_in_turn(wait_until: Until) -> None:
    gate = Gate(10)
    go = threading.Event()
    running: list[int] = []

    def work(n: int) -> int:
        running.append(n)
        assert go.wait(10)
        return n

    asked = [gate.submit(Ticket(weight=weight), lambda n=n: work(n)) for n, weight in enumerate([6, 6, 1, 4])]
    wait_until(lambda: running == [0])
    time.sleep(0.05)
    assert running == [0]  # the second does not fit, and nobody passes it
    assert gate.active == 6
    go.set()
    assert [one.result(timeout=10) for one in asked] == [0, 1, 2, 3]
    wait_until(lambda: gate.active == 0)
    assert gate.submit(Ticket(weight=99), lambda: "alone").result(timeout=10) == "alone"
    gate.close()


def test_the_gate_passes_over_those_who_left(wait_until: Until) -> None:
    gate = Gate(1)
    go = threading.Event()
    first = gate.submit(Ticket(weight=1), lambda: go.wait(10))
    gone, cancelled = Ticket(weight=1), Ticket(weight=1)
    left = gate.submit(gone, lambda: "never")
    unwanted = gate.submit(cancelled, lambda: "never")
    last = gate.submit(Ticket(weight=1), lambda: "here")
    gone.cancel()
    assert unwanted.cancel()
    go.set()
    assert first.result(timeout=10)
    assert isinstance(left.exception(timeout=10), CallOver)
    assert last.result(timeout=10) == "here"
    failing = gate.submit(Ticket(weight=1), lambda: 1 / 0)
    assert isinstance(failing.exception(timeout=10), ZeroDivisionError)
    wait_until(lambda: gate.active == 0)
    gate.close()


def test_decoding_is_shared_and_cancelled_tasks_are_passed_over() -> None:
    decoding = Decoding(2)
    go = threading.Event()
    held = [decoding.submit(lambda: go.wait(10)) for _ in range(2)]
    gone = Ticket()
    TICKET.set(gone)
    dropped = decoding.submit(lambda: "never")
    TICKET.set(None)
    unwanted = decoding.submit(lambda: "never")
    assert unwanted.cancel()
    gone.cancel()
    go.set()
    assert [one.result(timeout=10) for one in held] == [True, True]
    assert isinstance(dropped.exception(timeout=10), CallOver)
    assert isinstance(decoding.submit(lambda: 1 / 0).exception(timeout=10), ZeroDivisionError)
    decoding.close()


def test_a_decoding_thread_that_dies_is_replaced() -> None:
    decoding = Decoding(1)
    calls = []

    def deadly() -> None:
        calls.append(1)
        raise SystemExit

    asked = decoding.submit(deadly)
    after = decoding.submit(lambda: "here")
    for _ in range(200):
        decoding.mend()
        if after.done():
            break
        time.sleep(0.02)
    assert after.result() == "here"
    assert isinstance(asked.exception(), SystemError)
    assert len(calls) == 2
    assert decoding.state().restarts == 2
    decoding.close()


def test_a_fit_finds_the_line_again_and_follows_when_it_moves() -> None:
    fit = Fit()
    for n in (1, 3, 8, 2, 16, 5, 9, 4):
        fit.add(n, 0.02 + 0.01 * n)
    assert fit.predict(32, most=16) == pytest.approx(2 * 0.02 + 32 * 0.01, rel=1e-6)
    for n in [1, 3, 8, 2, 16, 5, 9, 4] * 8:
        fit.add(n, 0.5 * n)
    assert fit.predict(10, most=16) == pytest.approx(5, rel=0.01)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 60)), max_size=40))
def test_no_prediction_is_negative_or_not_a_number(batches: list[tuple[int, float]]) -> None:
    fit = Fit()
    for n, seconds in batches:
        fit.add(n, seconds)
    assert 0 <= fit.predict(100, most=32) < 1e6


def test_the_first_batch_says_nothing_of_the_others() -> None:
    fit = Fit()
    fit.add(1, 30.0)  # the model was loaded
    assert fit.predict(100, most=1) == 0
    fit.add(1, 0.1)
    assert fit.predict(100, most=1) == pytest.approx(10)


def test_what_is_not_written_yet_is_found_and_what_is_written_stays(manyeyes_home: Path) -> None:
    late = LateCache()
    late.put_many({"v 1": {b"a" * 16: b"row a"}, "v 2": {b"a" * 16: b"other"}})
    assert late.get("v 1", [b"a" * 16, b"b" * 16]) == {b"a" * 16: b"row a"}
    late.flush()
    late.put_many({"v 1": {b"b" * 16: b"row b"}})
    assert late.get("v 1", [b"a" * 16, b"b" * 16]) == {b"a" * 16: b"row a", b"b" * 16: b"row b"}
    late.stop()
    late.put_many({"v 1": {b"c" * 16: b"row c"}})  # after the end, at once
    read = Cache(manyeyes_home / "cache").get("v 1", [bytes([n]) * 16 for n in b"abc"])
    assert sorted(read.values()) == [b"row a", b"row b", b"row c"]


def test_models_and_decoding_together_keep_no_more_cores_busy_than_there_are() -> None:
    busy, most = 0, 0
    lock = threading.Lock()

    def work(*_: object) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        time.sleep(0.002)
        with lock:
            busy -= 1

    def decode() -> None:
        with CORES:
            work()

    decoding = Decoding(8)
    models = [ModelWorkers(lambda: None, n_threads=16) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(model.run, work, range(100)) for model in models]
        decoded = [decoding.submit(decode) for _ in range(200)]
        for one in [*asked, *decoded]:
            one.result(timeout=30)
    assert 1 <= most <= CORES.n_cores
    decoding.close()


def test_who_has_a_core_may_enter_again_and_gives_it_back() -> None:
    cores = Cores(1)
    with cores, cores:
        assert cores.busy == 1
    assert cores.busy == 0
    with pytest.raises(ZeroDivisionError), cores:
        1 / 0  # noqa: B018
    assert cores.busy == 0


def test_blas_stays_at_one_thread_until_the_last_one_leaves() -> None:
    from threadpoolctl import ThreadpoolController

    from manyeyes.models.evidence import _thread_pools

    _thread_pools.cache_clear()  # other tests may have loaded libraries since it looked

    def threads() -> set[int]:
        return {one["num_threads"] for one in ThreadpoolController().info() if one["user_api"] == "blas"}

    before = threads()
    first, second = one_blas_thread(), one_blas_thread()
    with second:
        first.__enter__()
        assert threads() == {1}
        first.__exit__(None, None, None)
        assert threads() == {1}
    assert threads() == before


def test_a_model_whose_threads_were_killed_gets_new_ones() -> None:
    workers = ModelWorkers(lambda: "model", n_threads=1)
    dead = workers.run(lambda _model, _pack: threading.current_thread(), [1])[0]
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(dead.ident or 0), ctypes.py_object(SystemExit))
    # It is asleep in C, and dies of the exception when it wakes up for the next pack, which is lost with it.
    with pytest.raises(SystemError, match="died"):
        workers.run(lambda _model, pack: pack, [1])
    assert not dead.is_alive()
    assert workers.run(lambda model, pack: (model, pack), [1, 2]) == [("model", 1), ("model", 2)]
