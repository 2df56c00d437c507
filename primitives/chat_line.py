"""One line to each endpoint: so many calls at once, tried again with patience, within budgets, and given up in the end.

All LFs and threads of a process that ask the same endpoint share its line. What is wrong with the endpoint is no fault
of an item: where the endpoint is out of reach or a budget is used up, items are not asked, which makes LFs abstain, and
a warning says so once.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, TypeAlias

import httpx

from manyeyes.endpoints import Endpoint
from manyeyes.errors import EndpointFailed
from manyeyes.primitives.chat_budget import Budget, Tally, paying
from manyeyes.primitives.chat_wire import MAX_ANSWER_BYTES, Garbled, Reply, error_told, read_reply

logger = logging.getLogger(__name__)

Body: TypeAlias = "Callable[[bool], dict[str, Any]]"
"""Makes the JSON of a call: with log-probabilities asked for, or without."""

_PASSING: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_NOT_THIS_ITEM: Final = frozenset({401, 402, 403, 404, 405, 407})
_OUT_OF_MONEY: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_LONGEST_BACKOFF_S: Final = 30.0
_LONGEST_REST_S: Final = 3_600.0


class Failed(Exception):
    """A try that gave nothing. again: another may help, but not before after_s. for_all: no item will fare better."""

    def __init__(
        self, told: str, *, again: bool = False, after_s: float = 0.0, for_all: bool = False
    ) -> None:
        super().__init__(told)
        self.again = again
        self.after_s = after_s
        self.for_all = for_all


class _WithoutLogprobs(Exception):
    """The endpoint takes no question for log-probabilities; the same call without it may be answered."""


@dataclass
class _Call:
    """What one `ask` shares between its threads."""

    budgets: Sequence[Budget]
    tally: Tally
    stop: threading.Event


class ChatLine:
    """The way to one endpoint. name: in the operator's file. key: sent as a bearer token, and told to nobody."""

    def __init__(self, name: str, endpoint: Endpoint, key: str | None) -> None:
        self.name = name
        self.endpoint = endpoint
        self.budget = Budget(f"of endpoint {name}", endpoint.max_calls, endpoint.max_cost)
        self._key = key
        self._client = httpx.Client(
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=endpoint.timeout_s,
            limits=httpx.Limits(
                max_connections=endpoint.concurrency, max_keepalive_connections=endpoint.concurrency
            ),
        )
        self._threads = ThreadPoolExecutor(endpoint.concurrency, thread_name_prefix="manyeyes-chat")
        self._lock = threading.Lock()
        self._logprobs = endpoint.logprobs
        self._failed_in_a_row = 0
        self._rests_until = self._pause_until = 0.0
        self._jitter = random.Random()

    def close(self) -> None:
        """Let go of connections and threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def ask(
        self, bodies: Sequence[Body], *, budgets: Sequence[Budget], tally: Tally
    ) -> list[Reply | EndpointFailed | None]:
        """Return one reply each, in order; what failed where the endpoint does answer others; None if not asked.

        budgets: beside the endpoint's own. tally: counts what happens.
        """
        call = _Call((self.budget, *budgets), tally, threading.Event())
        futures: list[Future[Reply | Failed | None]] = [
            self._threads.submit(self._one, body, call) for body in bodies
        ]
        try:
            outcomes = [future.result() for future in futures]
        except BaseException:
            call.stop.set()
            for future in futures:
                future.cancel()
            raise
        if self.resting:
            # Those that failed while it was found out are no worse than those that were not asked any more.
            outcomes = [None if isinstance(outcome, Failed) else outcome for outcome in outcomes]
        told: list[Reply | EndpointFailed | None] = [
            EndpointFailed(
                f"endpoint {self.name} gave no answer for this item: {outcome}; label it again later"
            )
            if isinstance(outcome, Failed)
            else outcome
            for outcome in outcomes
        ]
        tally.count(told)
        return told

    @property
    def resting(self) -> bool:
        """Whether the endpoint is left alone for now."""
        return time.monotonic() < self._rests_until

    def _one(self, body: Body, call: _Call) -> Reply | Failed | None:
        attempt = 0
        while True:
            self._wait_for_the_pause(call)
            if call.stop.is_set():
                return None
            if self.resting:
                call.tally.resting = True
                return None
            try:
                reply = self._try(body, call)
            except Failed as failed:
                if not failed.again or attempt == self.endpoint.retries:
                    return self._gave_nothing(failed)
                attempt += 1
                call.tally.add(retries=1)
                backoff = min(_LONGEST_BACKOFF_S, self.endpoint.backoff_s * 2 ** (attempt - 1))
                # At least what the server asks for; never all at the same moment.
                call.stop.wait(failed.after_s + backoff * self._jitter.uniform(0.5, 1.0))
                continue
            except _WithoutLogprobs:
                continue
            if reply is not None:
                with self._lock:
                    self._failed_in_a_row = 0
            return reply

    def _try(self, body: Body, call: _Call) -> Reply | None:
        """Return the reply to one call, None where a budget does not allow it. Raises Failed."""
        with_logprobs = self._logprobs
        told = body(with_logprobs)
        with paying(call.budgets, self.endpoint, told) as payment:
            if payment is None:
                call.tally.over_budget = True
                return None
            call.tally.add(calls=1)
            try:
                status, headers, data = self._post(told)
            except (httpx.HTTPError, httpx.StreamError) as error:
                payment.unknown = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                raise Failed(self._said(type(error).__name__, str(error)), again=True) from None
            if status != 200:
                self._refuse(status, headers, data, with_logprobs=with_logprobs)
            try:
                reply = read_reply(data)
            except Garbled as error:
                payment.unknown = True
                raise Failed(str(error), again=True) from None
            payment.settle(reply)
            call.tally.add(
                cost=payment.cost, tokens_in=reply.tokens_in or 0, tokens_out=reply.tokens_out or 0
            )
            return reply._replace(text=self._redacted(reply.text))

    def _post(self, told: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """Return status, headers and body. Raises httpx.HTTPError; also if it takes too long all in all."""
        ends = time.monotonic() + self.endpoint.timeout_s
        with self._client.stream("POST", f"{self.endpoint.base_url}/chat/completions", json=told) as response:
            data = b""
            for part in response.iter_bytes():
                data += part
                if len(data) > MAX_ANSWER_BYTES:
                    raise httpx.RemoteProtocolError(f"the answer is longer than {MAX_ANSWER_BYTES:,} bytes")
                if time.monotonic() > ends:
                    raise httpx.ReadTimeout("the answer did not end in time")
            return response.status_code, response.headers, data

    def _refuse(self, status: int, headers: httpx.Headers, data: bytes, *, with_logprobs: bool) -> None:
        """Raise Failed for an answer that is none."""
        message, code = error_told(data)
        # What is said to a wrong key may quote it.
        said = self._said(f"HTTP {status}", "" if status in (401, 403, 407) else message)
        if status in (400, 422, 501) and with_logprobs and "logprob" in message.lower():
            with self._lock:
                self._logprobs = False
            logger.info("endpoint %s gives no log-probabilities: its votes have no scores", self.name)
            raise _WithoutLogprobs
        if status in _PASSING and code not in _OUT_OF_MONEY:
            after_s = _retry_after(headers.get("retry-after"))
            if after_s > self.endpoint.max_wait_s:
                self._rest(min(after_s, _LONGEST_REST_S), f"{said}, not to be asked for {after_s:.0f} s")
                raise Failed(said)
            if after_s:
                with self._lock:
                    self._pause_until = max(self._pause_until, time.monotonic() + after_s)
            raise Failed(said, again=True, after_s=after_s)
        for_all = status in _NOT_THIS_ITEM or code in _OUT_OF_MONEY or 300 <= status < 400
        raise Failed(said, for_all=for_all)

    def _gave_nothing(self, failed: Failed) -> Failed:
        with self._lock:
            self._failed_in_a_row += 1
            over = failed.for_all or self._failed_in_a_row >= self.endpoint.give_up_after
        if over:
            self._rest(self.endpoint.rest_s, str(failed))
        return failed

    def _rest(self, seconds: float, why: str) -> None:
        with self._lock:
            first = not self.resting
            self._rests_until = max(self._rests_until, time.monotonic() + seconds)
            # After the rest, one item is enough to find out.
            self._failed_in_a_row = max(self._failed_in_a_row, self.endpoint.give_up_after - 1)
        if first:
            logger.warning(
                "endpoint %s does not answer (%s); for %.0f s nothing is asked of it, and the functions that would ask"
                " abstain",
                self.name,
                why,
                seconds,
            )

    def _wait_for_the_pause(self, call: _Call) -> None:
        while (left := self._pause_until - time.monotonic()) > 0 and not call.stop.wait(
            left + self._jitter.uniform(0, 0.1) * left
        ):
            pass

    def _said(self, what: str, message: str) -> str:
        message = self._redacted(" ".join(message.split()))
        return f"{what}: {message[:200]}" if message else what

    def _redacted(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _retry_after(told: str | None) -> float:
    """Return the seconds that a ``Retry-After`` header asks for: a number, or a date; 0 where it says neither.

    >>> _retry_after("3"), _retry_after("soon"), _retry_after(None)
    (3.0, 0.0, 0.0)
    """
    if told is None:
        return 0.0
    try:
        seconds = float(told)
    except ValueError:
        try:
            when = parsedate_to_datetime(told)
        except ValueError:
            return 0.0
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        seconds = (when - datetime.now(UTC)).total_seconds()
    return seconds if 0 < seconds < 10**9 else 0.0


_lines: dict[tuple[int, str, str, str | None], ChatLine] = {}
_lines_lock = threading.Lock()


def line_to(name: str, endpoint: Endpoint) -> ChatLine:
    """Return this process's line to an endpoint. Raises InvalidSettings if its key is not in the environment.

    Ask each time: threads and connections do not survive a fork, and the child gets lines of its own here.
    """
    key = endpoint.key
    with _lines_lock:
        at = (os.getpid(), name, endpoint.model_dump_json(), key)
        if at not in _lines:
            _lines[at] = ChatLine(name, endpoint, key)
        return _lines[at]


@atexit.register
def close_lines() -> None:
    """Close every line of this process; the next question opens a new one, with budgets of its own."""
    with _lines_lock:
        for at in [at for at in _lines if at[0] == os.getpid()]:
            _lines.pop(at).close()


def _after_fork_in_child() -> None:
    global _lines_lock
    _lines_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


@contextlib.contextmanager
def fresh_lines() -> Iterator[None]:
    """Begin and end with no line; for tests."""
    close_lines()
    try:
        yield
    finally:
        close_lines()
