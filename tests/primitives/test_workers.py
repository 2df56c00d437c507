"""Models are loaded once, run on their own threads, and not carried over a fork."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from manyeyes.errors import ModelNotFound
from manyeyes.primitives.workers import ModelWorkers, in_packs, shared_workers

pytest.importorskip("torch", reason="model threads tell torch to keep to one core")


class Model:
    """Remembers the threads that used it."""

    loaded = 0

    def __init__(self) -> None:
        Model.loaded += 1
        self.home = threading.get_ident()
        self.used_on: set[int] = set()

    def double(self, value: int) -> int:
        self.used_on.add(threading.get_ident())
        time.sleep(0.001)
        return 2 * value


@pytest.fixture(autouse=True)
def nothing_loaded() -> None:
    Model.loaded = 0


def test_a_shared_model_is_loaded_once() -> None:
    workers = ModelWorkers(Model)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda i: workers.run(Model.double, [i, i + 1]), range(30)))
    assert answers == [[2 * i, 2 * i + 2] for i in range(30)]
    assert Model.loaded == 1
    assert workers.run(Model.double, []) == []


def test_a_model_of_one_thread_stays_there() -> None:
    workers = ModelWorkers(Model, per_thread=True)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda i: workers.run(Model.double, [i] * 8), range(12)))
    homes = workers.run(
        lambda model, _: (model.used_on == {model.home}, threading.get_ident() == model.home), range(8)
    )
    assert set(homes) == {(True, True)}
    assert threading.get_ident() != workers.ask(lambda model: model.home)


def test_an_answer_is_asked_for_once() -> None:
    workers = ModelWorkers(Model, per_thread=True)
    asked: list[int] = []
    for _ in range(3):
        assert workers.recall("size", lambda model: asked.append(1) or 640) == 640
    assert asked == [1]


def test_a_model_that_cannot_be_loaded_is_tried_again() -> None:
    missing = True

    def load() -> Model:
        if missing:
            raise ModelNotFound("not yet")
        return Model()

    workers = ModelWorkers(load)
    for _ in range(2):
        with pytest.raises(ModelNotFound, match="not yet"):
            workers.run(Model.double, [1])
    missing = False
    assert workers.run(Model.double, [1]) == [2]


def test_models_that_were_long_not_asked_for_are_forgotten() -> None:
    used = shared_workers(("test", "used"), Model)
    forgotten = weakref.ref(shared_workers(("test", "forgotten"), Model))
    for n in range(100):
        shared_workers(("test", "variation", n), Model)
        assert shared_workers(("test", "used"), Model) is used
    gc.collect()
    assert forgotten() is None


def test_workers_are_shared_by_key() -> None:
    first = shared_workers(("test", 1), Model)
    assert shared_workers(("test", 1), Model) is first
    assert shared_workers(("test", 2), Model) is not first


FORK = """
import os
from manyeyes.primitives.workers import shared_workers

def double():
    return shared_workers("fork", object, per_thread=True).run(lambda _, value: 2 * value, [21])

assert double() == [42]
if (child := os.fork()) == 0:
    os._exit(0 if double() == [42] else 1)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_process_gets_threads_of_its_own() -> None:
    # In an interpreter of its own: the threads that models left in this one may hold locks that a fork would copy.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_packs_lose_nothing(size: int) -> None:
    packs = in_packs(list(range(7)), size)
    assert [value for pack in packs for value in pack] == list(range(7))
    assert all(len(pack) == size for pack in packs[:-1])
