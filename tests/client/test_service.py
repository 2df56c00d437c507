"""The whole SDK against a real service on a real socket: every method of both clients."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from manyeyes import AsyncClient, Client, Item, Url
from manyeyes.errors import (
    AddressRefused,
    EmptyItem,
    IndexUnusable,
    InvalidRequest,
    LabelNotFound,
    NotFound,
    RecipeNotFound,
    UndecodableImage,
    UnreadableItem,
    UnsupportedFormat,
    VersionConflict,
)

ITEMS = [Item("coat", text="a navy coat"), Item("vase", text="a crimson vase", metadata={"shelf": "R"})]


class Sync:
    """Makes an AsyncClient look synchronous, so that one set of tests holds both clients to the same."""

    def __init__(self, target: Any, run: asyncio.Runner) -> None:
        self._target, self._run = target, run

    def __getattr__(self, name: str) -> Any:
        return self._plain(getattr(self._target, name))

    def _plain(self, value: Any) -> Any:
        if type(value).__module__ == "manyeyes.client.async_resources":
            return Sync(value, self._run)
        return self._called(value) if inspect.ismethod(value) else value

    def _called(self, method: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            answer = method(*args, **options)
            if inspect.isawaitable(answer):
                return self._run.run(_await(answer))
            return self._run.run(_collect(answer)) if isinstance(answer, AsyncIterator) else answer

        return call

    def __call__(self) -> Any:
        return self._run.run(_await(self._target()))


async def _await(answer: Any) -> Any:
    return await answer


async def _collect(answer: AsyncIterator[Any]) -> list[Any]:
    return [one async for one in answer]


@pytest.fixture(params=["sync", "async"])
def client(url: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Return each kind of client of the running service."""
    if request.param == "sync":
        with Client(url, max_retries=0) as made:
            yield made
        return
    with asyncio.Runner() as run:
        target = AsyncClient(url, max_retries=0)
        yield Sync(target, run)
        run.run(target.close())


def test_labels_are_kept_and_explained(client: Any, paint: str) -> None:
    labels = client.label([*ITEMS, b"no image"], recipe=paint)
    assert [label.label for label in labels] == ["blue", "red", None]
    assert isinstance(labels[2].error, (UndecodableImage, UnsupportedFormat))
    assert labels[2].error.request_id == labels.request_id
    explained = client.explain(labels.label_id(1))
    assert explained.label == labels[1]
    assert explained.batch.id == labels.batch
    assert explained.top == "red"
    assert explained.log_odds == pytest.approx(
        np.log(labels[1].probs["red"] / labels[1].probs["blue"]), abs=1e-5
    )
    assert explained.log_odds == pytest.approx(explained.prior + sum(r.moved for r in explained.reasons))
    with pytest.raises(LabelNotFound) as caught:
        client.explain(f"{labels.batch}-99")
    assert caught.value.status == 404
    assert caught.value.request_id


def test_label_ids_stand_beside_the_items_that_were_given(client: Any, paint: str, tmp_path: Any) -> None:
    labels = client.label([tmp_path / "gone.png", ITEMS[0]], recipe=paint)
    assert isinstance(labels[0].error, UnreadableItem)
    assert labels.label_id(0) is None
    assert client.explain(labels.label_id(1)).label.id == "coat"


def test_batches_are_listed_in_pages(client: Any, paint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = [client.label([f"a {colour} wall"], recipe=paint).batch for colour in ("red", "blue", "navy")]
    monkeypatch.setattr("manyeyes.client.resource_routes.PAGE", 2)
    listed = [batch.id for batch in client.batches.list(recipe="paint")]
    assert listed[:3] == mine[::-1]
    assert len(set(listed)) == len(listed)
    batch = client.batches.get(mine[0])
    assert batch.n_items == 1 and batch.has_votes and batch.created_at.tzinfo is not None
    kept = client.label([f"red {n}" for n in range(5)], recipe=paint)
    assert list(client.batches.labels(kept.batch)) == list(kept)
    client.batches.delete(mine[1])
    with pytest.raises(NotFound):
        client.batches.get(mine[1])
    assert client.label(["red"], recipe=paint, store=False).batch is None


def test_recipes_are_kept_in_versions(client: Any, paint: str) -> None:
    name = f"kept-{'async' if isinstance(client, Sync) else 'sync'}"
    first = client.recipes.create(paint.replace("name: paint", f"name: {name}"), note="first")
    assert (first.number, first.is_active, first.note) == (1, True, "first")
    second = client.recipes.create(
        paint.replace("name: paint", f"name: {name}").replace("crimson", "scarlet"), expect=first.version
    )
    assert (second.number, second.is_active) == (2, False)
    assert [v.number for v in client.recipes.versions(name)] == [2, 1]
    diff = client.recipes.diff(name, 1, 2)
    assert not diff.same and "scarlet" in str(diff)
    assert [changed["name"] for changed in diff.lfs["changed"]] == ["says_red"]
    with pytest.raises(VersionConflict):
        client.recipes.activate(name, 2, expect=second.version)
    assert client.recipes.activate(name, second.version, expect=first.version).is_active
    assert client.recipes.get(name).number == 2
    assert client.recipes.get(name, 1).recipe["lfs"][0]["any"] == ["red", "crimson"]
    assert client.recipe(name)["name"] == name
    lines = {line.name: line for line in client.recipes.list()}
    assert lines[name].source == "store" and lines["folder"].source == "folder"
    assert {row["name"] for row in client.recipes()} == set(lines)
    client.recipes.delete(name)
    with pytest.raises(RecipeNotFound):
        client.recipes.get(name)


def test_recipes_are_validated(client: Any, paint: str) -> None:
    assert client.recipes.validate(paint)
    checked = client.recipes.validate("name: paint\nclasses: [red]\nlfs: []\n")
    assert not checked
    assert any(problem.path == "classes" and problem.line == 2 for problem in checked.problems)


def test_label_models_are_fitted_compared_and_put_to_use(client: Any, paint: str) -> None:
    name = f"fitted-{'async' if isinstance(client, Sync) else 'sync'}"
    client.recipes.create(paint.replace("name: paint", f"name: {name}"))
    kept = client.label(
        [Item(str(n), text="red crimson" if n % 2 else "navy") for n in range(40)], recipe=name, store=True
    )
    gold = {label.id: label.label for label in list(kept)[:10]}
    one = client.label_models.fit(name, [kept], label_model="majority", gold=gold)
    other = client.label_models.fit(name, [kept.batch], label_model="dawid_skene", activate=True)
    assert (one.kind, one.is_active, other.is_active) == ("majority", False, True)
    assert one.metrics["n_gold"] == 10
    assert [model.id for model in client.label_models.list(recipe=name)] == [other.id, one.id]
    compared = client.label_models.compare([one.id, other.id], [kept], gold=gold)
    assert [row.accuracy for row in compared.label_models] == [1.0, 1.0]
    assert compared.agreement[0].agreement == 1.0
    assert client.label(["red"], recipe=name).versions.label_model == other.version
    assert client.label_models.activate(one.id, expect=other.id).is_active
    assert client.label_models.get(one.id).is_active
    client.label_models.delete(other.id)
    with pytest.raises(NotFound):
        client.label_models.get(other.id)
    unkept = client.label(["red"], recipe=name, store=False)
    with pytest.raises(InvalidRequest, match="store=True"):
        client.label_models.fit(name, [unkept])


def test_keys_are_made_and_revoked(client: Any, url: str) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    key = client.keys.create("team", ["label", "read"], expires_at=tomorrow, rate_per_minute=60)
    assert key.secret and key.secret not in repr(key)
    assert key.expires_at == tomorrow
    assert client.keys.get(key.id).secret is None
    assert key.id in {one.id for one in client.keys.list()}
    assert client.keys.revoke(key.id).revoked_at is not None
    assert [line.action for line in client.audit(subject=f"key:{key.id}")][:1] == ["key.revoke"]
    with pytest.raises(InvalidRequest, match="time zone"):
        client.keys.create("team", ["read"], expires_at=datetime(2030, 1, 1))


def test_votes_are_told(client: Any, paint: str) -> None:
    votes = client.votes([*ITEMS, b"no image"], recipe=paint)
    assert [row.id for row in votes] == ["coat", "vase", "item-2"]
    assert {vote.lf: vote.vote for vote in votes[0].votes}["says_blue"] == "blue"
    classes, scores = votes.to_numpy()
    assert classes.tolist()[:2] == [[-1, 1, -1, -1], [0, -1, 0, -1]]
    assert votes[2].error is not None and classes.tolist()[2] == [-1] * 4
    assert scores.shape == classes.shape


def test_items_are_embedded(client: Any, tmp_path: Any) -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[:, :, 0] = 255
    told = client.embed([red, "a red wall", tmp_path / "gone.png"], primitive="toy")
    assert told.primitive.startswith("toy:")
    vectors = told.to_numpy()
    assert vectors.dtype == np.float32 and vectors.shape == (3, told.dim)
    assert vectors[0] @ vectors[1] == pytest.approx(1.0)
    assert np.isnan(vectors[2]).all()
    assert isinstance(told[2].error, UnreadableItem)
    assert [row.on for row in told] == ["image", "text", None]


def test_indexes_and_models_are_listed(client: Any) -> None:
    (index,) = client.indexes()
    assert (index.name, index.n_items, index.dim) == ("walls", 3, 3)
    models = {model.id: model for model in client.models()}
    assert models["clip"].task == "embed"
    with pytest.raises((IndexUnusable, NotFound)):
        client.search(["red"], index="none")


def test_an_index_is_searched(client: Any, tmp_path: Any) -> None:
    blue = np.zeros((4, 4, 3), np.uint8)
    blue[:, :, 2] = 255
    told = client.search(["something red", blue, tmp_path / "gone.png"], index="walls", k=2)
    assert [found.matches[0].id for found in told[:2]] == ["red", "blue"]
    assert len(told[0].matches) == 2 and told[0].matches[0].cosine == pytest.approx(1.0, abs=1e-3)
    assert isinstance(told[2].error, UnreadableItem)


@pytest.mark.slow
def test_objects_are_found(client: Any) -> None:
    from skimage import data

    told = client.detect([data.chelsea(), "a text"], min_score=0.1)
    assert (told[0].width, told[0].height) == (451, 300)
    assert "cat" in told.classes
    assert all(box.score >= 0.1 and box.label in told.classes for box in told[0].boxes)
    assert isinstance(told[1].error, EmptyItem)


def test_what_cannot_be_sent_asks_nothing(tmp_path: Any) -> None:
    gone = [tmp_path / "gone.png"]
    with Client("http://127.0.0.1:9", max_retries=0) as nowhere:
        for told in (
            nowhere.label(gone, recipe="r"),
            nowhere.votes(gone, recipe="r"),
            nowhere.embed(gone),
            nowhere.detect(gone),
            nowhere.search(gone, index="i"),
        ):
            assert len(told) == 1 and isinstance(told[0].error, UnreadableItem)


def test_addresses_are_the_services_to_fetch(client: Any, paint: str) -> None:
    labels = client.label(
        [
            Url("https://example.org/red.png"),
            Item("i", image="http://127.0.0.1/x.png"),
            Item("b", image="s3://b/k.png"),
        ],
        recipe=paint,
    )
    assert [label.id for label in labels] == ["https://example.org/red.png", "i", "b"]
    assert all(isinstance(label.error, AddressRefused) for label in labels)


def test_streams_and_tables_work_on_the_real_service(client: Any, paint: str) -> None:
    frame = pd.DataFrame({"text": ["red", "navy", None, "crimson"], "shelf": ["R", None, "R", "Q"]})
    labels = client.label_table(frame, recipe="folder", text="text", metadata=["shelf"])
    assert [label.label for label in labels] == ["red", "blue", None, "red"]
    assert [type(label.error) for label in labels if label.error] == [EmptyItem]  # metadata alone is no item
    stream = client.label_many((f"red {n}" for n in range(1000)), recipe="folder", batch_size=400)
    assert [label.label for label in stream] == ["red"] * 1000


def test_readiness(client: Any) -> None:
    assert client.healthy() is True
    assert client.ready() is True


def test_a_call_that_is_sent_twice_is_made_once(url: str, paint: str) -> None:
    """The connection breaks after the service has done what was asked; the answer comes all the same."""
    broken: list[str] = []

    class Breaks(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            if request.method in ("POST", "DELETE") and request.url.path not in broken:
                broken.append(request.url.path)
                response.read()
                response.close()
                raise httpx.ReadError("reset")
            return response

    with Client(url, transport=Breaks(), rng=_AtOnce()) as client, Client(url) as other:
        made = client.recipes.create(paint.replace("name: paint", "name: twice"), note="once")
        assert [version.number for version in other.recipes.versions("twice")] == [made.number] == [1]
        before = {batch.id for batch in other.batches.list()}
        kept = client.label(["red"], recipe="twice", store=True)
        assert {batch.id for batch in other.batches.list()} - before == {kept.batch}
        client.recipes.delete("twice", purge=True)
        assert client.stats.retries == 3
        n_keys = len(list(other.keys.list()))
        with pytest.raises(ConnectionError):
            client.keys.create("once", ["read"])
        assert len(list(other.keys.list())) == n_keys + 1
    assert broken == ["/v1/recipes", "/v1/label", "/v1/recipes/twice", "/v1/keys"]


class _AtOnce(random.Random):
    def uniform(self, a: float, b: float) -> float:
        return 0.0


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_long_texts_may_travel_compressed(url: str, is_async: bool) -> None:
    sent: list[tuple[str | None, int]] = []

    def note(request: httpx.Request) -> None:
        sent.append((request.headers.get("content-encoding"), int(request.headers["content-length"])))

    async def note_later(request: httpx.Request) -> None:
        note(request)

    texts = ["a navy coat " * 50] * 40

    async def over_tasks() -> Any:
        async with AsyncClient(url, compress=True) as client:
            client._http.event_hooks["request"] = [note_later]
            return [await client.label(texts, recipe="folder"), await client.label(["red"], recipe="folder")]

    if is_async:
        labels = asyncio.run(over_tasks())
    else:
        with Client(url, compress=True) as client:
            client._http.event_hooks["request"] = [note]
            labels = [client.label(texts, recipe="folder"), client.label(["red"], recipe="folder")]
    assert {label.label for label in labels[0]} == {"blue"}
    assert [encoding for encoding, _ in sent] == ["gzip", None]
    assert sent[0][1] < 2000


def test_what_is_streamed_can_be_explained_and_fitted_on(client: Any, paint: str) -> None:
    name = f"streamed-{'async' if isinstance(client, Sync) else 'sync'}"
    client.recipes.create(paint.replace("name: paint", f"name: {name}"))
    table = {"t": ["red", "navy", "crimson", "blue", "x"]}
    with pytest.warns(RuntimeWarning, match="fitted by itself"):
        labels = client.label_table(pd.DataFrame(table), recipe=name, text="t", batch_size=2, store=True)
    assert len(labels.batches) == 3 and labels.batch is None
    assert [client.explain(labels.label_id(n)).label.id for n in range(5)] == list("01234")
    model = client.label_models.fit(name, [labels], label_model="majority")
    assert set(model.batches) == set(labels.batches) and model.metrics["n_items"] == 5


def test_a_stream_that_goes_on_after_an_error_keeps_nothing_twice(url: str, paint: str) -> None:
    broken: list[str] = []

    class Breaks(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            if len(broken) < 2:
                broken.append(request.headers["idempotency-key"])
                response.read()
                response.close()
                raise httpx.ReadError("reset")
            return response

    with Client(url) as other:
        other.recipes.create(paint.replace("name: paint", "name: resumed"))
        with Client(url, transport=Breaks(), rng=_AtOnce()) as client:
            stream = client.label_many(
                ["red"] * 6, recipe="resumed", batch_size=3, max_in_flight=1, max_retries=0, store=True
            )
            for _ in range(2):
                with pytest.raises(ConnectionError):
                    next(stream)
            assert [label.label for label in stream] == ["red"] * 6
        assert [batch.id for batch in other.batches.list(recipe="resumed")] == stream.batches[::-1]
    assert broken[0] == broken[1]
