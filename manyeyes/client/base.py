"""What both clients share: everything but sending and sleeping."""

from __future__ import annotations

import copy
import gzip
import random
import uuid
from dataclasses import replace
from typing import Any, Final, Self, TypedDict

import httpx

from manyeyes import __version__
from manyeyes.client.calls import Answer, Call
from manyeyes.client.images import MAX_IMAGE_BYTES
from manyeyes.client.patience import Attempts, Patience, Stats, Tally, attempts
from manyeyes.errors import InvalidRequest

DEFAULT_URL: Final = "http://127.0.0.1:8000"
_CONNECT_S: Final = 10.0
# Shorter than the 5 s after which uvicorn closes an idle connection: what is taken from the pool is still open.
_KEEP_S: Final = 4.0
_LEAST_COMPRESSED: Final = 4096


class Options(TypedDict, total=False):
    """Options of a client; see ``Client``."""

    api_key: str | None
    timeout_s: float
    deadline_s: float | None
    max_retries: int
    max_connections: int
    compress: bool
    max_image_bytes: int
    rng: random.Random | None


class Base:
    """Options of a client, and the calls that it makes of them."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 300.0,
        deadline_s: float | None = None,
        max_retries: int = 4,
        max_connections: int = 32,
        compress: bool = False,
        max_image_bytes: int = MAX_IMAGE_BYTES,
        rng: random.Random | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.patience = Patience(timeout_s=timeout_s, deadline_s=deadline_s, max_retries=max_retries)
        self.max_image_bytes = max_image_bytes
        self.max_connections = max_connections
        self.compress = compress
        self._rng = rng or random.Random()
        self._tally = Tally()
        self._headers = {"Accept": "application/json", "User-Agent": f"manyeyes/{__version__}"} | (
            {"Authorization": f"Bearer {_sound(api_key)}"} if api_key else {}
        )

    @property
    def stats(self) -> Stats:
        """How many calls were made so far, and how often they had to be sent again."""
        return self._tally.seen

    def with_options(
        self,
        *,
        timeout_s: float | None = None,
        deadline_s: float | None = None,
        max_retries: int | None = None,
    ) -> Self:
        """Return the same client, with the same connections, that has another patience.

        >>> from manyeyes import Client
        >>> Client().with_options(timeout_s=5, deadline_s=20).patience
        Patience(timeout_s=5, deadline_s=20, max_retries=4)
        """
        changes: dict[str, Any] = {
            "timeout_s": timeout_s,
            "deadline_s": deadline_s,
            "max_retries": max_retries,
        }
        other = copy.copy(self)
        other.patience = replace(
            self.patience, **{name: value for name, value in changes.items() if value is not None}
        )
        other._bind()
        return other

    def _bind(self) -> None:
        """Make the groups of calls, such as ``client.recipes``, those of this client."""

    def _options(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "headers": self._headers,
            "limits": httpx.Limits(
                max_connections=self.max_connections,
                max_keepalive_connections=self.max_connections,
                keepalive_expiry=_KEEP_S,
            ),
            # A proxy in the environment is for other machines.
            "trust_env": httpx.URL(self.base_url).host not in ("localhost", "127.0.0.1", "::1"),
        }

    def _attempts(self, call: Call[Any]) -> Attempts:
        return attempts(
            self.patience,
            base_url=self.base_url,
            repeats=call.writes,
            once=call.once,
            rng=self._rng,
            tally=self._tally,
        )


def _sound(key: str) -> str:
    """Return a key as it travels; one that was read from a file often ends with a line break."""
    stripped = key.strip()
    if not stripped.isascii() or not stripped.isprintable():
        # Without showing it: messages end up in logs.
        raise InvalidRequest(
            "api_key holds characters that no key has; look for what was pasted along with it"
        )
    return stripped


def request_of(
    http: httpx.Client | httpx.AsyncClient, call: Call[Any], key: str, *, compress: bool = False
) -> httpx.Request:
    """Return a call as a request. key: of idempotency, the same for every attempt of a call that writes."""
    told = call.request()
    if call.writes:
        told["headers"].setdefault("Idempotency-Key", key)
    request = http.build_request(**told)
    if compress and not call.has_files:
        content = request.read() if isinstance(request.stream, httpx.SyncByteStream) else b""
        if len(content) >= _LEAST_COMPRESSED:
            kept = {name: request.headers[name] for name in ("content-type",) if name in request.headers}
            headers = told["headers"] | kept | {"Content-Encoding": "gzip"}
            request = http.build_request(
                call.method,
                call.path,
                params=told.get("params"),
                headers=headers,
                content=gzip.compress(content, 1, mtime=0),
            )
    return request


def new_key() -> str:
    """Return a key of idempotency."""
    return uuid.uuid4().hex


def give_time(request: httpx.Request, timeout_s: float) -> None:
    """Set how long each step of a request may take."""
    request.extensions["timeout"] = httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s)).as_dict()


def answer_of(response: httpx.Response, content: bytes) -> Answer:
    """Return a response whose body was read."""
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, headers, content, str(response.request.url))
