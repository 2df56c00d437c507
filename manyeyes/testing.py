"""A service that is none, for the tests of who uses the SDK: no model, no socket, no waiting.

>>> from manyeyes import Item
>>> from manyeyes.errors import Overloaded, UndecodableImage
>>> from manyeyes.testing import FakeService
>>> fake = FakeService({"coat": "blue", "scan": UndecodableImage("the file is damaged")}, classes=["red", "blue"])
>>> with fake.client() as client:
...     labels = client.label([Item("coat", text="A navy coat"), Item("scan", text="?")], recipe="paint")
>>> [(label.id, label.status, label.label) for label in labels]
[('coat', 'labeled', 'blue'), ('scan', 'error', None)]
>>> fake.calls[0].recipe, fake.calls[0].items[0].text
('paint', 'A navy coat')

What it should refuse comes first, and the clients try again as they would:

>>> fake.fail(Overloaded("too much waits already"), times=2)
>>> with fake.client() as client:
...     print(client.label(["a red hat"], recipe="paint")[0].status, client.stats.retries)
abstained 2

Jobs label what ``fake.jobs.put`` says is at an address, and are done when they are waited for:

>>> fake.jobs.put("s3://photos/2026", ["coat", "scan"])
>>> with fake.client() as client:
...     job = client.jobs.submit("s3://photos/2026", recipe="paint", out="s3://labels/2026").wait()
...     labels = list(job.labels())
>>> job.status, job.counts.failed, [label.label for label in labels]
('completed', 1, ['blue', None])
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import httpx

from manyeyes.client import AsyncClient, Client
from manyeyes.errors import (
    AccessDenied,
    AlreadyExists,
    DeadlineExceeded,
    EndpointFailed,
    FetchFailed,
    IdempotencyConflict,
    InvalidSettings,
    InvalidVotes,
    ItemError,
    LabelNotFound,
    ManyeyesError,
    MissingDependency,
    NotFound,
    NotPermitted,
    Overloaded,
    PrimitiveFailed,
    RateLimited,
    RecipeNotFound,
    RequestTooLarge,
    ServiceUnavailable,
    StorageFailed,
    StorageFull,
    UntrustedRecipe,
    VersionConflict,
    WeightsMismatch,
    WrongState,
)
from manyeyes.fake_jobs import FakeJobs
from manyeyes.types import Label

__all__ = ["Answered", "FakeCall", "FakeService", "Sent", "status_of"]

_STATUS: Final[tuple[tuple[int, tuple[type[ManyeyesError], ...]], ...]] = (
    (401, (AccessDenied,)),
    (403, (UntrustedRecipe, NotPermitted)),
    (404, (RecipeNotFound, LabelNotFound, NotFound)),
    (409, (IdempotencyConflict, AlreadyExists, WrongState)),
    (412, (VersionConflict,)),
    (413, (RequestTooLarge,)),
    (429, (Overloaded, RateLimited)),
    (500, (InvalidSettings, InvalidVotes, WeightsMismatch, PrimitiveFailed)),
    (501, (MissingDependency,)),
    (507, (StorageFull,)),
    (502, (EndpointFailed, FetchFailed, StorageFailed)),
    (503, (ServiceUnavailable,)),
    (504, (DeadlineExceeded,)),
)
"""The statuses of a real service; a test holds them to its table."""


@dataclass(frozen=True, slots=True)
class Sent:
    """An item as it arrived. image: the bytes of its file; url, object: where the service is to fetch it."""

    id: str
    text: str | None = None
    image: bytes | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    url: str | None = None
    object: str | None = None


Answered: TypeAlias = "str | Mapping[str, float] | Label | ItemError | None"
"""What an item is answered with: a class, probabilities, a whole Label, what is wrong with it, or None: it abstains."""


@dataclass(frozen=True, slots=True)
class FakeCall:
    """A call that arrived. fields: of a form, by name; body: of JSON. headers: their names in lower case."""

    method: str
    path: str
    params: Mapping[str, str]
    headers: Mapping[str, str]
    items: tuple[Sent, ...] = ()
    fields: Mapping[str, str] = field(default_factory=dict)
    body: Any = None

    @property
    def recipe(self) -> str | None:
        """The recipe that the call names or brings."""
        return self.fields.get("recipe")


class FakeService:
    """Answers as a service would, with what it is told to.

    labels: item id → what it is answered with, or a function of the item; an id that is not there abstains.
    classes: the recipe's; by default those that the labels name. recipe: the name that it answers with.
    jobs: its batch jobs.
    """

    def __init__(
        self,
        labels: Mapping[str, Answered] | Callable[[Sent], Answered] | None = None,
        *,
        classes: Sequence[str] = (),
        recipe: str = "fake",
    ) -> None:
        self._labels = labels or {}
        self._ids = tuple(self._labels) if isinstance(self._labels, Mapping) else ()
        named = self._labels.values() if isinstance(self._labels, Mapping) else ()
        self.classes = tuple(classes) or tuple(dict.fromkeys(name for one in named for name in _named(one)))
        self.recipe = recipe
        self.calls: list[FakeCall] = []
        self.jobs = FakeJobs(lambda id: self._label(Sent(id)), lambda: self._ids)
        self._failures: list[httpx.Response | Exception] = []
        self._answers: dict[tuple[str, str], list[httpx.Response]] = {}
        self._lock = threading.Lock()

    def client(self, **options: Any) -> Client:
        """Return a client of this service; options: of ``Client``."""
        return Client("http://fake", transport=httpx.MockTransport(self.handle), rng=_AtOnce(), **options)

    def async_client(self, **options: Any) -> AsyncClient:
        """Return an asynchronous client of this service; options: of ``AsyncClient``."""
        return AsyncClient(
            "http://fake", transport=httpx.MockTransport(self.handle), rng=_AtOnce(), **options
        )

    def fail(
        self, error: ManyeyesError | int | Exception, *, times: int = 1, retry_after_s: int | None = None
    ) -> None:
        """Let the next calls fail, whatever they ask for; what is told later comes later.

        error: one of ours, answered as a service would; a bare HTTP status, as something in between would; or one of
        httpx, such as ``httpx.ReadError("reset")``, as when the connection breaks.
        retry_after_s: sent along; the client waits as long, and not at all without it.
        """
        headers = {} if retry_after_s is None else {"retry-after": str(retry_after_s)}
        with self._lock:
            for _ in range(times):
                if isinstance(error, ManyeyesError):
                    self._failures.append(_problem(error, headers))
                elif isinstance(error, int):
                    self._failures.append(httpx.Response(error, headers=headers, text="not from a service"))
                else:
                    self._failures.append(error)

    def answer(self, method: str, path: str, body: Any, *, status: int = 200) -> None:
        """Answer a route with JSON; told several times, the answers come in turn, and the last one stays."""
        with self._lock:
            self._answers.setdefault((method, path), []).append(httpx.Response(status, json=body))

    def handle(self, request: httpx.Request) -> httpx.Response:
        """Answer one request; the seam between clients and this double."""
        call = _read(request)
        with self._lock:
            self.calls.append(call)
            named = {"X-Request-Id": f"fake-{len(self.calls)}"}
            failure = self._failures.pop(0) if self._failures else None
            told = self._answers.get((call.method, call.path))
            canned = None if not told else told.pop(0) if len(told) > 1 else told[0]
        if isinstance(failure, Exception):
            raise failure
        answer = failure or canned or self._answer(call)
        return httpx.Response(answer.status_code, headers={**answer.headers, **named}, content=answer.content)

    def _answer(self, call: FakeCall) -> httpx.Response:
        route = (call.method, call.path)
        if route in (("GET", "/healthz"), ("GET", "/readyz")):
            return httpx.Response(200, json={"status": "ok"})
        if route == ("GET", "/v1/recipes"):
            return httpx.Response(200, json={"recipes": [], "broken": []})
        if route == ("POST", "/v1/label"):
            versions = {"recipe": "fake", "primitives": {}, "label_model": "fake"}
            rows = [self._label(item).to_dict() for item in call.items]
            return httpx.Response(200, json={"labels": rows, "versions": versions, "recipe": self.recipe})
        try:
            told = self.jobs.answer(
                call.method, call.path, call.params, call.body, call.headers.get("last-event-id", "")
            )
        except ManyeyesError as error:
            return _problem(error, {})
        return told or _problem(
            NotFound(f"this double has no answer to {call.method} {call.path}; give it one with answer(…)"),
            {},
        )

    def _label(self, item: Sent) -> Label:
        given = self._labels.get(item.id) if isinstance(self._labels, Mapping) else self._labels(item)
        if isinstance(given, Label):
            return given
        if isinstance(given, ItemError):
            return Label(id=item.id, status="error", error=given)
        classes = self.classes or tuple(_named(given)) or ("a", "b")
        if isinstance(given, str):
            probs = {name: float(name == given) for name in (*classes, *_named(given))}
        else:
            probs = dict(given) if given is not None else dict.fromkeys(classes, 1 / len(classes))
        ranked = sorted(probs, key=lambda name: -probs[name])
        return Label(
            id=item.id,
            status="abstained" if given is None else "labeled",
            label=None if given is None else ranked[0],
            confidence=probs[ranked[0]],
            probs=probs,
            runner_up=ranked[min(1, len(ranked) - 1)],
            prior=0.0,
        )


class _AtOnce(random.Random):
    """No jitter: between attempts there is no wait but what is asked for."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


def status_of(error: ManyeyesError) -> int:
    """Return the HTTP status that a service answers with."""
    if error.status is not None:
        return error.status
    for status, kinds in _STATUS:
        if isinstance(error, kinds):
            return status
    return 422 if isinstance(error, (ItemError, ValueError, LookupError)) else 500


def _named(given: Answered) -> list[str]:
    if isinstance(given, str):
        return [given]
    if isinstance(given, Label):
        return list(given.probs)
    return list(given) if isinstance(given, Mapping) else []


def _problem(error: ManyeyesError, headers: Mapping[str, str]) -> httpx.Response:
    status = status_of(error)
    document = {
        "type": f"urn:manyeyes:error:{error.code}",
        "title": type(error).__name__,
        "status": status,
        "detail": str(error),
        "code": error.code,
    }
    return httpx.Response(
        status,
        content=json.dumps(document),
        headers={"content-type": "application/problem+json", **headers},
    )


def _read(request: httpx.Request) -> FakeCall:
    content, kind = request.read(), request.headers.get("content-type", "")
    items: tuple[Sent, ...] = ()
    fields: dict[str, str] = {}
    body = None
    if boundary := re.search(r"multipart/form-data; boundary=(\S+)", kind):
        parts = _parts(content, boundary[1].encode())
        files = [data for name, data in parts if name == "files"]
        fields = {name: data.decode() for name, data in parts if name not in ("files", "items")}
        rows = [json.loads(data) for name, data in parts if name == "items"]
        items = tuple(_sent(row, files) for row in (rows[0] if rows else ()))
    elif content and kind.startswith("application/json"):
        body = json.loads(content)
    return FakeCall(
        method=request.method,
        path=request.url.raw_path.decode().partition("?")[0],
        params=dict(request.url.params),
        headers={name.lower(): value for name, value in request.headers.items()},
        items=items,
        fields=fields,
        body=body,
    )


def _parts(content: bytes, boundary: bytes) -> list[tuple[str, bytes]]:
    """Return the parts of a form that our own clients wrote: (field, what it holds)."""
    parts = []
    for part in (b"\r\n" + content).split(b"\r\n--" + boundary)[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        name = re.search(rb'name="([^"]*)"', head)
        parts.append((name[1].decode() if name else "", data))
    return parts


def _sent(row: Mapping[str, Any], files: Sequence[bytes]) -> Sent:
    number = row.get("file")
    return Sent(
        id=row["id"],
        text=row.get("text"),
        image=None if number is None else files[number],
        metadata=row.get("metadata") or {},
        url=row.get("url"),
        object=row.get("object"),
    )
