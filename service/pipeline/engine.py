"""Labels the items of calls off the event loop.

A call is let in or told when to come back (:mod:`admission`), answered at once where the cache holds all it needs, and
else waits at a gate (:mod:`gate`) until its images may be decoded (:mod:`decoding`) and its inputs queued in front of
the models (:mod:`lines`), where they meet those of other calls. Then its labeling functions vote, on its own thread.
"""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from manyeyes.fitting import Collected
from manyeyes.labeler import Labeler, extractor_for
from manyeyes.primitives.base import PrimitiveSpec
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.extractor import Extractor, Options
from manyeyes.primitives.reading import Decode
from manyeyes.service.intake.items import Read
from manyeyes.service.operations.observer import NOBODY, Observer
from manyeyes.service.pipeline.decoding import Decoding
from manyeyes.service.pipeline.keeping import LateCache
from manyeyes.service.pipeline.lanes import Lane
from manyeyes.service.pipeline.lines import Lines
from manyeyes.service.pipeline.stage import StageState, Watch
from manyeyes.service.pipeline.tickets import Uncached, ticket_here
from manyeyes.service.pipeline.together import (
    Rows,
    all_cached,
    is_shareable,
    is_small,
)
from manyeyes.service.pipeline.turns import Turns
from manyeyes.service.pipeline.working import (
    Labeled,
    Seen,
    collect,
    errors_of,
    item_of,
    label_together,
    see_together,
)
from manyeyes.service.recipes import ServedRecipe
from manyeyes.service.settings import ServiceSettings
from manyeyes.types import Item

__all__ = ["Engine", "Labeled", "Seen", "make_labeler"]

_STEP: Final = 16
"""Inputs of one call that go to a model together; those of other calls join them in the line."""
_RECENT_S: Final = 60.0
_MOST_EXTRACTORS: Final = 32


@dataclass(slots=True)
class _Ready:
    """A recipe's Labeler, made when it is first used.

    used: whether a call was labeled: its models are loaded then. lane: of calls that are labeled together; None where
    each is by itself.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    labeler: Labeler | None = None
    used: bool = False
    lane: Lane | None = None


@dataclass(slots=True)
class _Seeing:
    """An extractor for calls without a recipe. lanes: the features asked for → the calls that ask for them together.

    A lane is there once a call was served, and models are loaded.
    """

    extractor: Extractor
    lanes: dict[tuple[str, ...], Lane] = field(default_factory=dict)


class Engine:
    """Everything that is being labeled or waits for it. Safe to use from any thread and event loop.

    observer: is told of the work. decode: how an image becomes pixels; by default on a thread of this process.
    """

    def __init__(
        self, settings: ServiceSettings, *, observer: Observer = NOBODY, decode: Decode | None = None
    ) -> None:
        self.settings = settings
        self.observer = observer
        self.watch = Watch()
        self.decoding = Decoding(settings.decode_threads, observer=observer)
        self.watch.stages.append(self.decoding)  # type: ignore[arg-type]
        self.lines = Lines(
            max_batch=settings.max_batch,
            watch=self.watch,
            observer=observer,
            more_comes=self.decoding.has_work,
        )
        self.turns = Turns(settings, partial(_predict, self.lines, self.decoding), observer=observer)
        self.gate, self.admission = self.turns.gate, self.turns.admission
        self._decode = decode
        self._cache: list[LateCache] = []  # one, opened when it is first needed
        self._ready: OrderedDict[tuple[str, str, int], _Ready] = OrderedDict()
        self._extractors: OrderedDict[str, _Seeing] = OrderedDict()
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        # None of these holds the engine, so that one that is forgotten ends its threads.
        parts = (self.watch, self.decoding, self.lines, self.turns)
        self._finalizer = weakref.finalize(self, _close, parts, self._cache)

    @property
    def n_waiting(self) -> int:
        """Calls that are labeled or wait."""
        return self.admission.n_calls

    def admit(self, *, n_items: int = 0, n_bytes: int = 0) -> None:
        """Raise Overloaded, with the time to come back, if a call of so many items and bytes does not fit in.

        Raises ServiceUnavailable while the service drains. Costs nearly nothing: ask before reading a body, too.
        """
        self.admission.check(n_items, n_bytes)

    async def label(
        self,
        rows: Sequence[tuple[str, Read]],
        served: ServedRecipe,
        *,
        is_gone: Callable[[], Awaitable[bool]],
    ) -> Labeled:
        """Return one label for each row, in order, and what made them.

        rows: (id, item or what is wrong with it). is_gone: asked now and then.
        Raises Overloaded or ServiceUnavailable if the call is not let in, DeadlineExceeded if it takes too long,
        ClientDisconnect if the caller is gone.
        """
        ready = self._ready_for(served)
        if ready.lane is not None and is_small(rows):
            labeled: Labeled = await self.turns.share(*_size(rows), is_gone, ready.lane, rows)
            return labeled
        return await self.turns.take(*_size(rows), is_gone, lambda: self._label(rows, served, ready))

    async def collect(
        self,
        rows: Sequence[tuple[str, Read]],
        served: ServedRecipe,
        *,
        is_gone: Callable[[], Awaitable[bool]],
    ) -> Collected:
        """Return what the LFs of a recipe say of each row, in order; its errors hold those of reading, too.

        Raises as ``label`` does.
        """
        ready = self._ready_for(served)
        return await self.turns.take(*_size(rows), is_gone, lambda: self._collect(rows, served, ready))

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
        Raises as ``label`` does.
        """
        seeing = self._seeing(specs)
        lane = seeing.lanes.get(tuple(needs))
        if lane is not None and is_small(rows):
            seen: Seen = await self.turns.share(*_size(rows), is_gone, lane, rows)
            return seen
        return await self.turns.take(*_size(rows), is_gone, lambda: _see(seeing, rows, needs))

    def warm(self, served: ServedRecipe) -> None:
        """Load every model that a recipe needs, by labeling one small item; for the time before the first call."""
        import base64

        from manyeyes.service.schemas.labels import PIXEL

        item = Item(id="warm", image=base64.b64decode(PIXEL), text="warm")
        self._label([("warm", item)], served, self._ready_for(served))

    def stages(self) -> list[StageState]:
        """Return how the threads of the pipeline are: those that decode, and one line a loaded model."""
        return [self.decoding.state(), *(line.state() for line in self.lines.all())]

    def sing(self, line: str, timeout_s: float) -> None:
        """Send a made input through a line and wait for it. Raises what the model raises; nothing if it is gone.

        Blocks: not for a loop. Raises CallOver if it is not through in time; it is then in nobody's way.
        """
        found = self.lines.named(line)
        if found is not None:
            copy_context().run(found.sing, timeout_s)

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""
        return self.admission.draining

    def drain(self, timeout_s: float | None = None) -> bool:
        """Take nothing new, and wait for what was taken; return whether all of it is done. Blocks: not for a loop.

        timeout_s: how long to wait; by default as the settings say.
        """
        wait_s = self.settings.drain_timeout_s if timeout_s is None else timeout_s
        done = self.admission.drain(wait_s)
        for cache in self._cache:
            cache.flush()
        return done

    def close(self) -> None:
        """End every thread, and write what is not written yet. What still waits fails."""
        self._finalizer()

    def _kept(self) -> LateCache:
        with self._opening:
            if not self._cache:
                self._cache.append(LateCache())
            return self._cache[0]

    def _means(self) -> Options:
        """Return how the extractors of this service work: over shared threads and lines."""
        return Options(
            cache=self._kept(),
            limits=self.settings.limits,
            batch_size=_STEP,
            threads=self.decoding,
            run=self.lines,
            decode=self._decode,
        )

    def _ready_for(self, served: ServedRecipe) -> _Ready:
        with self._lock:
            ready = self._ready.setdefault(served.key, _Ready())
            self._ready.move_to_end(served.key)
            while len(self._ready) > self.settings.max_labelers:
                self._ready.popitem(last=False)
            return ready

    def _labeler(self, served: ServedRecipe, ready: _Ready) -> Labeler:
        if not ready.used and ticket_here().cached_only:
            raise Uncached  # models may have to be loaded, and that would keep others from what is cached
        with ready.lock:
            if ready.labeler is None:
                ready.labeler = make_labeler(served, self.settings, self._means())
        return ready.labeler

    def _was_used(self, served: ServedRecipe, ready: _Ready) -> None:
        """Note that a recipe's models are loaded; from now on its small calls may share their work."""
        labeler = ready.labeler
        if ready.used or labeler is None:
            return
        if labeler.label_model is not None and is_shareable(labeler.extractor):
            # Nothing in a lane holds the engine.
            ready.lane = Lane(
                partial(label_together, labeler=labeler, served=served, observer=self.observer),
                partial(all_cached, labeler.extractor, labeler.needs),
            )
        ready.used = True

    def _label(self, rows: Rows, served: ServedRecipe, ready: _Ready) -> Labeled:
        labeler = self._labeler(served, ready)
        labeled = label_together([rows], labeler, served, self.observer)[0]
        self._was_used(served, ready)
        return labeled

    def _collect(self, rows: Rows, served: ServedRecipe, ready: _Ready) -> Collected:
        labeler = self._labeler(served, ready)
        # An item of nothing holds the place of a row that could not be read.
        items = [item_of(name, read) for name, read in rows]
        found = collect(items, labeler, served, self.observer)
        self._was_used(served, ready)
        return replace(found, errors=errors_of(rows, found.errors))

    def _seeing(self, specs: Mapping[str, PrimitiveSpec]) -> _Seeing:
        key = json.dumps({name: spec.model_dump(mode="json") for name, spec in sorted(specs.items())})
        with self._lock:
            found = self._extractors.get(key)
        if found is None:
            found = _Seeing(Extractor.for_specs(specs, **self._means()))
        with self._lock:
            found = self._extractors.setdefault(key, found)
            self._extractors.move_to_end(key)
            while len(self._extractors) > _MOST_EXTRACTORS:
                self._extractors.popitem(last=False)
            return found


def _see(seeing: _Seeing, rows: Rows, needs: Sequence[str]) -> Seen:
    extractor, key = seeing.extractor, tuple(needs)
    seen = see_together([rows], extractor, needs)[0]
    if key not in seeing.lanes and is_shareable(extractor):
        work = partial(see_together, extractor=extractor, needs=key)
        seeing.lanes[key] = Lane(work, partial(all_cached, extractor, key))
    return seen


def _predict(lines: Lines, decoding: Decoding, n_items: int) -> float:
    """Return the seconds until so many items are done: of the slowest of the stages that worked lately."""
    since = time.monotonic() - _RECENT_S
    times = [line.fit.predict(n_items, most=line.most) for line in lines.all() if line.fit.last > since]
    if decoding.fit.last > since:
        times.append(decoding.fit.predict(n_items, most=1))
    return max(times, default=0.0)


def _size(rows: Sequence[tuple[str, Read]]) -> tuple[int, int]:
    """Return the items and the bytes of a call."""
    items = [read for _, read in rows if isinstance(read, Item)]
    return len(rows), sum(
        (len(item.image) if isinstance(item.image, bytes) else 0) + len(item.text or "") for item in items
    )


def _close(parts: Sequence[Any], caches: Sequence[LateCache]) -> None:
    for part in parts:
        part.close()
    for cache in caches:
        cache.stop()


def make_labeler(served: ServedRecipe, settings: ServiceSettings, means: Options | None = None) -> Labeler:
    """Return the Labeler of a recipe, with the service's limits and the cache that all ways in share.

    means: how it works; by default by itself. Raises InvalidRecipe if an LF cannot be built, or the stored label model
    was fitted for other LFs.
    """
    means = means or Options(cache=Cache(), limits=settings.limits)
    labeler = Labeler(served.recipe, extractor=extractor_for(served.recipe, **means))
    return labeler if served.label_model is None else labeler.load_label_model(served.label_model)
