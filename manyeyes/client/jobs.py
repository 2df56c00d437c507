"""Batch jobs: asked for, followed with a bar, cancelled and retried; ``client.jobs``."""

from __future__ import annotations

import builtins
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self

from manyeyes.client import job_routes as routes
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
from manyeyes.client.progress import JobBar
from manyeyes.client.resources import Ask, Group
from manyeyes.errors import DeadlineExceeded
from manyeyes.types import Label


class Stream(Protocol):
    """Opens a stream: gives its head, with the body of a refusal, and its bytes as they come."""

    def __call__(
        self, call: Call[Any], /, *, silence_s: float
    ) -> AbstractContextManager[tuple[Answer, Iterator[bytes]]]:
        """Open it."""
        ...


class Jobs(Group):
    """Batch jobs of a service: what lies in its operator's buckets, labeled into another place there."""

    def __init__(self, ask: Ask, stream: Stream, rng: random.Random) -> None:
        super().__init__(ask)
        self._stream = stream
        self._rng = rng

    def submit(
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
    ) -> Job:
        """Ask for a job; it waits for its turn on the service, whether this program goes on or not.

        source: the address of a bucket's prefix, a table or an archive, such as ``s3://photos/2026``; a mapping with
        ``uri`` and ``kind``, ``columns``, ``join``, ``recursive``; or items, whose images are named by address.
        recipe: as in ``label``; one with a fitted label model labels with it, unless ``fit`` says to fit one on the
        votes of the job. out: where to, such as ``s3://labels/2026``. gold: a table of known labels in a bucket.
        metadata: what is noted of the job. shard_rows, attempts: rows of a shard, tries of a row.
        max_error_rate, min_rows: the job is given up once so many rows are known and more than this part are errors.
        engine, workers: who works, and on how many shards at once. update: use again what earlier jobs computed there.
        same_rows: label the rows of the latest job there again; the source, which is the same, is not listed.
        Raises AddressRefused, NotPermitted, RecipeNotFound, InvalidRecipe, UntrustedRecipe, Overloaded.
        """
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
        return Job(self, self._ask(routes.submit(source, recipe_text(recipe), out, options)))

    def get(self, id: str) -> Job:
        """Return a job. Raises NotFound, also for a job of another key."""
        return Job(self, self._ask(routes.job(id)))

    def list(self, *, status: JobStatus | None = None) -> Iterator[JobState]:
        """Yield the jobs of this key, the newest first; of a key with the scope ``admin``, those of all."""
        return self._pages(lambda cursor: routes.jobs(status, cursor))


class Job:
    """A batch job. state: as it was a moment ago; what waits and what asks keeps it up to date."""

    def __init__(self, jobs: Jobs, state: JobState) -> None:
        self._jobs = jobs
        self.state = state

    def __repr__(self) -> str:
        return f"Job({self.id!r}, {self.status!r})"

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

    def refresh(self) -> Self:
        """Ask how far it is."""
        self.state = self._jobs._ask(routes.job(self.id))
        return self

    def cancel(self) -> Self:
        """End it early; ``wait`` returns once it has stopped. One that is over stays as it is."""
        self.state = self._jobs._ask(routes.cancel(self.id))
        return self

    def retry(self) -> Self:
        """Try its failed rows again, or go on with it where it failed or was cancelled.

        Raises WrongState if it is not over, or there is nothing to do again.
        """
        self.state = self._jobs._ask(routes.retry(self.id))
        return self

    def logs(self) -> Iterator[JobLine]:
        """Yield what happened to it, the oldest first."""
        return self._jobs._pages(lambda cursor: routes.logs(self.id, cursor))

    def labels(self) -> Iterator[Label]:
        """Yield its labels, in the order of its rows, a page at a time. Raises NotFound before it is completed."""
        return self._jobs._pages(lambda cursor: routes.labels(self.id, cursor))

    def wait(self, *, progress: bool = False, timeout_s: float | None = None) -> Self:
        """Wait until it is over, and return it; ``status`` is then "completed" or "cancelled".

        progress: show a bar, where standard error is a terminal. timeout_s: None for as long as it takes.
        Raises what it failed with, as the class that it has here; DeadlineExceeded after timeout_s, and it goes on.
        """
        bar = JobBar() if progress else None
        try:
            if bar is not None:
                bar.show(self.state)
            for _ in self.events(timeout_s=timeout_s):
                if bar is not None:
                    bar.show(self.state)
        finally:
            if bar is not None:
                bar.close()
        if self.status == "failed" and self.state.errors:
            raise self.state.errors[0]
        return self

    def events(self, *, after: int = 0, timeout_s: float | None = None) -> Iterator[JobEvent]:
        """Yield what is told of it until it is over; a broken connection loses nothing and repeats nothing.

        after: the number of the last event that is known. Where streams do not come through, it is asked for every two
        seconds instead.
        """
        following = Following(self.state, self._jobs._rng, last=after)
        until = deadline(timeout_s)
        while not following.is_over:
            for event in self._polled(following) if following.polls else self._streamed(following, until):
                self.state = with_event(self.state, event)
                yield event
            if following.polls and not following.is_over:
                time.sleep(min(POLL_S, until(self.state)))

    def _polled(self, following: Following) -> Iterator[JobEvent]:
        told: builtins.list[Any] = []

        def read(answer: Answer) -> JobState:
            told.append(answer.read(dict))
            return answer.read(job_state)

        call = routes.job(self.id)
        state = self._jobs._ask(Call(call.method, call.path, read))
        yield from following.polled(state, told[-1])

    def _streamed(self, following: Following, until: Callable[[JobState], float]) -> Iterator[JobEvent]:
        why: Exception | None = None
        try:
            silence_s = min(SILENCE_S, until(self.state))
            call = routes.events(self.id, following.last)
            with self._jobs._stream(call, silence_s=silence_s) as (answer, parts):
                following.opened(answer)
                for part in parts:
                    yield from following.feed(part)
                    if following.is_over:
                        return
                    until(self.state)
        except BREAKS as error:
            why = error
        time.sleep(min(following.broke(why), until(self.state)))


def deadline(timeout_s: float | None) -> Callable[[JobState], float]:
    """Return what tells how many seconds are left. Raises DeadlineExceeded once there are none."""
    until = None if timeout_s is None else time.monotonic() + timeout_s

    def left(state: JobState) -> float:
        if until is None:
            return float("inf")
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded(
                f"job {state.id} is {state.status.replace('_', ' ')} after timeout_s={timeout_s:g}; it goes on, and can"
                " be waited for again"
            )
        return left_s

    return left
