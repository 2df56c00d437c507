"""The progress of a job as server-sent events, which end with its final status.

What was told of a job lies in the store under growing numbers, which are the ids of the events: whoever comes back with
``Last-Event-ID``, to this replica or another, gets all that came since, once each. A listener costs a timer, and no
thread: the store is asked only where the thread that watches over the jobs has seen something new.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import anyio
import anyio.to_thread
from starlette.responses import StreamingResponse

from manyeyes.errors import ManyeyesError, Overloaded
from manyeyes.service.context import Service
from manyeyes.service.routes.job_answers import event_answer, job_answer
from manyeyes.service.store.job_records import JobEvent, JobRecord

HEARTBEAT_S: Final = 15.0
"""How often a comment says that the connection lives, where nothing else does."""
MAX_STREAM_S: Final = 900.0
"""After which a stream ends, and its listener comes back, if its key still opens it: nothing is held forever."""
_TICK_S: Final = 0.25
_BLIND_S: Final = 1.0
_PAGE: Final = 200
_HEADERS: Final = {
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # nginx and others would hold events back until a buffer is full
}


class Listeners:
    """Those who follow jobs through this process; there may be so many."""

    def __init__(self, service: Service, *, most: int) -> None:
        self._service = service
        self._most = most
        self.n_open = 0

    def stream(self, job: JobRecord, *, after: int, heartbeat_s: float = HEARTBEAT_S) -> StreamingResponse:
        """Return the events of a job after a number. Raises Overloaded if there are too many listeners already."""
        if self.n_open >= self._most:
            raise Overloaded(
                f"{self._most} follow jobs here already; ask for the job itself now and then, or come back later"
            )
        return StreamingResponse(
            self._events(job.id, after, heartbeat_s), media_type="text/event-stream", headers=_HEADERS
        )

    async def _events(self, id: str, after: int, heartbeat_s: float) -> AsyncIterator[bytes]:
        self.n_open += 1
        try:
            began = said = time.monotonic()
            yield b"retry: 1000\n\n"  # also tells proxies and clients at once that this is a stream
            looked = float("-inf")
            while not self._is_over(began):
                newest = None if self._service.jobs is None else self._service.jobs.n_events(id)
                now = time.monotonic()
                if newest != after if newest is not None else now - looked >= _BLIND_S:
                    looked = now
                    job, events = await self._read(id, after)
                    for event in events:
                        yield _event(event)
                        after, said = event.number, time.monotonic()
                    if job is not None and job.is_final and after >= job.n_events:
                        yield _written("end", job_answer(job))
                        return
                    if events:
                        continue
                if now - said >= heartbeat_s:
                    yield b": still here\n\n"
                    said = now
                await anyio.sleep(_TICK_S)
        finally:
            self.n_open -= 1

    async def _read(self, id: str, after: int) -> tuple[JobRecord | None, list[JobEvent]]:
        store = self._service.store
        assert store is not None

        def read() -> tuple[JobRecord, list[JobEvent]]:
            job = store.jobs.get(id)  # before its events: none comes after the last of a final one
            return job, store.jobs.events(id, after=after, limit=_PAGE)

        try:
            return await anyio.to_thread.run_sync(read)
        except ManyeyesError:
            await anyio.sleep(_BLIND_S)  # the database is away, or the job was removed; heartbeats go on
            return None, []

    def _is_over(self, began: float) -> bool:
        jobs = self._service.jobs
        down = self._service.engine.draining or (jobs is not None and jobs.draining)
        return down or time.monotonic() - began >= MAX_STREAM_S


def _event(event: JobEvent) -> bytes:
    return _written(event.kind, event_answer(event), number=event.number)


def _written(kind: str, data: dict[str, Any], *, number: int | None = None) -> bytes:
    # One line of ASCII: nothing that a message holds can end an event or begin another.
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: {json.dumps(data, allow_nan=False)}\n\n".encode()
