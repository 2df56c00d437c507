"""Labels of any number of items: calls of some items each, several at once, answers in order, memory bounded.

This is what the streams over threads and over tasks share: everything but sending and waiting.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, TypeAlias, TypedDict, TypeVar

from manyeyes.client.base import new_key
from manyeyes.client.items import Labelable, made_up_id
from manyeyes.client.progress import Bar
from manyeyes.client.results import LabelResult
from manyeyes.errors import (
    DeadlineExceeded,
    ImageTooLarge,
    InvalidItem,
    InvalidRequest,
    ItemError,
    ManyeyesError,
    RequestTooLarge,
    ServiceFailed,
    ServiceUnavailable,
)
from manyeyes.types import Label, Versions

OnError: TypeAlias = Literal["raise", "rows"]
BATCH_SIZE: Final = 64
MAX_IN_FLIGHT: Final = 4
LEAST_RETRIES: Final = 8
_PASSING: Final = (ServiceUnavailable, DeadlineExceeded, ServiceFailed, InvalidRequest)
"""What ends one call and not every call."""

H = TypeVar("H")


class Streaming(TypedDict, total=False):
    """Options of a stream; see ``Client.label_many``."""

    batch_size: int
    max_in_flight: int
    max_retries: int | None
    on_error: OnError
    store: bool | None
    progress: bool


@dataclass(slots=True)
class Batch(Generic[H]):
    """Items that travel together. number: from 0. first: the position of the first one. handle: of the call."""

    number: int
    first: int
    items: list[Labelable]
    handle: H | None = None


class Pace:
    """How many calls may be under way: one more a round that goes well, half as many when the service is busy.

    Source: additive increase, multiplicative decrease (Chiu & Jain 1989), as TCP does it: once a round.

    >>> pace = Pace(8)
    >>> pace.was_busy(0, newest=7); pace.was_busy(3, newest=7); pace.n_calls
    4
    >>> for _ in range(5): pace.went_well()
    >>> pace.n_calls
    5
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._limit = float(most)
        self._mending = -1
        self._lock = threading.Lock()

    @property
    def n_calls(self) -> int:
        """How many calls may be under way now."""
        return int(self._limit)

    def went_well(self) -> None:
        """A call was answered."""
        with self._lock:
            self._limit = min(self.most, self._limit + 1 / self._limit)

    def was_busy(self, number: int, *, newest: int) -> None:
        """Call ``number`` was turned away. newest: the last one that was begun by then."""
        with self._lock:
            # Calls that were under way already say nothing new.
            if number > self._mending:
                self._limit = max(1.0, self._limit / 2)
                self._mending = newest


class Flow(Generic[H]):
    """The batches under way, in order, and what came of those before.

    n_done: labels given so far. n_errors: of them, those with status "error". versions: what made them, each once;
    more than one label model means that items were fitted apart. batches: the ids of the calls whose
    labels the service keeps, to fit a label model on. label_id: of the label that was given last, to ``explain`` it by.
    """

    def __init__(
        self,
        items: object,
        *,
        recipe: str,
        batch_size: int,
        max_in_flight: int,
        on_error: OnError,
        store: bool | None,
        progress: bool,
    ) -> None:
        if batch_size < 1 or max_in_flight < 1:
            raise InvalidRequest(
                f"batch_size and max_in_flight are 1 or more, got {batch_size} and {max_in_flight}"
            )
        if on_error not in ("raise", "rows"):
            raise InvalidRequest(f"on_error is 'raise' or 'rows', got {on_error!r}")
        self.recipe = recipe
        self.store = store
        self.batch_size = batch_size
        self.on_error = on_error
        self.pace = Pace(max_in_flight)
        self.n_done = 0
        self.n_errors = 0
        self.recipe_name = ""
        self.versions: list[Versions] = []
        self.batches: list[str] = []
        self._window: deque[Batch[H]] = deque()
        self._rows: deque[tuple[Label, str | None]] = deque()
        self.label_id: str | None = None
        self._key = new_key()
        self._n_batches = 0
        self._n_read = 0
        self._broken: Exception | None = None
        self._exhausted = False
        size = getattr(items, "__len__", None)
        self._bar = Bar(size() if size is not None else None) if progress else None
        if self._bar is not None:
            weakref.finalize(self, self._bar.close)

    def _has_room(self) -> bool:
        return not self._exhausted and len(self._window) < self.pace.n_calls

    def _add(self, items: list[Labelable]) -> Batch[H] | None:
        """Put items that were read at the end of the line; none are the end of all."""
        self._exhausted = self._exhausted or len(items) < self.batch_size
        if not items:
            return None
        batch: Batch[H] = Batch(self._n_batches, self._n_read, items)
        self._n_batches += 1
        self._n_read += len(items)
        self._window.append(batch)
        return batch

    def _key_of(self, first: int, n_items: int) -> str:
        """Return the key of idempotency of a call: the same when it is sent again after an error was raised."""
        return f"{self._key}-{first}-{n_items}"

    def _end(self) -> Exception | None:
        """Return what the source of items ended with, once all that it gave before is labeled."""
        broken, self._broken = self._broken, None
        return broken

    def _take(self, batch: Batch[H], result: LabelResult) -> None:
        """Let go of a batch: its rows come next."""
        assert self._window[0] is batch
        self._window.popleft()
        self.pace.went_well()
        self._rows.extend(zip(result.labels, result.label_ids or (None,) * len(result), strict=True))
        self.batches += result.batches
        if result.versions.recipe:
            self.recipe_name = result.recipe
        if result.versions.recipe and result.versions not in self.versions:
            if len(self.versions) == 1:
                warnings.warn(
                    "the items of this stream are labeled by more than one version"
                    f" ({_differ(self.versions[0], result.versions)}). Where no label model is fitted, each call is"
                    " fitted by itself: fit one first",
                    RuntimeWarning,
                    stacklevel=4,
                )
            # More than a few say no more, and a stream may be endless.
            self.versions += [result.versions] if len(self.versions) < 16 else []

    def _failed(self, batch: Batch[H], error: ManyeyesError) -> None:
        """Make rows of a batch that failed, or raise; then the batch is sent again when the next label is asked for."""
        batch.handle = None
        if self.on_error == "raise" or not isinstance(error, _PASSING):
            raise error
        self._window.popleft()
        self._rows.extend((row, None) for row in error_rows(batch, error))

    def _next(self) -> Label:
        label, self.label_id = self._rows.popleft()
        self.n_done += 1
        self.n_errors += label.status == "error"
        if self._bar is not None:
            self._bar.advance(n_errors=self.n_errors)
        return label

    def _stop(self) -> None:
        self._exhausted = True
        self._window.clear()
        if self._bar is not None:
            self._bar.close()


def patient(ours: int, asked: int | None) -> int:
    """Return how often a call of a stream is sent again."""
    return max(ours, LEAST_RETRIES) if asked is None else asked


def joined(parts: Iterable[LabelResult]) -> LabelResult:
    """Return the results of the parts of one call, which was too large, as one."""
    results = list(parts)
    told = next((result for result in results if result.versions.recipe), results[0])
    return LabelResult(
        labels=tuple(label for result in results for label in result.labels),
        versions=told.versions,
        recipe=told.recipe,
        label_ids=tuple(id for result in results for id in result.label_ids or (None,) * len(result)),
        batches=tuple(batch for result in results for batch in result.batches),
    )


def alone(given: Labelable, position: int, error: RequestTooLarge) -> LabelResult:
    """Return the row of an item that is too large for a call by itself."""
    name = made_up_id(given, position)
    kind = InvalidItem if isinstance(given, str) else ImageTooLarge
    row = Label(id=name, status="error", error=_because(kind(f"by itself, {error}"), error))
    return LabelResult((row,), Versions(recipe=""), "")


def error_rows(batch: Batch[Any], error: ManyeyesError) -> list[Label]:
    """Return the rows of a batch whose call failed."""
    return [
        Label(
            id=made_up_id(given, batch.first + n),
            status="error",
            error=_because(ItemError(f"its call failed ({error.code}): {error}"), error),
        )
        for n, given in enumerate(batch.items)
    ]


def _because(told: ItemError, error: ManyeyesError) -> ItemError:
    told.__cause__ = error
    told.status, told.request_id, told.attempts = error.status, error.request_id, error.attempts
    return told


def _differ(one: Versions, other: Versions) -> str:
    if one.recipe != other.recipe:
        return f"recipe {one.recipe} and {other.recipe}"
    if one.label_model != other.label_model:
        return f"label model {one.label_model} and {other.label_model}"
    return "primitives"
