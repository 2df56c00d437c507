"""What an engine is: whoever works on shards. What a shard is, and how it is committed, is the same for all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, Final, Protocol, Self, TypeAlias, TypeVar, cast

from manyeyes.errors import ManyeyesError, StorageFailed, StorageFull
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import EngineSpec, Shard
from manyeyes.service.jobs.work.worker import OnRows, Outcome, WorkSpec

T = TypeVar("T")
OnOutcome: TypeAlias = Callable[[Shard, Outcome], None]
"""Called with what came of each shard, once each and one at a time, by any thread; raises nothing."""


class Engine(Protocol):
    """Works on shards, several at once. Used by one thread, for one pass after the other, and closed at the end."""

    def run(
        self,
        shards: Iterable[Shard],
        spec: WorkSpec,
        on_outcome: OnOutcome,
        stop: threading.Event,
        *,
        on_rows: OnRows | None = None,
    ) -> None:
        """Work on shards until there is no more, or until ``stop`` is set; then return within seconds.

        Whoever dies meanwhile is replaced, and its shard done again. Raises MissingDependency, InvalidRequest or
        ServiceUnavailable if it cannot begin.
        """

    def call(self, function: Callable[..., T], *args: Any, stop: threading.Event) -> T:
        """Return what a function gives where the workers are, called beside them. function: of a module; picklable.

        Raises what it raises, and ServiceUnavailable if ``stop`` is set before it is done.
        """

    def close(self) -> None:
        """Free what is held."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


CRASHED: Final = "worker_failed"
"""The code of a shard whose worker died, or raised what nobody meant to raise."""
_MAY_PASS: Final = (ConnectionError, TimeoutError, StorageFailed)

BUILT_IN: Final = {
    "local": "manyeyes.service.jobs.engines.local:LocalEngine",
    "ray": "manyeyes.service.jobs.engines.ray:RayEngine",
}


def failed(shard: Shard, error: BaseException) -> Outcome:
    """Return the outcome of a shard whose worker raised, or could not even begin.

    What was raised on purpose and is no trouble of a network or a place would be the same with every other shard.
    """
    if isinstance(error, ManyeyesError):
        fatal = isinstance(error, StorageFull) or not isinstance(error, _MAY_PASS)
        return Outcome(shard.index, "error", code=error.code, message=str(error), fatal=fatal)
    return Outcome(shard.index, "error", code=CRASHED, message=f"{type(error).__name__}: {error}")


def open_engine(spec: EngineSpec, storage: Storage) -> Engine:
    """Return who works as the spec says; nothing is begun yet.

    Raises MissingDependency if it needs a package that is not installed, InvalidRequest if it cannot do what is said.
    """
    module, _, name = BUILT_IN[spec.name].partition(":")
    return cast(Engine, getattr(import_module(module), name)(spec, storage))
