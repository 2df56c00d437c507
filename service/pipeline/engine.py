"""Labels the items of calls off the event loop: ready Labelers, one call at a time each, and a short waiting line.

A call that fits no more into the line is told when to come back, before its body is read where that can be. A caller
that is gone when its turn comes is passed over.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect

from manyeyes.errors import ItemError, Overloaded
from manyeyes.fitting import Collected
from manyeyes.labeler import Labeler, extractor_for
from manyeyes.primitives.base import FeatureSet, PrimitiveSpec
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.extractor import Extractor
from manyeyes.service.errors import Refusal
from manyeyes.service.intake.items import Read
from manyeyes.service.recipes import ServedRecipe
from manyeyes.service.settings import ServiceSettings
from manyeyes.types import Item, Label, Versions

R = TypeVar("R")

_MAX_RETRY_AFTER_S = 60


@dataclass(slots=True)
class _Ready:
    """A recipe's Labeler, made when it is first used, and the lock under which it labels one call at a time."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    labeler: Labeler | None = None


@dataclass(frozen=True, slots=True)
class Labeled:
    """The labels of a call, one a row, and what made them.

    collected: what the LFs said of the rows that could be read, in their order; enough to fit a label model later.
    """

    labels: list[Label]
    versions: Versions
    collected: Collected


@dataclass(frozen=True, slots=True)
class Seen:
    """Features of the rows of a call. versions: feature → the version of what made it."""

    features: FeatureSet
    versions: Mapping[str, str]


class Engine:
    """Everything that is being labeled or waits for it."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.n_waiting = 0
        self._ready: OrderedDict[tuple[str, str, int], _Ready] = OrderedDict()
        self._threads = anyio.CapacityLimiter(settings.workers)
        self._call_s = 1.0

    def admit(self, *, n_items: int = 0, n_bytes: int = 0) -> None:
        """Raise Overloaded, with the time to come back, if a call of so many items and bytes does not fit in."""
        if self.n_waiting >= self.settings.max_waiting:
            wait_s = self._call_s * self.n_waiting / self.settings.workers
            raise Refusal(
                Overloaded(
                    f"{self.n_waiting} calls are being labeled or wait already; send this one again in a moment"
                ),
                retry_after_s=min(_MAX_RETRY_AFTER_S, max(1, math.ceil(wait_s))),
            )

    async def label(
        self,
        rows: Sequence[tuple[str, Read]],
        served: ServedRecipe,
        *,
        is_gone: Callable[[], Awaitable[bool]],
    ) -> Labeled:
        """Return one label for each row, in order, and what made them.

        rows: (id, item or what is wrong with it). is_gone: asked when the call's turn comes.
        Raises Overloaded if the line is full, ClientDisconnect if the caller is gone.
        """
        ready = self._ready_for(served)
        return await self._in_turn(ready, is_gone, lambda: self._label(rows, served, ready))

    async def collect(
        self,
        rows: Sequence[tuple[str, Read]],
        served: ServedRecipe,
        *,
        is_gone: Callable[[], Awaitable[bool]],
    ) -> Collected:
        """Return what the LFs of a recipe say of each row, in order; its errors hold those of reading, too."""
        ready = self._ready_for(served)
        return await self._in_turn(ready, is_gone, lambda: self._collect(rows, served, ready))

    async def see(
        self,
        rows: Sequence[tuple[str, Read]],
        specs: Mapping[str, PrimitiveSpec],
        needs: Sequence[str],
        *,
        is_gone: Callable[[], Awaitable[bool]],
    ) -> Seen:
        """Return features of each row, in order; its errors hold those of reading, too.

        specs: name → the primitives that give the features. needs: the features, such as "clip" and "clip.text".
        """
        return await self._in_turn(_Ready(), is_gone, lambda: self._see(rows, specs, needs))

    async def _in_turn(
        self, ready: _Ready, is_gone: Callable[[], Awaitable[bool]], work: Callable[[], R]
    ) -> R:
        self.admit()
        self.n_waiting += 1
        try:
            async with ready.lock:
                if await is_gone():
                    raise ClientDisconnect
                started = time.perf_counter()
                done = await anyio.to_thread.run_sync(work, limiter=self._threads)
                # What the next caller may expect: recent calls count most.
                self._call_s += 0.2 * (time.perf_counter() - started - self._call_s)
                return done
        finally:
            self.n_waiting -= 1

    def warm(self, served: ServedRecipe) -> None:
        """Load every model that a recipe needs, by labeling one small item; for the time before the first call."""
        import base64

        from manyeyes.service.schemas.labels import PIXEL

        item = Item(id="warm", image=base64.b64decode(PIXEL), text="warm")
        self._label([("warm", item)], served, self._ready_for(served))

    def _ready_for(self, served: ServedRecipe) -> _Ready:
        ready = self._ready.setdefault(served.key, _Ready())
        self._ready.move_to_end(served.key)
        while len(self._ready) > self.settings.max_labelers:
            self._ready.popitem(last=False)
        return ready

    def _label(self, rows: Sequence[tuple[str, Read]], served: ServedRecipe, ready: _Ready) -> Labeled:
        if ready.labeler is None:
            ready.labeler = make_labeler(served, self.settings)
        collected = ready.labeler.collect([read for _, read in rows if isinstance(read, Item)])
        labels = ready.labeler.fuse(collected)
        made = iter(labels)
        return Labeled(
            labels=[
                next(made) if isinstance(read, Item) else Label(id=name, status="error", error=read)
                for name, read in rows
            ],
            versions=labels.versions,
            collected=collected,
        )

    def _collect(self, rows: Sequence[tuple[str, Read]], served: ServedRecipe, ready: _Ready) -> Collected:
        if ready.labeler is None:
            ready.labeler = make_labeler(served, self.settings)
        # An item of nothing holds the place of a row that could not be read.
        collected = ready.labeler.collect([_item_of(name, read) for name, read in rows])
        return replace(collected, errors=_errors_of(rows, collected.errors))

    def _see(
        self, rows: Sequence[tuple[str, Read]], specs: Mapping[str, PrimitiveSpec], needs: Sequence[str]
    ) -> Seen:
        extractor = Extractor.for_specs(specs, cache=Cache(), limits=self.settings.limits)
        features = extractor.extract([_item_of(name, read) for name, read in rows], needs)
        return Seen(
            features=replace(features, errors=_errors_of(rows, features.errors)),
            versions=extractor.versions(needs),
        )


def _item_of(name: str, read: Read) -> Item:
    return read if isinstance(read, Item) else Item(id=name)


def _errors_of(rows: Sequence[tuple[str, Read]], found: Mapping[int, ItemError]) -> dict[int, ItemError]:
    unread = {n: read for n, (_, read) in enumerate(rows) if isinstance(read, ItemError)}
    return dict(sorted({**found, **unread}.items()))


def make_labeler(served: ServedRecipe, settings: ServiceSettings) -> Labeler:
    """Return the Labeler of a recipe, with the service's limits and the cache that all ways in share.

    Raises InvalidRecipe if an LF cannot be built, or the stored label model was fitted for other LFs.
    """
    labeler = Labeler(
        served.recipe,
        extractor=extractor_for(served.recipe, cache=Cache(), limits=settings.limits),
    )
    return labeler if served.label_model is None else labeler.load_label_model(served.label_model)
