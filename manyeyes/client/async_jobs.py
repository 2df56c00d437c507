"""Batch jobs for async code, ``client.jobs``; what the calls do and raise is told in ``jobs``."""

from __future__ import annotations

import asyncio
import builtins
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, Self

from manyeyes.client import job_routes as routes
from manyeyes.client.async_resources import AsyncAsk, AsyncGroup
from manyeyes.client.calls import Answer, Call
from manyeyes.client.items import RecipeLike, recipe_text
from manyeyes.client.job_following import BREAKS, POLL_S, SILENCE_S, Following
from manyeyes.client.job_records import (
    JobCounts,
    JobEvent,
    JobLine,
    JobOutput,
    JobState,
    JobStatus,
    job_state,
    with_event,
)
from manyeyes.client.job_routes import EngineName, SourceLike
from manyeyes.client.jobs import deadline
from manyeyes.client.progress import JobBar
from manyeyes.types import Label


class AsyncStream(Protocol):
    """Opens a stream: gives its head, with the body of a refusal, and its bytes as they come."""

    def __call__(
        self, call: Call[Any], /, *, silence_s: float
    ) -> AbstractAsyncContextManager[tuple[Answer, AsyncIterator[bytes]]]:
        """Open it."""
        ...


class AsyncJobs(AsyncGroup):
    """Batch jobs of a service."""

    def __init__(self, ask: AsyncAsk, stream: AsyncStream, rng: random.Random) -> None:
        super().__init__(ask)
        self._stream = stream
        self._rng = rng

    async def submit(
        self,
        source: SourceLike,
        *,
        recipe: RecipeLike,
        out: str,
        fit: bool = False,
        gold: str | None = None,
        metadata: Mapping[str, str] | None = None,
        shard_rows: int | None = None,
        attempts: int | None = None,
        max_error_rate: float | None = None,
        min_rows: int | None = None,
        engine: EngineName | None = None,
        workers: int | None = None,
        update: bool = True,
        same_rows: bool = False,
    ) -> AsyncJob:
        """Ask for a job; see :meth:`Jobs.submit`."""
        options = routes.options_of(
            fit=fit,
            gold=gold,
            metadata=metadata,
            shard_rows=shard_rows,
            attempts=attempts,
            max_error_rate=max_error_rate,
            min_rows=min_rows,
            engine=engine,
            workers=workers,
            update=update,
            same_rows=same_rows,
        )
        text = await asyncio.to_thread(recipe_text, recipe)
        return AsyncJob(self, await self._ask(routes.submit(source, text, out, options)))

    async def get(self, id: str) -> AsyncJob:
        """Return a job; see :meth:`Jobs.get`."""
        return AsyncJob(self, await self._ask(routes.job(id)))

    def list(self, *, status: JobStatus | None = None) -> AsyncIterator[JobState]:
        """Yield jobs, the newest first; see :meth:`Jobs.list`."""
        return self._pages(lambda cursor: routes.jobs(status, cursor))


class AsyncJob:
    """A batch job. state: as it was a moment ago; what waits and what asks keeps it up to date."""

    def __init__(self, jobs: AsyncJobs, state: JobState) -> None:
        self._jobs = jobs
        self.state = state

    def __repr__(self) -> str:
        return f"AsyncJob({self.id!r}, {self.status!r})"

    @property
    def id(self) -> str:
        """What the service calls it."""
        return self.state.id

    @property
    def status(self) -> JobStatus:
        """How far it was a moment ago."""
        return self.state.status

    @property
    def counts(self) -> JobCounts:
        """Its rows: total, completed, failed."""
        return self.state.request_counts

    @property
    def output(self) -> JobOutput:
        """Where its labels and all else of it lie."""
        return self.state.output

    async def refresh(self) -> Self:
        """Ask how far it is."""
        self.state = await self._jobs._ask(routes.job(self.id))
        return self

    async def cancel(self) -> Self:
        """End it early; see :meth:`Job.cancel`."""
        self.state = await self._jobs._ask(routes.cancel(self.id))
        return self

    async def retry(self) -> Self:
        """Try its failed rows again, or go on with it; see :meth:`Job.retry`."""
        self.state = await self._jobs._ask(routes.retry(self.id))
        return self

    def logs(self) -> AsyncIterator[JobLine]:
        """Yield what happened to it, the oldest first."""
        return self._jobs._pages(lambda cursor: routes.logs(self.id, cursor))

    def labels(self) -> AsyncIterator[Label]:
        """Yield its labels, in the order of its rows; see :meth:`Job.labels`."""
        return self._jobs._pages(lambda cursor: routes.labels(self.id, cursor))

    async def wait(self, *, progress: bool = False, timeout_s: float | None = None) -> Self:
        """Wait until it is over, and return it; see :meth:`Job.wait`."""
        bar = JobBar() if progress else None
        try:
            if bar is not None:
                bar.show(self.state)
            async for _ in self.events(timeout_s=timeout_s):
                if bar is not None:
                    bar.show(self.state)
        finally:
            if bar is not None:
                bar.close()
        if self.status == "failed" and self.state.errors:
            raise self.state.errors[0]
        return self

    async def events(self, *, after: int = 0, timeout_s: float | None = None) -> AsyncIterator[JobEvent]:
        """Yield what is told of it until it is over; see :meth:`Job.events`."""
        following = Following(self.state, self._jobs._rng, last=after)
        until = deadline(timeout_s)
        while not following.is_over:
            found = self._polled(following) if following.polls else self._streamed(following, until)
            async for event in found:
                self.state = with_event(self.state, event)
                yield event
            if following.polls and not following.is_over:
                await asyncio.sleep(min(POLL_S, until(self.state)))

    async def _polled(self, following: Following) -> AsyncIterator[JobEvent]:
        told: builtins.list[Any] = []

        def read(answer: Answer) -> JobState:
            told.append(answer.read(dict))
            return answer.read(job_state)

        call = routes.job(self.id)
        state = await self._jobs._ask(Call(call.method, call.path, read))
        for event in following.polled(state, told[-1]):
            yield event

    async def _streamed(
        self, following: Following, until: Callable[[JobState], float]
    ) -> AsyncIterator[JobEvent]:
        why: Exception | None = None
        try:
            silence_s = min(SILENCE_S, until(self.state))
            call = routes.events(self.id, following.last)
            async with self._jobs._stream(call, silence_s=silence_s) as (answer, parts):
                following.opened(answer)
                async for part in parts:
                    for event in following.feed(part):
                        yield event
                    if following.is_over:
                        return
                    until(self.state)
        except BREAKS as error:
            why = error
        await asyncio.sleep(min(following.broke(why), until(self.state)))
