"""Lines: one queue and one thread in front of each model, shared by all calls and all recipes that use it.

One thread a core where a model sees few inputs in one pass, and more at once would make none of them cheaper: each
takes one pass, so that a core that is free need not wait until a batch on the others is done.

What is ready is taken at once, however little it is: while the model works, the next batch gathers by itself. An input
gives the same bits whatever is in its batch, because models fill their passes up to one size. A pass that is not full
costs as much as a full one, though, so it waits while images are still being decoded: they need the core more.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from manyeyes.errors import ManyeyesError
from manyeyes.primitives.base import DependentPrimitive, Outcome, PreparingPrimitive, Primitive, SideBySide
from manyeyes.primitives.computing import Pending, Poison, failed_alone, outcomes_of, run_here
from manyeyes.primitives.cores import CORES
from manyeyes.primitives.features import Layout
from manyeyes.service.operations.observer import NOBODY, Observer
from manyeyes.service.operations.spans import Place, here, record
from manyeyes.service.pipeline.estimate import Fit
from manyeyes.service.pipeline.stage import BEAT_S, Stage, Watch
from manyeyes.service.pipeline.tickets import TICKET, Ticket, ticket_here

_LIVES: Final = 2
_MOST_LINES: Final = 64
_MOST_THREADS: Final = 16
_PATIENCE_S: Final = 0.05
_DIGEST: Final = re.compile(r"([0-9a-f]{8})[0-9a-f]{8,}")


class Together:
    """The inputs of one call that wait in a line together, and what came of each."""

    def __init__(self, ticket: Ticket, values: Sequence[Any]) -> None:
        self.ticket = ticket
        self.place: Place | None = here()
        self.outcomes: list[Outcome | Poison] = [None] * len(values)
        self.error: BaseException | None = None
        self._left = len(values)
        self._lock = threading.Lock()
        self._done = threading.Event()
        self.inputs = [Input(self, i, value) for i, value in enumerate(values)]

    def put(self, index: int, outcome: Outcome | Poison) -> None:
        """Take what came of one input."""
        self.outcomes[index] = outcome
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self._done.set()

    def fail(self, error: BaseException) -> None:
        """Take what concerns all of them."""
        self.error = self.error or error
        self._done.set()

    def wait(self) -> list[Outcome | Poison]:
        """Return what came of each. Raises CallOver if nobody waits for the call any more."""
        while not self._done.wait(BEAT_S / 2):
            self.ticket.check()
        if self.error is not None:
            raise self.error
        return self.outcomes


class Input:
    """One input in a line."""

    __slots__ = ("index", "lives", "queued", "ticket", "together", "value")

    def __init__(self, together: Together, index: int, value: Any) -> None:
        self.together = together
        self.ticket = together.ticket
        self.index = index
        self.value = value
        self.lives = _LIVES
        self.queued = time.perf_counter()

    def fail(self, error: BaseException) -> None:
        """Tell whoever waits: what a thread died of is this input's own error, all else is the call's."""
        if isinstance(error, SystemError):
            self.together.put(self.index, Poison(error))
        else:
            self.together.fail(error)


class Line(Stage[Input]):
    """The queue in front of one model. layout: of its rows. fit: how long its batches take."""

    def __init__(
        self,
        primitive: Primitive,
        layout: Layout,
        *,
        max_batch: int,
        observer: Observer,
        more_comes: Callable[[], bool] = lambda: False,
    ) -> None:
        self.primitive = primitive
        self.layout = layout
        self.fit = Fit()
        self.used = time.monotonic()
        self._more_comes = more_comes
        a_pass = primitive.side_by_side if isinstance(primitive, SideBySide) else 0
        super().__init__(
            line_name(primitive),
            n_threads=min(CORES.n_cores, _MOST_THREADS) if a_pass else 1,
            most=min(a_pass or max_batch, max_batch),
            limit=8 * max_batch,
            observer=observer,
        )

    def submit(self, values: Sequence[Any]) -> Together:
        """Queue inputs for the call in hand."""
        ticket = ticket_here()
        ticket.check()
        self.used = time.monotonic()
        together = Together(ticket, values)
        self.bring(together.inputs)
        self.observer.queued(self.name, len(self._queue))
        return together

    def ready(self) -> bool:
        """Return whether a pass is full, or there is nothing to wait for."""
        if len(self._queue) >= self.most or len(self._threads) == 1 or self.primitive.modality == "text":
            return True
        return not self._more_comes() or time.perf_counter() - self._queue[0].queued > _PATIENCE_S

    def do(self, entries: list[Input]) -> None:
        """Compute a batch; where it fails, only the inputs that fail alone are told so."""
        if self.primitive.modality == "text":
            # Texts of like length in one pass need the least padding.
            entries.sort(key=lambda entry: len(entry.value))
        started = time.perf_counter()
        for entry in entries:
            self.observer.waited(self.name, started - entry.queued)
        try:
            outcomes = outcomes_of(
                self.primitive, self.layout, [entry.value for entry in entries], lambda _: None
            )
        except ManyeyesError as error:
            for entry in entries:
                entry.fail(error)
            return
        finally:
            ended = time.perf_counter()
            # Where several threads serve the line, it gets on by so many batches in that time.
            self.fit.add(len(entries), (ended - started) / len(self._threads))
            self.observer.inferred(self.name, len(entries), ended - started)
            self.observer.queued(self.name, len(self._queue))
        for together in {id(entry.together): entry.together for entry in entries}.values():
            record(
                together.place, "queue", min(one.queued for one in together.inputs), started, line=self.name
            )
            record(together.place, "infer", started, ended, line=self.name, batch=len(entries))
        for entry, outcome in zip(entries, outcomes, strict=True):
            entry.value = None
            entry.together.put(entry.index, outcome)

    def sing(self, timeout_s: float) -> None:
        """Send a made input through, and wait for it. Raises what the model raises on it, CallOver if it takes long.

        Makes a ticket of its own, which whoever calls has no use for: run it in a copy of the context.
        """
        TICKET.set(Ticket(time.monotonic() + timeout_s))
        (outcome,) = self.submit([canary_of(self.primitive)]).wait()
        if isinstance(outcome, Poison):
            raise outcome.error
        if isinstance(outcome, Exception):
            raise outcome


class Lines:
    """The lines of a service, opened as they are needed. It is how an Extractor's batches are run.

    more_comes: whether inputs are still being made, so that a pass that is not full may wait for them.
    """

    def __init__(
        self,
        *,
        max_batch: int,
        watch: Watch,
        observer: Observer = NOBODY,
        more_comes: Callable[[], bool] = lambda: False,
    ) -> None:
        self._more_comes = more_comes
        self.max_batch = max_batch
        self.observer = observer
        self._watch = watch
        self._lines: dict[str, Line] = {}
        self._lock = threading.Lock()

    def __call__(
        self,
        feature: str,
        primitive: Primitive,
        layout: Layout,
        batch: Sequence[Any],
        count: Callable[[int], None],
    ) -> Pending:
        """Queue a batch of one call; see :class:`manyeyes.primitives.computing.Run`."""
        if hasattr(primitive, "batch_size"):
            # It has a line of its own behind it, and keeps count of what each recipe may spend.
            ticket_here().check()
            return run_here(feature, primitive, layout, batch, count)
        together = self.line_for(primitive, layout).submit(batch)
        count(len(batch))
        return lambda: [
            failed_alone(feature, one) if isinstance(one, Poison) else one for one in together.wait()
        ]

    def line_for(self, primitive: Primitive, layout: Layout) -> Line:
        """Return the line of a primitive; equal versions share one, and one set of weights."""
        with self._lock:
            line = self._lines.get(primitive.version)
            if line is None:
                line = Line(
                    primitive,
                    layout,
                    max_batch=self.max_batch,
                    observer=self.observer,
                    more_comes=self._more_comes,
                )
                self._lines[primitive.version] = line
                self._watch.stages.append(line)  # type: ignore[arg-type]
                self._forget_idle()
            return line

    def all(self) -> list[Line]:
        """Return the lines there are, in the order in which they were opened."""
        with self._lock:
            return list(self._lines.values())

    def named(self, name: str) -> Line | None:
        """Return a line by name, or None if there is none."""
        return next((line for line in self.all() if line.name == name), None)

    def close(self) -> None:
        """Close every line."""
        for line in self.all():
            line.close()

    def _forget_idle(self) -> None:
        """Close the line that was used least recently, where there are too many: recipes come and go."""
        idle = sorted(
            (line.used, version)
            for version, line in self._lines.items()
            if not line.state().queued and not line.state().busy
        )
        if len(self._lines) > _MOST_LINES and idle:
            line = self._lines.pop(idle[0][1])
            self._watch.stages.remove(line)  # type: ignore[arg-type]
            line.close()


def line_name(primitive: Primitive) -> str:
    """Return what operators see of a line: the primitive's version, with digests cut to what tells them apart."""
    return _DIGEST.sub(r"\1", primitive.version)[:80]


def canary_of(primitive: Primitive) -> Any:
    """Return an input that any primitive of its modality can compute."""
    from PIL import Image

    from manyeyes.primitives.base import DecodedImage

    image = DecodedImage(Image.new("RGB", (64, 64), (128, 96, 64)), width=64, height=64, format="PNG")
    value = {"image": image, "text": "canary", "pair": (image, "canary")}[primitive.modality]
    if primitive.modality == "text" or not isinstance(primitive, PreparingPrimitive):
        return primitive.given(value, {}) if isinstance(primitive, DependentPrimitive) else value
    return primitive.prepare(value)
