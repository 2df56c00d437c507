"""Labels of any number of items, for async code: tasks instead of threads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from manyeyes.client.flow import Batch, Flow, alone, joined, patient
from manyeyes.client.items import Labelable, check_items
from manyeyes.client.results import LabelResult
from manyeyes.errors import ManyeyesError, RequestTooLarge
from manyeyes.types import Label

if TYPE_CHECKING:
    from manyeyes.client.asynchronous import AsyncClient


class AsyncLabelStream(Flow["asyncio.Task[LabelResult]"], AsyncIterator[Label]):
    """An async iterator of labels, in the order of the items; see :meth:`Client.label_many`.

    After an error, ``anext()`` goes on where it stopped. Close it, or use it as a context manager, to stop early.
    """

    def __init__(
        self,
        client: AsyncClient,
        items: Iterable[Labelable] | AsyncIterable[Labelable],
        *,
        max_retries: int | None,
        **options: Any,
    ) -> None:
        super().__init__(items, **options)
        self._client = client.with_options(max_retries=patient(client.patience.max_retries, max_retries))
        if isinstance(items, AsyncIterable):
            self._later: AsyncIterator[Labelable] | None = aiter(items)
        else:
            check_items(items)
            self._later, self._items = None, iter(items)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Label:
        while not self._rows:
            await self._fill()
            if not self._window:
                broken = self._end()
                await self.close()
                if broken is not None:
                    raise broken
                raise StopAsyncIteration
            head = self._window[0]
            if head.handle is None:
                head.handle = self._start(head)
            try:
                # Shielded: who stops waiting for one label may ask for it again.
                result = await asyncio.shield(head.handle)
            except ManyeyesError as error:
                self._failed(head, error)
            else:
                self._take(head, result)
            await self._fill()
        return self._next()

    async def close(self) -> None:
        """Stop: what is under way is given up."""
        tasks = [batch.handle for batch in self._window if batch.handle is not None]
        self._stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _fill(self) -> None:
        while self._has_room():
            items: list[Labelable] = []
            try:
                if self._later is None:
                    items.extend(islice(self._items, self.batch_size))
                else:
                    while len(items) < self.batch_size:
                        items.append(await anext(self._later))
            except StopAsyncIteration:
                self._exhausted = True
            except Exception as error:
                self._broken, self._exhausted = error, True
            batch = self._add(items)
            if batch is not None:
                batch.handle = self._start(batch)

    def _start(self, batch: Batch[asyncio.Task[LabelResult]]) -> asyncio.Task[LabelResult]:
        task = asyncio.create_task(self._label(batch.items, batch.first, batch.number))
        # Where the stream is left early nobody asks a call how it ended, and asyncio would complain.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _label(self, items: list[Labelable], first: int, number: int) -> LabelResult:
        try:
            return await self._client._label(
                items,
                self.recipe,
                store=self.store,
                first=first,
                key=self._key_of(first, len(items)),
                on_busy=lambda: self.pace.was_busy(number, newest=self._n_batches - 1),
            )
        except RequestTooLarge as error:
            if len(items) == 1:
                return alone(items[0], first, error)
            half = len(items) // 2
            before = await self._label(items[:half], first, number)
            return joined((before, await self._label(items[half:], first + half, number)))
