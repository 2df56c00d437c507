"""The client for async code: the same methods, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, Self, Unpack

import httpx

from manyeyes.client import resource_routes, routes
from manyeyes.client.async_jobs import AsyncJobs
from manyeyes.client.async_resources import AsyncBatches, AsyncKeys, AsyncLabelModels, AsyncRecipes
from manyeyes.client.async_streams import AsyncLabelStream
from manyeyes.client.base import DEFAULT_URL, Base, Options, answer_of, give_time, new_key, request_of
from manyeyes.client.calls import Answer, Call, T, settled
from manyeyes.client.flow import BATCH_SIZE, MAX_IN_FLIGHT, OnError, Streaming
from manyeyes.client.items import Form, Labelable, RecipeLike, fill_form, recipe_text
from manyeyes.client.kept import AuditLine, Explanation
from manyeyes.client.patience import Send
from manyeyes.client.problems import checked
from manyeyes.client.records import DetectResult, EmbedResult, Index, Model, SearchResult, VotesResult
from manyeyes.client.results import LabelResult
from manyeyes.client.tables import checked_table, result_of
from manyeyes.errors import ServiceFailed


class AsyncClient(Base):
    """Client for async code; its options, and what its methods do and raise, are those of ``Client``."""

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(base_url, **options)
        self._http = httpx.AsyncClient(transport=transport, **self._options())
        self._bind()

    def _bind(self) -> None:
        self.recipes = AsyncRecipes(self._ask)
        self.label_models = AsyncLabelModels(self._ask)
        self.batches = AsyncBatches(self._ask)
        self.keys = AsyncKeys(self._ask)
        self.jobs = AsyncJobs(self._ask, self._stream, self._rng)

    @classmethod
    def in_process(cls, app: Any, **options: Unpack[Options]) -> Self:
        """Return a client of an ASGI app in this process, such as ``create_app()``: no socket, for tests."""
        return cls("http://localhost", transport=httpx.ASGITransport(app=app), **options)

    async def label(
        self, items: Iterable[Labelable], *, recipe: RecipeLike, store: bool | None = None
    ) -> LabelResult:
        """Label items as a recipe says; see :meth:`Client.label`. Files are read on a thread."""
        return await self._label(items, await asyncio.to_thread(recipe_text, recipe), store=store)

    def label_many(
        self,
        items: Iterable[Labelable] | AsyncIterable[Labelable],
        *,
        recipe: RecipeLike,
        batch_size: int = BATCH_SIZE,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_retries: int | None = None,
        on_error: OnError = "raise",
        store: bool | None = None,
        progress: bool = False,
    ) -> AsyncLabelStream:
        """Label any number of items; return an async iterator of labels; see :meth:`Client.label_many`.

        items: may also be an async iterable.
        """
        return AsyncLabelStream(
            self,
            items,
            recipe=recipe_text(recipe),
            batch_size=batch_size,
            max_in_flight=max_in_flight,
            max_retries=max_retries,
            on_error=on_error,
            store=store,
            progress=progress,
        )

    async def label_table(
        self,
        table: Any,
        *,
        recipe: RecipeLike,
        image: str | None = None,
        text: str | None = None,
        id: str | None = None,
        metadata: Sequence[str] = (),
        **streaming: Unpack[Streaming],
    ) -> LabelResult:
        """Label the rows of a DataFrame or an Arrow table; see :meth:`Client.label_table`."""
        rows = checked_table(table, image=image, text=text, id=id, metadata=metadata)
        async with self.label_many(rows, recipe=recipe, **streaming) as stream:
            return result_of([(label, stream.label_id) async for label in stream], stream)

    async def votes(self, items: Iterable[Labelable], *, recipe: RecipeLike) -> VotesResult:
        """Return what each labeling function says of each item; see :meth:`Client.votes`."""
        return await self._ask(
            routes.votes(await self._form(items), await asyncio.to_thread(recipe_text, recipe))
        )

    async def embed(
        self,
        items: Iterable[Labelable],
        *,
        primitive: str | Mapping[str, Any] = "clip",
        on: Literal["image", "text"] | None = None,
    ) -> EmbedResult:
        """Return an embedding of each item; see :meth:`Client.embed`."""
        return await self._ask(routes.embed(await self._form(items), primitive, on))

    async def detect(
        self,
        items: Iterable[Labelable],
        *,
        primitive: str | Mapping[str, Any] = "detector",
        min_score: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> DetectResult:
        """Return what a detector finds in each image; see :meth:`Client.detect`."""
        return await self._ask(routes.detect(await self._form(items), primitive, min_score, classes))

    async def search(self, queries: Iterable[Labelable], *, index: str, k: int = 10) -> SearchResult:
        """Return the nearest items of an index for each query; see :meth:`Client.search`."""
        return await self._ask(routes.search(await self._form(queries), index, k))

    async def indexes(self) -> tuple[Index, ...]:
        """Return the indexes that can be searched."""
        return await self._ask(routes.indexes())

    async def models(self) -> tuple[Model, ...]:
        """Return the models that callers may name."""
        return await self._ask(routes.models())

    async def explain(self, label_id: str) -> Explanation:
        """Return why a label is what it is; see :meth:`Client.explain`."""
        return await self._ask(resource_routes.explain(label_id))

    def audit(
        self, *, subject: str | None = None, actor: str | None = None, action: str | None = None
    ) -> AsyncIterator[AuditLine]:
        """Yield who changed what, the newest first; see :meth:`Client.audit`."""
        return self.keys._pages(lambda cursor: resource_routes.audit(subject, actor, action, cursor))

    async def recipe(self, name: str) -> dict[str, Any]:
        """Return one stored recipe as a mapping. Raises RecipeNotFound."""
        return await self._ask(resource_routes.recipe(name))

    async def healthy(self) -> bool:
        """Return whether a service answers; never raises, never retries."""
        return await self._is_well("/healthz")

    async def ready(self) -> bool:
        """Return whether a service would label now; never raises, never retries."""
        return await self._is_well("/readyz")

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _is_well(self, path: str) -> bool:
        try:
            outcome = await self._once(routes.probe(path), "", min(10.0, self.patience.timeout_s))
        except ServiceFailed:
            return False
        return isinstance(outcome, Answer) and outcome.status == 200

    async def _label(
        self,
        items: Iterable[Labelable],
        recipe: str,
        *,
        store: bool | None = None,
        first: int = 0,
        key: str | None = None,
        on_busy: Callable[[], object] | None = None,
    ) -> LabelResult:
        form = await self._form(items, first=first)
        return await self._ask(routes.label(form, recipe, store), key=key, on_busy=on_busy)

    async def _form(self, items: Iterable[Labelable], *, first: int = 0) -> Form:
        """Read items on a thread."""
        return await asyncio.to_thread(fill_form, items, max_image_bytes=self.max_image_bytes, first=first)

    async def _ask(
        self, call: Call[T], *, key: str | None = None, on_busy: Callable[[], object] | None = None
    ) -> T:
        """Send a call, again where that helps, and return its answer as it is meant."""
        if call.unsent is not None:
            return call.unsent
        steps, key, n_attempts = self._attempts(call), key or new_key(), 0
        try:
            step = next(steps)
            while True:
                if isinstance(step, Send):
                    n_attempts += 1
                    step = steps.send(await self._once(call, key, step.timeout_s))
                else:
                    if step.busy and on_busy is not None:
                        on_busy()
                    await asyncio.sleep(step.seconds)
                    step = steps.send(None)
        except StopIteration as done:
            answer: Answer = done.value
        answer = settled(call, answer, attempts=n_attempts)
        return call.read(checked(answer, attempts=n_attempts))

    async def _once(self, call: Call[Any], key: str, timeout_s: float) -> Answer | httpx.TransportError:
        request = request_of(self._http, call, key, compress=self.compress)
        give_time(request, timeout_s)
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._http.send(request)
        except TimeoutError:
            return httpx.ReadTimeout("the answer did not end in time", request=request)
        except httpx.TransportError as error:
            return error
        except httpx.DecodingError as error:
            raise ServiceFailed(f"{request.url} answered with an encoding that is none: {error}") from error
        return answer_of(response, response.content)

    @asynccontextmanager
    async def _stream(
        self, call: Call[Any], *, silence_s: float
    ) -> AsyncIterator[tuple[Answer, AsyncIterator[bytes]]]:
        """Open a stream of events; what is no such stream is read whole. silence_s: the longest between two pieces."""
        request = request_of(self._http, call, "")
        give_time(request, silence_s)
        response = await self._http.send(request, stream=True)
        try:
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                yield answer_of(response, b""), response.aiter_bytes()
            else:
                yield answer_of(response, await response.aread()), _nothing()
        finally:
            await response.aclose()


async def _nothing() -> AsyncIterator[bytes]:
    for part in tuple[bytes, ...]():
        yield part
