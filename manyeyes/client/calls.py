"""One call to a service and its answer, as values: what the synchronous and the asynchronous client both send."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar
from urllib.parse import quote

from manyeyes.errors import ServiceFailed

T = TypeVar("T")
U = TypeVar("U")

Fields: TypeAlias = "Sequence[tuple[str, tuple[str | None, bytes | str, str]]]"
"""The parts of a form: (field, (file name or None, what it holds, media type))."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whole and with its encoding undone. headers: their names in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes
    url: str

    @property
    def is_success(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300

    @property
    def request_id(self) -> str | None:
        """How the service's log calls this request."""
        return self.headers.get("x-request-id")

    @property
    def text(self) -> str:
        """The body as text, whatever it is."""
        return self.content.decode("utf-8", "replace")

    def read(self, reader: Callable[[Any], U]) -> U:
        """Return what a reader makes of the body's JSON. Raises ServiceFailed where that is not what was expected."""
        try:
            return reader(json.loads(self.content))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise ServiceFailed(
                f"{self.url} answered with something that cannot be read as a manyeyes service's answer"
                f" ({type(error).__name__}: {error}); check base_url, and that both sides have the same version"
            ) from error


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """What is asked, and how its answer is read.

    path: with its parts quoted; see :func:`place`. params: those that are None are left out.
    body: sent as JSON. fields: sent as a form; one of both at most. unsent: what it comes to without asking, where none
    of its items can be sent.
    writes: whether it changes something on the service, so that it carries an ``Idempotency-Key``. once: whether it
    does so each time that it comes, and no key helps.
    """

    method: str
    path: str
    read: Callable[[Answer], T]
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Any = None
    fields: Fields | None = None
    unsent: T | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    writes: bool = False
    once: bool = False

    @property
    def has_files(self) -> bool:
        """Whether it holds image files."""
        return any(name == "files" for name, _ in self.fields or ())

    def request(self) -> dict[str, Any]:
        """Return the arguments that httpx builds a request from. Raises TypeError, ValueError if it is no JSON."""
        told: dict[str, Any] = {"method": self.method, "url": self.path, "headers": dict(self.headers)}
        if params := {name: value for name, value in self.params.items() if value is not None}:
            told["params"] = params
        if self.fields is not None:
            # Without file names, which HTTP libraries write in ways of their own; all fields are "files" to httpx,
            # since it would url-encode a form that has none.
            told["files"] = list(self.fields)
        elif self.body is not None:
            told["content"] = json.dumps(self.body, allow_nan=False, ensure_ascii=False).encode()
            told["headers"]["Content-Type"] = "application/json"
        return told


def nothing(_: Answer) -> None:
    """Read an answer that says nothing."""


def settled(call: Call[T], answer: Answer, *, attempts: int) -> Answer:
    """Return an answer; what was to go and is gone after several attempts went with one of them."""
    if call.read is nothing and attempts > 1 and answer.status == 404:
        return Answer(204, answer.headers, b"", answer.url)
    return answer


def place(*parts: str) -> str:
    """Return a path of the service, each part quoted: nothing that a name holds leads elsewhere.

    >>> place("recipes", "x/../y")
    '/v1/recipes/x%2F..%2Fy'
    """
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)
