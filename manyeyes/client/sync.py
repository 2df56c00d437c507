"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self, Unpack

import httpx

from manyeyes.client import resource_routes, routes
from manyeyes.client.base import DEFAULT_URL, Base, Options, answer_of, give_time, new_key, request_of
from manyeyes.client.calls import Answer, Call, T, settled
from manyeyes.client.flow import BATCH_SIZE, MAX_IN_FLIGHT, OnError, Streaming
from manyeyes.client.in_process import InProcess
from manyeyes.client.items import Form, Labelable, RecipeLike, fill_form, recipe_text
from manyeyes.client.jobs import Jobs
from manyeyes.client.kept import AuditLine, Explanation
from manyeyes.client.patience import Send
from manyeyes.client.problems import checked
from manyeyes.client.records import DetectResult, EmbedResult, Index, Model, SearchResult, VotesResult
from manyeyes.client.resources import Batches, Keys, LabelModels, Recipes
from manyeyes.client.results import LabelResult
from manyeyes.client.streams import LabelStream
from manyeyes.client.tables import checked_table, result_of
from manyeyes.errors import ServiceFailed


class Client(Base):
    """Talks to a service; one may be used from many threads.

    base_url: where it is. api_key: the key it asks for, if any.
    timeout_s: for one attempt, from its start to the last byte. deadline_s: for a call with all its attempts; None for
        no end but that of max_retries. max_retries: how often a call is sent again when the service is busy or the
        connection breaks; what would change something twice carries a key by which the service knows the second for
        the first.
    max_connections: to the service at once, kept open between calls. compress: send texts and recipes compressed, where
        they are long; images are compressed as they are.
    max_image_bytes: larger images become error rows unsent.
    transport: how requests travel; :mod:`manyeyes.testing` has a double. rng: for the jitter between retries.

    Raises, from every method, ServiceUnavailable if no service answers, DeadlineExceeded if deadline_s ran out,
    ServiceFailed if what answers is no service, and whatever the service refused with, as the class that it has here,
    with its ``status``, ``request_id``, ``attempts`` and the whole ``problem``.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        transport: httpx.BaseTransport | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(base_url, **options)
        self._http = httpx.Client(transport=transport, **self._options())
        self._bind()

    def _bind(self) -> None:
        self.recipes = Recipes(self._ask)
        self.label_models = LabelModels(self._ask)
        self.batches = Batches(self._ask)
        self.keys = Keys(self._ask)
        self.jobs = Jobs(self._ask, self._stream, self._rng)

    @classmethod
    def in_process(cls, app: Any, **options: Unpack[Options]) -> Self:
        """Return a client of an ASGI app in this process, such as ``create_app()``: no socket, for tests."""
        return cls("http://localhost", transport=InProcess(app), **options)

    def label(
        self, items: Iterable[Labelable], *, recipe: RecipeLike, store: bool | None = None
    ) -> LabelResult:
        """Label items as a recipe says.

        items: Items; or paths (image files), Urls, str (texts), bytes (of image files), PIL images, NumPy arrays of
        pixels, mappings.
        recipe: a stored one's name, YAML text, a path to a file, a mapping or a Recipe.
        store: whether the service keeps the labels, to explain them and to fit on them; None as its operator has it.
        A service fits the label model on the items of the call where none was fitted before, so what is sent together
        is fitted together.
        """
        return self._label(items, recipe_text(recipe), store=store)

    def label_many(
        self,
        items: Iterable[Labelable],
        *,
        recipe: RecipeLike,
        batch_size: int = BATCH_SIZE,
        max_in_flight: int = MAX_IN_FLIGHT,
        max_retries: int | None = None,
        on_error: OnError = "raise",
        store: bool | None = None,
        progress: bool = False,
    ) -> LabelStream:
        """Label any number of items; return an iterator of their labels, in order.

        items: a list, or a generator of millions, read from the thread that iterates and no faster than labels come.
        batch_size: items of one call, fewer where the service takes fewer. max_in_flight: calls at once, fewer while
        the service is busy; no more than max_in_flight × batch_size items are in memory.
        max_retries: of one call; None for the client's, and 8 at least, since a long job has time.
        on_error: "raise" raises what a call ended with; the next ``next()`` sends that call again, and nothing is lost.
        "rows" makes each item of it a row with status "error"; what would end every other call, too, such as a wrong
        key or recipe, is raised all the same.
        progress: show a bar, where standard error is a terminal.

        Without a fitted label model of the recipe, every call is fitted by itself: fit one first.
        """
        return LabelStream(
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

    def label_table(
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
        """Label the rows of a pandas or polars DataFrame or of an Arrow table; the labels are in their order.

        image, text, id: the columns that hold them; an image is a path, an address, the bytes of a file, a PIL image or
        an array. metadata: columns that LFs may read by their names. Missing values are left out.
        Without an id column, pandas' index names the rows where it is unique; otherwise their numbers do.
        streaming: options of ``label_many``, such as batch_size, on_error and progress.
        Raises InvalidRequest if the table has no such columns.
        """
        rows = checked_table(table, image=image, text=text, id=id, metadata=metadata)
        with self.label_many(rows, recipe=recipe, **streaming) as stream:
            return result_of([(label, stream.label_id) for label in stream], stream)

    def votes(self, items: Iterable[Labelable], *, recipe: RecipeLike) -> VotesResult:
        """Return what each labeling function of a recipe says of each item; no label model is asked."""
        return self._ask(routes.votes(self._form(items), recipe_text(recipe)))

    def embed(
        self,
        items: Iterable[Labelable],
        *,
        primitive: str | Mapping[str, Any] = "clip",
        on: Literal["image", "text"] | None = None,
    ) -> EmbedResult:
        """Return an embedding of each item.

        primitive: a model that ``models()`` names, or the fields of a recipe's primitive. on: what of each item; None
        for its image, or its text where it has none.
        """
        return self._ask(routes.embed(self._form(items), primitive, on))

    def detect(
        self,
        items: Iterable[Labelable],
        *,
        primitive: str | Mapping[str, Any] = "detector",
        min_score: float | None = None,
        classes: Sequence[str] | None = None,
    ) -> DetectResult:
        """Return what a detector finds in each image. classes: those to report; None for all."""
        return self._ask(routes.detect(self._form(items), primitive, min_score, classes))

    def search(self, queries: Iterable[Labelable], *, index: str, k: int = 10) -> SearchResult:
        """Return the nearest items of an index for each query, a text or an image. index: as ``indexes()`` names it."""
        return self._ask(routes.search(self._form(queries), index, k))

    def indexes(self) -> tuple[Index, ...]:
        """Return the indexes that can be searched."""
        return self._ask(routes.indexes())

    def models(self) -> tuple[Model, ...]:
        """Return the models that callers may name."""
        return self._ask(routes.models())

    def explain(self, label_id: str) -> Explanation:
        """Return why a label is what it is. label_id: of ``LabelResult.label_id``. Raises LabelNotFound."""
        return self._ask(resource_routes.explain(label_id))

    def audit(
        self, *, subject: str | None = None, actor: str | None = None, action: str | None = None
    ) -> Iterator[AuditLine]:
        """Yield who changed what, the newest first; of one subject, such as ``recipe:paint``, key or kind of change."""
        return self.keys._pages(lambda cursor: resource_routes.audit(subject, actor, action, cursor))

    def recipe(self, name: str) -> dict[str, Any]:
        """Return one stored recipe as a mapping. Raises RecipeNotFound."""
        return self._ask(resource_routes.recipe(name))

    def healthy(self) -> bool:
        """Return whether a service answers; never raises, never retries."""
        return self._is_well("/healthz")

    def ready(self) -> bool:
        """Return whether a service would label now: its models and its store work; never raises, never retries."""
        return self._is_well("/readyz")

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _is_well(self, path: str) -> bool:
        try:
            outcome = self._once(routes.probe(path), "", min(10.0, self.patience.timeout_s))
        except ServiceFailed:
            return False
        return isinstance(outcome, Answer) and outcome.status == 200

    def _label(
        self,
        items: Iterable[Labelable],
        recipe: str,
        *,
        store: bool | None = None,
        first: int = 0,
        key: str | None = None,
        pause: Callable[[float], object] | None = None,
        on_busy: Callable[[], object] | None = None,
    ) -> LabelResult:
        return self._ask(
            routes.label(self._form(items, first=first), recipe, store), key=key, pause=pause, on_busy=on_busy
        )

    def _form(self, items: Iterable[Labelable], *, first: int = 0) -> Form:
        return fill_form(items, max_image_bytes=self.max_image_bytes, first=first)

    def _ask(
        self,
        call: Call[T],
        *,
        key: str | None = None,
        pause: Callable[[float], object] | None = None,
        on_busy: Callable[[], object] | None = None,
    ) -> T:
        """Send a call, again where that helps, and return its answer as it is meant.

        key: of idempotency; None for a new one. pause: what waits. on_busy: told when the service asks to wait.
        """
        if call.unsent is not None:
            return call.unsent
        steps, key, n_attempts = self._attempts(call), key or new_key(), 0
        try:
            step = next(steps)
            while True:
                if isinstance(step, Send):
                    n_attempts += 1
                    step = steps.send(self._once(call, key, step.timeout_s))
                else:
                    if step.busy and on_busy is not None:
                        on_busy()
                    (pause or time.sleep)(step.seconds)
                    step = steps.send(None)
        except StopIteration as done:
            answer: Answer = done.value
        answer = settled(call, answer, attempts=n_attempts)
        return call.read(checked(answer, attempts=n_attempts))

    def _once(self, call: Call[Any], key: str, timeout_s: float) -> Answer | httpx.TransportError:
        request = request_of(self._http, call, key, compress=self.compress)
        give_time(request, timeout_s)
        until = time.monotonic() + timeout_s
        try:
            response = self._http.send(request, stream=True)
            try:
                parts = []
                for part in response.iter_bytes():
                    parts.append(part)
                    # httpx times each step; an answer that trickles would take any number of them.
                    if time.monotonic() > until:
                        raise httpx.ReadTimeout("the answer did not end in time", request=request)
            finally:
                response.close()
        except httpx.TransportError as error:
            return error
        except httpx.DecodingError as error:
            raise ServiceFailed(f"{request.url} answered with an encoding that is none: {error}") from error
        return answer_of(response, b"".join(parts))

    @contextmanager
    def _stream(self, call: Call[Any], *, silence_s: float) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """Open a stream of events; what is no such stream is read whole. silence_s: the longest between two pieces."""
        request = request_of(self._http, call, "")
        give_time(request, silence_s)
        response = self._http.send(request, stream=True)
        try:
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                yield answer_of(response, b""), response.iter_bytes()
            else:
                yield answer_of(response, response.read()), iter(())
        finally:
            response.close()
