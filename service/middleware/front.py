"""Says no before a request is one: a service with far too much to do must not spend its time on saying so.

Five times the calls that can be done are four refusals for each call that is. Through all layers of the app a refusal
costs half a millisecond of the one thread that also serves the others; here, where only headers are looked at, a tenth.
What is not a plain case goes the usual way, and is refused at the door (:mod:`door`) once it is known who calls.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import Response

from manyeyes.errors import ManyeyesError
from manyeyes.service.access.addresses import counted_as
from manyeyes.service.access.callers import LOCAL, Caller
from manyeyes.service.access.credentials import key_of
from manyeyes.service.access.keyring import Keyring, digest_of
from manyeyes.service.errors import ProblemResponse, Refusal, problem_of
from manyeyes.service.middleware.door import PATHS, SMALL_BYTES
from manyeyes.service.middleware.keys import refuse_pages
from manyeyes.service.middleware.log import request_id_for
from manyeyes.service.operations.logs import STATE
from manyeyes.service.operations.metrics import Metrics
from manyeyes.service.pipeline.engine import Engine
from manyeyes.service.settings import ServiceSettings, is_loopback

log: Final = logging.getLogger("manyeyes.service")

_TARGETS: Final = frozenset(path.encode() for path in PATHS - {"/v1/embeddings"})
"""Of these the refusal is the same for everybody; OpenAI's clients read another one."""
_NOT_PLAIN: Final = frozenset({b"idempotency-key", b"transfer-encoding", b"expect", b"upgrade", b"cookie"})


class Refused:
    """A request that is refused. answer: its head, without what the server adds to every head, and its body."""

    def __init__(self, target: str, response: Response, request_id: str, caller: Caller, code: str) -> None:
        self.target, self.response, self.request_id = target, response, request_id
        self.caller, self.code = caller, code
        self.started = time.perf_counter()

    def answer(self, head: Sequence[tuple[bytes, bytes]], *, close: bool) -> bytes:
        """Return the answer as it goes over the wire. head: the server's own headers. close: whether it is the last."""
        lines = [*head, *self.response.raw_headers, (b"x-request-id", self.request_id.encode())]
        if close:
            lines.append((b"connection", b"close"))
        told = b"".join(b"%b: %b\r\n" % line for line in lines)
        first = b"HTTP/1.1 %d \r\n" % self.response.status_code
        return b"%b%b\r\n%b" % (first, told, bytes(self.response.body))


class Front:
    """Decides by the head of a request whether it is refused at once.

    keys, worked: as the app's KeyCheck has them. Only whose key worked here lately, and where no calls are counted, is
    told so here: a stranger learns from the app that he is one, however much there is to do.
    """

    def __init__(
        self,
        engine: Engine,
        settings: ServiceSettings,
        keys: Keyring,
        worked: Collection[tuple[str, str]],
        metrics: Metrics,
    ) -> None:
        self.engine = engine
        self.settings = settings
        self.keys = keys
        self.metrics = metrics
        self._worked = worked
        self._plain = not settings.rate_per_minute and not settings.trusted_proxies
        self._checks_pages = is_loopback(settings.host) and not settings.allow_unauthenticated

    def refuse(
        self,
        method: bytes,
        target: bytes,
        headers: list[tuple[bytes, bytes]],
        client: tuple[str, int] | None,
    ) -> Refused | None:
        """Return the refusal of a request; None where it goes to the app. Its body is small enough to be read."""
        if not self._plain or method != b"POST" or target not in _TARGETS:
            return None
        try:
            self.engine.admit()
        except Refusal as refused:
            told = Headers(raw=headers)
            length = told.get("content-length", "")
            if not (length.isdecimal() and len(length) < 8 and int(length) <= SMALL_BYTES):
                return None
            if any(name in _NOT_PLAIN for name, _ in headers):
                return None
            caller = self._caller(told, client)
            if caller is None or caller.rate_per_minute or not caller.may("label"):
                return None
            request_id = request_id_for(told)
            response = problem_of(refused, request_id=request_id)
            assert isinstance(response, ProblemResponse)
            return Refused(target.decode(), response, request_id, caller, response.code)
        return None

    def answered(self, refused: Refused) -> None:
        """Count a refusal, and write its line in the log."""
        seconds = time.perf_counter() - refused.started
        status = refused.response.status_code
        self.metrics.answered(refused.target, "POST", status, seconds)
        self.metrics.problem(refused.code)
        if not log.isEnabledFor(logging.INFO):
            return
        about = STATE.set({"request_id": refused.request_id, "caller": refused.caller})
        facts = {
            "method": "POST",
            "path": refused.target,
            "status": status,
            "ms": round(seconds * 1000, 1),
            "code": refused.code,
        }
        try:
            log.info("POST %s: %s", refused.target, status, extra={"facts": facts})
        finally:
            STATE.reset(about)

    def _caller(self, headers: Headers, client: tuple[str, int] | None) -> Caller | None:
        secret = key_of(headers)
        if secret is None:
            if self.keys.required or "authorization" in headers:
                return None
            if self._checks_pages:
                try:
                    refuse_pages(headers)
                except ManyeyesError:
                    return None
            return LOCAL
        address = counted_as(client[0]) if client else ""
        if (address, digest_of(secret)) not in self._worked:
            return None
        return self.keys.at_hand(secret)
