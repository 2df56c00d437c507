"""Labels of any number of items, over threads."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from manyeyes.client.flow import Batch, Flow, alone, joined, patient
from manyeyes.client.items import Labelable, check_items
from manyeyes.client.results import LabelResult
from manyeyes.client.workers import Workers
from manyeyes.errors import ManyeyesError, RequestTooLarge, ServiceUnavailable
from manyeyes.types import Label

if TYPE_CHECKING:
    from manyeyes.client.sync import Client


class LabelStream(Flow["Future[LabelResult]"], Iterator[Label]):
    """An iterator of labels, in the order of the items; see :meth:`Client.label_many`.

    After an error, ``next()`` goes on where it stopped. Close it, or use it as a context manager, to stop early.
    """

    def __init__(
        self, client: Client, items: Iterable[Labelable], *, max_retries: int | None, **options: Any
    ) -> None:
        check_items(items)
        super().__init__(items, **options)
        self._client = client.with_options(max_retries=patient(client.patience.max_retries, max_retries))
        self._items = iter(items)
        self._stopped = threading.Event()
        self._threads = Workers(self.pace.most, name="manyeyes-label-many")
        weakref.finalize(self, self._threads.close)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Label:
        while not self._rows:
            self._fill()
            if not self._window:
                broken = self._end()
                self.close()
                if broken is not None:
                    raise broken
                raise StopIteration
            head = self._window[0]
            if head.handle is None:
                head.handle = self._start(head)
            try:
                result = head.handle.result()
            except ManyeyesError as error:
                self._failed(head, error)
            except KeyboardInterrupt:
                # Or the threads would try on behind the back of whoever stopped.
                self.close()
                raise
            else:
                self._take(head, result)
            # Before its rows are given, so that the service has work while they are used.
            self._fill()
        return self._next()

    def close(self) -> None:
        """Stop: what is not sent yet is not sent, and what is being waited for is given up."""
        self._stopped.set()
        self._threads.close()
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fill(self) -> None:
        while self._has_room():
            items: list[Labelable] = []
            try:
                items.extend(islice(self._items, self.batch_size))
            except Exception as error:
                self._broken, self._exhausted = error, True
            batch = self._add(items)
            if batch is not None:
                batch.handle = self._start(batch)

    def _start(self, batch: Batch[Future[LabelResult]]) -> Future[LabelResult]:
        return self._threads.submit(self._label, batch.items, batch.first, batch.number)

    def _label(self, items: list[Labelable], first: int, number: int) -> LabelResult:
        try:
            return self._client._label(
                items,
                self.recipe,
                store=self.store,
                first=first,
                key=self._key_of(first, len(items)),
                pause=self._pause,
                on_busy=lambda: self.pace.was_busy(number, newest=self._n_batches - 1),
            )
        except RequestTooLarge as error:
            if len(items) == 1:
                return alone(items[0], first, error)
            half = len(items) // 2
            parts = (
                self._label(items[:half], first, number),
                self._label(items[half:], first + half, number),
            )
            return joined(parts)

    def _pause(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise ServiceUnavailable("the stream was closed while the service was busy")
