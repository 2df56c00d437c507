"""Labels the items of calls off the event loop: ready Labelers, one call at a time each, and a short waiting line.

A call that fits no more into the line is told when to come back, before its body is read where that can be. A caller
that is gone when its turn comes is passed over.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect

from manyeyes.errors import ServiceUnavailable
from manyeyes.labeler import Labeler, extractor_for
from manyeyes.primitives.cache import Cache
from manyeyes.service.errors import Refusal
from manyeyes.service.items import Read
from manyeyes.service.recipes import ServedRecipe
from manyeyes.service.settings import ServiceSettings
from manyeyes.types import Item, Label, Versions

_MAX_RETRY_AFTER_S = 60


@dataclass(slots=True)
class _Ready:
    """A recipe's Labeler, made when it is first used, and the lock under which it labels one call at a time."""

    lock: anyio.Lock = field(default_factory=anyio.Lock)
    labeler: Labeler | None = None


class LabelingLine:
    """Everything that is being labeled or waits for it."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self.n_waiting = 0
        self._ready: OrderedDict[tuple[str, str, int], _Ready] = OrderedDict()
        self._threads = anyio.CapacityLimiter(settings.workers)
        self._call_s = 1.0

    def refuse_if_full(self) -> None:
        """Raise ServiceUnavailable, with the time to come back, if no further call fits into the line."""
        if self.n_waiting >= self.settings.max_waiting:
            wait_s = self._call_s * self.n_waiting / self.settings.workers
            raise Refusal(
                ServiceUnavailable(
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
    ) -> tuple[list[Label], Versions]:
        """Return one label for each row, in order, and what made them.

        rows: (id, item or what is wrong with it). is_gone: asked when the call's turn comes.
        Raises ServiceUnavailable if the line is full, ClientDisconnect if the caller is gone.
        """
        self.refuse_if_full()
        self.n_waiting += 1
        try:
            ready = self._ready_for(served)
            async with ready.lock:
                if await is_gone():
                    raise ClientDisconnect
                started = time.perf_counter()
                labels = await anyio.to_thread.run_sync(
                    self._label, rows, served, ready, limiter=self._threads
                )
                # What the next caller may expect: recent calls count most.
                self._call_s += 0.2 * (time.perf_counter() - started - self._call_s)
                return labels
        finally:
            self.n_waiting -= 1

    def warm(self, served: ServedRecipe) -> None:
        """Load every model that a recipe needs, by labeling one small item; for the time before the first call."""
        import base64

        from manyeyes.service.schemas import PIXEL

        item = Item(id="warm", image=base64.b64decode(PIXEL), text="warm")
        self._label([("warm", item)], served, self._ready_for(served))

    def _ready_for(self, served: ServedRecipe) -> _Ready:
        ready = self._ready.setdefault(served.key, _Ready())
        self._ready.move_to_end(served.key)
        while len(self._ready) > self.settings.max_labelers:
            self._ready.popitem(last=False)
        return ready

    def _label(
        self, rows: Sequence[tuple[str, Read]], served: ServedRecipe, ready: _Ready
    ) -> tuple[list[Label], Versions]:
        if ready.labeler is None:
            ready.labeler = make_labeler(served, self.settings)
        labels = ready.labeler.label([read for _, read in rows if isinstance(read, Item)])
        made = iter(labels)
        return [
            next(made) if isinstance(read, Item) else Label(id=name, status="error", error=read)
            for name, read in rows
        ], labels.versions


def make_labeler(served: ServedRecipe, settings: ServiceSettings) -> Labeler:
    """Return the Labeler of a recipe, with the service's limits and the cache that all ways in share.

    Raises InvalidRecipe if an LF cannot be built, or the stored label model was fitted for other LFs.
    """
    labeler = Labeler(
        served.recipe,
        extractor=extractor_for(served.recipe, cache=Cache(), limits=settings.limits),
    )
    return labeler if served.label_model is None else labeler.load_label_model(served.label_model)
