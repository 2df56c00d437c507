"""The SDK: labels from a manyeyes service, in one call, synchronous or not.

>>> from manyeyes import Client, Item
>>> with Client("http://127.0.0.1:8000") as client:  # doctest: +SKIP
...     for label in client.label([Item("1", text="A navy coat")], recipe="paint"):
...         print(label.id, label.label, label.confidence)
1 blue 0.75
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from manyeyes.client.answers import (
    BUSY,
    MAX_WAIT_S,
    LabelResult,
    checked,
    read_object,
    read_recipe_list,
    read_result,
    retry_after_s,
)
from manyeyes.client.items import MAX_IMAGE_BYTES, Form, Labelable, RecipeLike, fill_form, recipe_text
from manyeyes.errors import ServiceUnavailable

__all__ = ["AsyncClient", "Client", "LabelResult"]

DEFAULT_URL: Final = "http://127.0.0.1:8000"


class _Base:
    """What both clients share: everything but sending and sleeping."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 300.0,
        max_retries: int = 4,
        max_image_bytes: int = MAX_IMAGE_BYTES,
        rng: random.Random | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self.max_retries = max_retries
        self.max_image_bytes = max_image_bytes
        self._timeout_s = timeout_s
        self._rng = rng or random.Random()
        self._headers = {"Accept": "application/json"} | (
            {"Authorization": f"Bearer {api_key}"} if api_key else {}
        )

    def _options(self) -> dict[str, Any]:
        return {
            "base_url": self.base_url,
            "headers": self._headers,
            "timeout": httpx.Timeout(self._timeout_s, connect=min(10.0, self._timeout_s)),
            # A proxy in the environment is for other machines.
            "trust_env": httpx.URL(self.base_url).host not in ("localhost", "127.0.0.1", "::1"),
        }

    def _wait_s(self, attempt: int, response: httpx.Response | None) -> float:
        """Return how long to wait before the next attempt: what the service asks for, else doubling with jitter."""
        backoff_s = self._rng.uniform(0.5, 1.0) * 0.25 * (1 << attempt)
        asked_s = retry_after_s(response) if response is not None else 0.0
        # Jitter on top of what was asked, or everybody who was turned away comes back at once.
        return min(MAX_WAIT_S, asked_s + backoff_s)

    def _unreachable(self, error: httpx.TransportError) -> ServiceUnavailable:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return ServiceUnavailable(
                f"the service at {self.base_url} did not answer within {self._timeout_s:g} s; the first call loads"
                " models: pass a longer timeout_s, or fewer items"
            )
        return ServiceUnavailable(
            f"no service answers at {self.base_url} ({error or type(error).__name__}); start one with `manyeyes serve`,"
            " or pass the base_url of one that runs"
        )


class Client(_Base):
    """Talks to a service.

    base_url: where it is. api_key: the key it asks for, if any. timeout_s: for one answer.
    max_retries: how often a call is sent again when the service is busy or the connection breaks; labeling changes
        nothing on the service, so sending twice is safe. max_image_bytes: larger images become error rows unsent.
    transport: how requests travel; ``httpx.MockTransport`` makes a double. rng: for the jitter between retries.

    Raises, from every method, ServiceUnavailable if no service answers, ServiceFailed if what answers is none, and
    whatever the service refused with, as the class that it has here.
    """

    def __init__(
        self, base_url: str = DEFAULT_URL, *, transport: httpx.BaseTransport | None = None, **options: Any
    ) -> None:
        super().__init__(base_url, **options)
        self._http = httpx.Client(transport=transport, **self._options())

    @classmethod
    def in_process(cls, app: Any, **options: Any) -> Self:
        """Return a client of an ASGI app in this process, such as ``create_app()``: no socket, for tests."""
        return cls("http://localhost", transport=_InProcess(app), **options)

    def label(self, items: Iterable[Labelable], *, recipe: RecipeLike) -> LabelResult:
        """Label items as a recipe says.

        items: Items; or paths (image files), str (texts), bytes (of image files), PIL images, mappings.
        recipe: a stored one's name, YAML text, a path to a file, a mapping or a Recipe.
        A service fits the label model on the items of the call where none was fitted before, so what is sent together
        is fitted together.
        """
        told = recipe_text(recipe)
        form = fill_form(items, max_image_bytes=self.max_image_bytes)
        return read_result(
            form, self._send("POST", "/v1/label", **_body(form, told)) if form.entries else None
        )

    def recipes(self) -> list[dict[str, Any]]:
        """Return the stored recipes: name, version, description, classes, and whether a fitted label model is there."""
        return read_recipe_list(self._send("GET", "/v1/recipes"))

    def recipe(self, name: str) -> dict[str, Any]:
        """Return one stored recipe as a mapping. Raises RecipeNotFound."""
        return read_object(self._send("GET", _recipe_path(name)))

    def healthy(self) -> bool:
        """Return whether a service answers; never raises, never retries."""
        try:
            return self._http.get("/healthz").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, method: str, path: str, **body: Any) -> httpx.Response:
        for attempt in range(self.max_retries + 1):
            last = attempt == self.max_retries
            try:
                response = self._http.request(method, path, **body)
            except httpx.TransportError as error:
                if last or not _may_retry(error):
                    raise self._unreachable(error) from error
                wait_s = self._wait_s(attempt, None)
            else:
                if last or response.status_code not in BUSY:
                    return checked(response)
                wait_s = self._wait_s(attempt, response)
            time.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")


class AsyncClient(_Base):
    """Client for async code: the same methods, awaited."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Any,
    ) -> None:
        super().__init__(base_url, **options)
        self._http = httpx.AsyncClient(transport=transport, **self._options())

    @classmethod
    def in_process(cls, app: Any, **options: Any) -> Self:
        """Return a client of an ASGI app in this process, such as ``create_app()``: no socket, for tests."""
        return cls("http://localhost", transport=httpx.ASGITransport(app=app), **options)

    async def label(self, items: Iterable[Labelable], *, recipe: RecipeLike) -> LabelResult:
        """Label items as a recipe says; see :meth:`Client.label`. Files are read on a thread."""
        told = await asyncio.to_thread(recipe_text, recipe)
        form = await asyncio.to_thread(fill_form, items, max_image_bytes=self.max_image_bytes)
        return read_result(
            form, await self._send("POST", "/v1/label", **_body(form, told)) if form.entries else None
        )

    async def recipes(self) -> list[dict[str, Any]]:
        """Return the stored recipes; see :meth:`Client.recipes`."""
        return read_recipe_list(await self._send("GET", "/v1/recipes"))

    async def recipe(self, name: str) -> dict[str, Any]:
        """Return one stored recipe as a mapping. Raises RecipeNotFound."""
        return read_object(await self._send("GET", _recipe_path(name)))

    async def healthy(self) -> bool:
        """Return whether a service answers; never raises, never retries."""
        try:
            return (await self._http.get("/healthz")).status_code == 200
        except httpx.TransportError:
            return False

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _send(self, method: str, path: str, **body: Any) -> httpx.Response:
        for attempt in range(self.max_retries + 1):
            last = attempt == self.max_retries
            try:
                response = await self._http.request(method, path, **body)
            except httpx.TransportError as error:
                if last or not _may_retry(error):
                    raise self._unreachable(error) from error
                wait_s = self._wait_s(attempt, None)
            else:
                if last or response.status_code not in BUSY:
                    return checked(response)
                wait_s = self._wait_s(attempt, response)
            await asyncio.sleep(wait_s)
        raise AssertionError("the last attempt returns or raises")


class _InProcess(httpx.BaseTransport):
    """Runs an ASGI app for a synchronous client, on an event loop of its own thread."""

    def __init__(self, app: Any) -> None:
        self._asgi = httpx.ASGITransport(app=app)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="manyeyes-in-process")
        self._loop = asyncio.Runner()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        whole = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
        return self._thread.submit(lambda: self._loop.run(self._answer(whole))).result()

    async def _answer(self, request: httpx.Request) -> httpx.Response:
        answer = await self._asgi.handle_async_request(request)
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

    def close(self) -> None:
        self._thread.submit(self._loop.close).result()
        self._thread.shutdown()


def _body(form: Form, recipe: str) -> dict[str, Any]:
    # Without file names, which HTTP libraries write in ways of their own; all fields are "files" to httpx, since it
    # would url-encode a form that has none.
    fields: list[tuple[str, tuple[str | None, bytes | str, str]]] = [
        ("recipe", (None, recipe, "text/plain; charset=utf-8")),
        ("items", (None, f"[{','.join(form.entries)}]", "application/json")),
    ]
    images = [("files", (None, data, "application/octet-stream")) for data in form.files]
    return {"files": [*fields, *images]}


def _may_retry(error: httpx.TransportError) -> bool:
    # After a read timeout the service is still at work on the first one; asking again would only add to it.
    return isinstance(error, (httpx.ConnectTimeout, httpx.NetworkError, httpx.RemoteProtocolError))


def _recipe_path(name: str) -> str:
    return f"/v1/recipes/{quote(name, safe='')}"
