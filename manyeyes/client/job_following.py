"""How a job is followed: server-sent events, again from the last one after a break, or by asking now and then.

Both clients read bytes and wait, each in their own way; what the bytes mean, and what a break means, stands here.
Source of the format: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Final

import httpx

from manyeyes.client.calls import Answer
from manyeyes.client.job_records import JobEvent, JobState
from manyeyes.client.patience import BUSY, MAX_WAIT_S, PASSING, retry_after_s
from manyeyes.client.problems import error_of

SILENCE_S: Final = 45.0
"""After so long without even a heartbeat, three of the service's, the connection is taken for dead."""
POLL_S: Final = 2.0
"""How often a job is asked for that cannot be followed."""
_MAX_BREAKS: Final = 3
_FIRST_WAIT_S: Final = 0.25


class EventReader:
    """Takes a stream apart, whichever pieces it comes in.

    >>> reader = EventReader()
    >>> list(reader.feed(b": hello\\n\\nid: 7\\nevent: log\\nda"))
    []
    >>> list(reader.feed(b'ta: {"message": "m"}\\n\\n'))
    [JobEvent(kind='log', data={'message': 'm'}, number=7)]
    """

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[tuple[str, str]] = []

    def feed(self, data: bytes) -> Iterator[JobEvent]:
        """Yield the events that some more bytes complete. What cannot be read is passed over."""
        *lines, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            if line:
                name, _, value = line.decode("utf-8", "replace").partition(":")
                self._lines.append((name, value.removeprefix(" ")))
                continue
            told, self._lines = self._lines, []
            event = _event(told)
            if event is not None:
                yield event


class Following:
    """What is known of a job that is followed. last: the number of the last event that came.

    polls: whether it is asked for now and then instead, because streams do not come through.
    """

    def __init__(self, state: JobState, rng: random.Random, *, last: int = 0) -> None:
        self.id = state.id
        self.last = last
        self.polls = False
        self.is_over = False
        self._rng = rng
        self._breaks = 0
        self._reader = EventReader()
        self._seen: JobState | None = None

    def opened(self, answer: Answer) -> None:
        """Look at the head of an answer; ``content`` of a refusal is there. Raises what the service refused with.

        One that is no stream of events, or says that there are too many, is a break.
        """
        self._reader = EventReader()
        if answer.status == 200 and answer.headers.get("content-type", "").startswith("text/event-stream"):
            return
        if answer.status not in PASSING and not answer.is_success and answer.status not in (405, 406, 501):
            error = error_of(answer)
            if error.problem:
                raise error
        raise _NoStream(answer)

    def feed(self, data: bytes) -> Iterator[JobEvent]:
        """Yield the events in some bytes; each once, also where a service sends some again."""
        if data:
            self._breaks = 0
        for event in self._reader.feed(data):
            if event.number is not None:
                if event.number <= self.last:
                    continue
                self.last = event.number
            self.is_over = event.kind == "end"
            yield event
            if self.is_over:
                return

    def broke(self, why: Exception | None) -> float:
        """Return how many seconds to wait after a stream that ended before the job did; after some, ``polls``."""
        self._breaks += 1
        asked_s = 0.0
        if isinstance(why, _NoStream):
            asked_s = retry_after_s(why.answer)
            if why.answer.status not in BUSY:
                self.polls = True
        if self._breaks >= _MAX_BREAKS:
            self.polls = True
        wait_s = self._rng.uniform(0.5, 1.0) * _FIRST_WAIT_S * (1 << self._breaks)
        return min(MAX_WAIT_S, asked_s + wait_s)

    def polled(self, state: JobState, told: object) -> Iterator[JobEvent]:
        """Yield what is new of a job that was asked for. told: the same as JSON."""
        before, self._seen = self._seen, state
        assert isinstance(told, dict)
        if state.is_final:
            self.is_over = True
            yield JobEvent("end", told)
            return
        if before is None or before.status != state.status:
            yield JobEvent("status", {"status": state.status})
        if told.get("progress") is not None and (before is None or before.progress != state.progress):
            names = ("status", "request_counts", "progress")
            yield JobEvent("progress", {name: told[name] for name in names})


class _NoStream(Exception):
    """The service, or what stands between, answered with something else than a stream."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


BREAKS: Final = (httpx.TransportError, _NoStream)
"""What may come between a client and a stream, after which it is asked for again."""


def _event(lines: list[tuple[str, str]]) -> JobEvent | None:
    told = dict(lines)
    data = "\n".join(value for name, value in lines if name == "data")
    if not data:
        return None
    try:
        number = int(told["id"]) if "id" in told else None
        read = json.loads(data)
    except ValueError:
        return None
    return JobEvent(told.get("event", "message"), read, number) if isinstance(read, dict) else None
