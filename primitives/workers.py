"""Models shared by everything in a process, and the threads that run them.

Equal input must give equal bits, whatever else is in the batch. On a CPU a product's last bits depend on the shape of
the batch and on how many threads share it, but not on the other rows: so a model always gets the same number of rows (a
*pack*, padded), on one thread, and cores are used by running several packs at once. Measured on two cores, that is also
faster than letting the threads share each product.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, Generic, TypeVar

from manyeyes.primitives.cores import CORES

M = TypeVar("M")
T = TypeVar("T")
R = TypeVar("R")

_MOST_THREADS = 16
_LOOK_S = 1.0
_MOST_SHARED = 32
"""Models kept in a process: callers of a service may ask for many variations of one, each loaded by itself."""


class ModelWorkers(Generic[M]):
    """A model, loaded when it is first needed, and its threads.

    load: returns the model. per_thread: each thread loads one for itself, because the model cannot be shared; a model
    that can be must not change when it is run. n_threads: at most so many; by default one a core. on_cores: whether the
    work keeps a core busy; else another processor does it.
    """

    def __init__(
        self,
        load: Callable[[], M],
        *,
        per_thread: bool = False,
        n_threads: int = _MOST_THREADS,
        on_cores: bool = True,
    ) -> None:
        self._load = load
        self._budget = CORES if on_cores else nullcontext()
        self._per_thread = per_thread
        self._lock = threading.Lock()
        self._own = threading.local()
        self._model: M | None = None
        self._copies: list[M] = []
        self._answers: dict[str, Any] = {}
        self._n_threads = min(len(os.sched_getaffinity(0)), n_threads)
        self._threads: list[threading.Thread] = []
        self._pool = self._new_pool()

    def run(self, work: Callable[[M, T], R], packs: Sequence[T]) -> list[R]:
        """Return ``work(model, pack)`` for each pack, in order; the first error that one raises is raised here."""

        def one(pack: T) -> R:
            model = self._get()
            with self._budget:
                return work(model, pack)

        pool, threads = self._living(), self._threads
        futures = [pool.submit(one, pack) for pack in packs]
        try:
            return [_result(future, threads) for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def ask(self, question: Callable[[M], R]) -> R:
        """Return what a question about the model is answered with; at once, unless only its own thread may touch it."""
        if self._per_thread:
            return self._living().submit(lambda: question(self._get())).result()
        return question(self._get())

    def recall(self, name: str, question: Callable[[M], R]) -> R:
        """Return the same as `ask`, asking only once: for what never changes, where waiting for a thread would cost."""
        if name not in self._answers:
            self._answers[name] = self.ask(question)
        answer: R = self._answers[name]
        return answer

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._model is not None or bool(self._copies)

    def _new_pool(self) -> ThreadPoolExecutor:
        threads = self._threads = []

        def begin() -> None:
            threads.append(threading.current_thread())
            one_core()

        return ThreadPoolExecutor(self._n_threads, thread_name_prefix="manyeyes-model", initializer=begin)

    def _living(self) -> ThreadPoolExecutor:
        """Return the threads; new ones where one has died, which an executor would wait for without end."""
        with self._lock:
            if not all(thread.is_alive() for thread in list(self._threads)):
                self._pool.shutdown(wait=False)
                self._pool = self._new_pool()
            return self._pool

    def _get(self) -> M:
        if self._per_thread:
            if not hasattr(self._own, "model"):
                with self._lock:
                    self._own.model = self._load()
                    self._copies.append(self._own.model)
            model: M = self._own.model
            return model
        with self._lock:
            if self._model is None:
                self._model = self._load()
            return self._model


def _result(future: Future[R], threads: Sequence[threading.Thread]) -> R:
    """Wait for a result. Raises SystemError if a thread died meanwhile: it may have been the one that had it."""
    while True:
        try:
            return future.result(timeout=_LOOK_S)
        except TimeoutError:
            if future.done():
                return future.result()
            if not all(thread.is_alive() for thread in list(threads)):
                raise SystemError("a thread of the model died") from None


def one_core() -> None:
    """Keep torch from splitting one product over several threads: for all of the process, as far as MKL goes."""
    import torch

    torch.set_num_threads(1)


_shared: OrderedDict[Hashable, ModelWorkers[Any]] = OrderedDict()
_inherited: list[dict[Hashable, ModelWorkers[Any]]] = []
_shared_lock = threading.Lock()


def shared_workers(
    key: Hashable,
    load: Callable[[], M],
    *,
    per_thread: bool = False,
    n_threads: int | None = None,
    on_cores: bool = True,
) -> ModelWorkers[M]:
    """Return this process's workers for a model; `load` is used by the first who asks.

    Ask each time: threads do not survive a fork, and the child gets workers of its own here; and where there are many,
    the one that was asked for least recently is forgotten, and its memory is free once nobody uses it.
    """
    with _shared_lock:
        if key not in _shared:
            _shared[key] = ModelWorkers(
                load, per_thread=per_thread, n_threads=n_threads or _MOST_THREADS, on_cores=on_cores
            )
        _shared.move_to_end(key)
        if len(_shared) > _MOST_SHARED:
            _shared.popitem(last=False)
        return _shared[key]


def _after_fork_in_child() -> None:
    global _shared, _shared_lock
    _shared_lock = threading.Lock()
    # Never destroyed: some engines wait for their own threads then, which are not in this process.
    _inherited.append(_shared)
    _shared = OrderedDict()


os.register_at_fork(after_in_child=_after_fork_in_child)


def in_packs(values: Sequence[T], size: int) -> list[Sequence[T]]:
    """Cut a sequence into packs of `size`; the last may be shorter, and is for the model to pad.

    >>> in_packs("abcde", 2)
    ['ab', 'cd', 'e']
    """
    return [values[start : start + size] for start in range(0, len(values), size)]
