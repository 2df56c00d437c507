"""What /readyz looks at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from manyeyes.errors import ManyeyesError
from manyeyes.service.operations.readiness import Check
from manyeyes.service.store.store import Store


def store_check(store: Store) -> Check:
    """Return a check that the database answers."""

    def check() -> str | None:
        try:
            store.ping()
        except ManyeyesError as error:
            # Not the message: it names the address of the database, and probes need no key.
            return f"the database does not answer ({error.code})"
        return None

    return check


class Stage(Protocol):
    """How a stage of the pipeline is.

    alive: whether all its threads run. beat_s: seconds since the last sign of life. busy: what is worked on.
    """

    @property
    def name(self) -> str: ...

    @property
    def alive(self) -> bool: ...

    @property
    def beat_s(self) -> float: ...

    @property
    def busy(self) -> int: ...


def stages_check(stages: Callable[[], Sequence[Stage]], *, stale_after_s: float, busy_for_s: float) -> Check:
    """Return a check that every stage lives.

    stale_after_s: how old the sign of life of a stage may be that has nothing to do. busy_for_s: of one that works: a
    batch, or a model that is loaded, may take longer.
    """

    def check() -> str | None:
        wrong = []
        for stage in stages():
            most_s = max(stale_after_s, busy_for_s) if stage.busy else stale_after_s
            if not stage.alive:
                wrong.append(f"{stage.name}: a thread died and is being replaced")
            elif stage.beat_s > most_s:
                wrong.append(f"{stage.name}: no sign of life for {stage.beat_s:.0f} s")
        return "; ".join(wrong) or None

    return check


def drain_check(draining: Callable[[], bool]) -> Check:
    """Return a check that the service is not on its way down."""
    return lambda: "on its way down: nothing new is taken" if draining() else None
