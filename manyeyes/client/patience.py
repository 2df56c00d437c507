"""When a call is sent again: one engine for both clients, which send and sleep each in their own way.

The engine is a generator. It asks for :class:`Send` and :class:`Wait`, is told what came of a Send, and returns the
answer that counts. Source of the waiting: full answers in Amazon's "Exponential backoff and jitter", with the service's
own ``Retry-After`` underneath.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final, TypeAlias

import httpx

from manyeyes.client.calls import Answer
from manyeyes.client.problems import code_of
from manyeyes.errors import DeadlineExceeded, IdempotencyConflict, ManyeyesError, ServiceUnavailable

MAX_WAIT_S: Final = 60.0
"""The longest that is waited before one more attempt, whatever the service asks for."""

BUSY: Final = frozenset({429, 503})
PASSING: Final = BUSY | {502, 504}
"""Statuses after which the same call may be sent again."""

_FIRST_WAIT_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client tries.

    timeout_s: for one attempt, from its start to the last byte. deadline_s: for all attempts and the waits between;
    None for no end but that of max_retries. max_retries: attempts after the first.
    """

    timeout_s: float = 300.0
    deadline_s: float | None = None
    max_retries: int = 4

    def __post_init__(self) -> None:
        if not self.timeout_s > 0 or (self.deadline_s is not None and not self.deadline_s > 0):
            raise ValueError(f"timeout_s and deadline_s are seconds above 0, got {self}")
        if self.max_retries < 0:
            raise ValueError(f"max_retries is 0 or more, got {self.max_retries}")


@dataclass(frozen=True, slots=True)
class Send:
    """Send the call. timeout_s: at most this long."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait. busy: whether the service asked for it."""

    seconds: float
    busy: bool


Outcome: TypeAlias = "Answer | httpx.TransportError | None"
"""What came of a Send; None after a Wait."""
Attempts: TypeAlias = "Generator[Send | Wait, Outcome, Answer]"


@dataclass(frozen=True, slots=True)
class Stats:
    """What a client has done so far. waited_s: the sum of the waits between attempts."""

    calls: int = 0
    attempts: int = 0
    retries: int = 0
    busy: int = 0
    waited_s: float = 0.0


@dataclass(slots=True)
class Tally:
    """Counts over all threads of a client."""

    seen: Stats = field(default_factory=Stats)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(
        self, *, calls: int = 0, attempts: int = 0, retries: int = 0, busy: int = 0, waited_s: float = 0.0
    ) -> None:
        """Add to the counts."""
        with self._lock:
            seen = self.seen
            self.seen = replace(
                seen,
                calls=seen.calls + calls,
                attempts=seen.attempts + attempts,
                retries=seen.retries + retries,
                busy=seen.busy + busy,
                waited_s=seen.waited_s + waited_s,
            )


def attempts(
    patience: Patience,
    *,
    base_url: str,
    repeats: bool,
    once: bool = False,
    rng: random.Random,
    tally: Tally,
    clock: Callable[[], float] = time.monotonic,
) -> Attempts:
    """Ask for sends and waits until there is an answer that counts, and return it: a success, or a refusal.

    repeats: whether the service answers a repeated call with what came of the first one (it carries an
    ``Idempotency-Key``), so that it may be sent again even while the first may still be at work. once: whether a call
    that may have been heard must not be sent again.
    Raises ServiceUnavailable if no attempt was answered, DeadlineExceeded if the time of all attempts ran out.
    """
    began = clock()
    tally.add(calls=1)
    for attempt in range(patience.max_retries + 1):
        left_s = None if patience.deadline_s is None else patience.deadline_s - (clock() - began)
        timeout_s = patience.timeout_s if left_s is None else max(0.001, min(patience.timeout_s, left_s))
        tally.add(attempts=1, retries=min(attempt, 1))
        outcome = yield Send(timeout_s)
        assert outcome is not None
        is_last = attempt == patience.max_retries
        if isinstance(outcome, Answer):
            busy = outcome.status in BUSY
            tally.add(busy=int(busy))
            if is_last or not _may_come_again(outcome, repeats=repeats, once=once, attempt=attempt):
                return outcome
        else:
            busy = False
            told = unreachable(outcome, base_url, timeout_s=timeout_s)
            told.attempts = attempt + 1
            if is_last or not may_retry(outcome, repeats=repeats, once=once):
                raise told from outcome
        wait_s = _wait_s(attempt, outcome, rng)
        if patience.deadline_s is not None and clock() - began + wait_s >= patience.deadline_s:
            raise _out_of_time(outcome, patience.deadline_s, attempt + 1) from (
                outcome if isinstance(outcome, Exception) else None
            )
        tally.add(waited_s=wait_s)
        yield Wait(wait_s, busy)
    raise AssertionError("the last attempt returns or raises")


def may_retry(error: httpx.TransportError, *, repeats: bool, once: bool = False) -> bool:
    """Return whether a call may be sent again after its connection failed.

    After a read timeout the service is still at work on the first one; asking again would only add to it, unless the
    service knows the two for one.
    """
    if once:
        return isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout))
    if isinstance(error, (httpx.ReadTimeout, httpx.WriteTimeout)):
        return repeats
    return isinstance(error, (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError))


def retry_after_s(answer: Answer) -> float:
    """Return how many seconds an answer asks to wait, at most MAX_WAIT_S; 0 where it does not say."""
    value = answer.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return min(float(value), MAX_WAIT_S)
    try:
        wait_s = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        return min(max(0.0, wait_s), MAX_WAIT_S)
    except (ValueError, TypeError, OverflowError):  # not a date, or one without a time zone
        return 0.0


def unreachable(error: httpx.TransportError, base_url: str, *, timeout_s: float) -> ServiceUnavailable:
    """Return what a failed connection means to the caller, and what to do about it."""
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
        return ServiceUnavailable(
            f"the service at {base_url} did not answer within {timeout_s:g} s; the first call loads models: pass a"
            " longer timeout_s, or fewer items"
        )
    return ServiceUnavailable(
        f"no service answers at {base_url} ({error or type(error).__name__}); start one with `manyeyes serve`, or pass"
        " the base_url of one that runs"
    )


def _may_come_again(answer: Answer, *, repeats: bool, once: bool, attempt: int) -> bool:
    if answer.status in PASSING:
        # 502 and 504 leave open what became of the call.
        return answer.status in BUSY or not once
    # Our own earlier attempt, whose connection broke, is still at work: wait until its answer can be replayed.
    return repeats and attempt > 0 and answer.status == 409 and code_of(answer) == IdempotencyConflict.code


def _wait_s(attempt: int, outcome: Answer | httpx.TransportError, rng: random.Random) -> float:
    backoff_s = rng.uniform(0.5, 1.0) * _FIRST_WAIT_S * (1 << min(attempt, 20))
    asked_s = retry_after_s(outcome) if isinstance(outcome, Answer) else 0.0
    # Jitter on top of what was asked, or everybody who was turned away comes back at once.
    return min(MAX_WAIT_S, asked_s + backoff_s)


def _out_of_time(outcome: Answer | httpx.TransportError, deadline_s: float, n_attempts: int) -> ManyeyesError:
    last = (
        f"the last answer was {outcome.status} ({code_of(outcome) or 'no problem document'})"
        if isinstance(outcome, Answer)
        else f"the last attempt ended with {type(outcome).__name__}"
    )
    error = DeadlineExceeded(
        f"{n_attempts} attempts were not enough within deadline_s={deadline_s:g}; {last}. Pass a longer one, or try"
        " later"
    )
    error.attempts = n_attempts
    if isinstance(outcome, Answer):
        error.status, error.request_id = outcome.status, outcome.request_id
    return error
