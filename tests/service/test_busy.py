"""Many callers at once, callers who leave, and a line that is full."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from manyeyes import AsyncClient, Client, Item, Labeler, Recipe
from manyeyes.errors import AccessDenied, Overloaded, RequestTooLarge
from manyeyes.service.app import create_app
from manyeyes.service.middleware import log as limits
from manyeyes.service.settings import ServiceSettings

MakeItems = Callable[[int], list[Item]]
KEY = "a-key-that-is-long-enough"


def _rows(labels: Any) -> list[dict[str, Any]]:
    return [label.to_dict() for label in labels]


def test_callers_at_once_all_get_their_own_labels(url: str, recipes_dir: Path, make_items: MakeItems) -> None:
    labeler = Labeler(Recipe.load(recipes_dir / "paint.yaml"))
    calls = [make_items(3 + n) for n in range(32)]
    expected = [_rows(labeler.label(items)) for items in calls]

    def ask(items: list[Item]) -> list[dict[str, Any]]:
        with Client(url) as client:
            return _rows(client.label(items, recipe="paint"))

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, calls)) == expected


def test_the_async_client_labels_the_same(url: str, recipes_dir: Path, make_items: MakeItems) -> None:
    items = make_items(30)
    expected = _rows(Labeler(Recipe.load(recipes_dir / "paint.yaml")).label(items))

    async def run() -> list[list[dict[str, Any]]]:
        async with AsyncClient(url) as client:
            assert await client.healthy()
            assert [line["name"] for line in await client.recipes()] == ["fitted", "paint", "slow"]
            answers = await asyncio.gather(*[client.label(items, recipe="paint") for _ in range(8)])
            return [_rows(answer) for answer in answers]

    assert asyncio.run(run()) == [expected] * 8


def test_in_one_process_without_a_socket(recipes_dir: Path, make_items: MakeItems) -> None:
    items = make_items(12)
    expected = _rows(Labeler(Recipe.load(recipes_dir / "paint.yaml")).label(items))
    app = create_app(ServiceSettings(recipes_dir=recipes_dir))
    with Client.in_process(app) as client:
        assert client.healthy()
        assert _rows(client.label(items, recipe="paint")) == expected
        assert _rows(client.label(items, recipe="paint")) == expected

    async def run() -> list[dict[str, Any]]:
        async with AsyncClient.in_process(app) as client:
            return _rows(await client.label(items, recipe="paint"))

    assert asyncio.run(run()) == expected


def test_a_full_line_says_when_to_come_back_and_the_sdk_does(
    serving: Callable[[ServiceSettings], Any], url: str, recipes_dir: Path
) -> None:
    settings = ServiceSettings(recipes_dir=recipes_dir, max_waiting=2, workers=1)
    with (
        serving(settings) as narrow,
        Client(narrow, max_retries=0) as impatient,
        Client(narrow, max_retries=20) as patient,
    ):
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(impatient.label, ["t"], recipe="slow") for _ in range(8)]
            errors = [error for call in asked if (error := call.exception()) is not None]
        assert errors
        assert all(type(error) is Overloaded for error in errors)
        assert len(errors) < 8
        with ThreadPoolExecutor(6) as pool:
            labels = list(pool.map(lambda _: patient.label(["t"], recipe="slow")[0].label, range(6)))
        assert labels == ["red"] * 6

        def busy() -> httpx.Response:
            files = {"recipe": (None, "slow"), "texts": (None, "t")}
            return httpx.post(f"{narrow}/v1/label", files=files, trust_env=False)

        with ThreadPoolExecutor(8) as pool:
            refused = next(a for a in pool.map(lambda _: busy(), range(8)) if a.status_code == 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.json()["code"] == "overloaded"


def test_probes_are_answered_while_items_are_labeled(url: str) -> None:
    with Client(url) as client, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.label, ["t", "u", "v", "w"], recipe="slow")
        waited = []
        while not asked.done():
            started = time.perf_counter()
            assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
            waited.append(time.perf_counter() - started)
        assert [label.label for label in asked.result()] == ["red"] * 4
    assert len(waited) > 3
    assert sorted(waited)[len(waited) // 2] < 0.2


def test_callers_who_leave_wedge_nothing(url: str) -> None:
    address = httpx.URL(url)
    body = b'{"recipe": "slow", "items": [{"text": "t"}, {"text": "u"}]}'
    head = (
        b"POST /v1/label HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )
    pieces = [
        head % len(body) + body,  # leaves while it is labeled or waits
        head % len(body) + body[:20],  # leaves in the middle of the body
        head[:30],  # leaves in the middle of the head
        b"",
    ]
    for piece in [*pieces[:1] * 8, *pieces * 8]:
        with socket.create_connection((address.host, address.port or 80)) as gone:
            gone.sendall(piece)
    started = time.perf_counter()
    with Client(url, max_retries=8) as client:
        assert client.label(["t"], recipe="slow")[0].label == "red"
    # Those who left before their turn are passed over: sixteen of them would take ten seconds.
    assert time.perf_counter() - started < 7


def test_a_body_that_streams_past_the_limit_is_cut_off(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_LINGER_BYTES", 8 * 2**20)
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'{"recipe": "'
        while True:
            sent += 65_536
            yield b"x" * 65_536

    headers = {"content-type": "application/json"}
    try:
        answer = httpx.post(f"{url}/v1/label", content=endless(), headers=headers, trust_env=False)
    except httpx.TransportError:  # whoever goes on sending for too long loses the answer
        pass
    else:
        assert answer.status_code == 413
    assert sent < 64 * 2**20
    with Client(url) as client:
        assert client.healthy()


def test_the_reason_reaches_a_caller_who_sends_too_much(url: str) -> None:
    with Client(url, max_retries=0) as client:
        for _ in range(10):
            with pytest.raises(RequestTooLarge, match="takes 2,097,152 at once"):
                client.label([b"x" * 2**24], recipe="paint")


def test_without_the_key_nothing_opens(serving: Callable[[ServiceSettings], Any], recipes_dir: Path) -> None:
    with serving(ServiceSettings(recipes_dir=recipes_dir, api_keys=KEY)) as closed:
        with Client(closed, api_key=KEY) as friend:
            assert friend.label(["a crimson wall"], recipe="paint")[0].label == "red"
            assert len(friend.recipes()) == 3
        for key in (None, "wrong-key-wrong-key"):
            with Client(closed, api_key=key) as stranger:
                assert stranger.healthy()
                with pytest.raises(AccessDenied, match="key"):
                    stranger.label(["t"], recipe="paint")
                with pytest.raises(AccessDenied):
                    stranger.recipes()
        for path in ("/openapi.json", "/v1/recipes/paint", "/no/such/path"):
            assert httpx.get(closed + path, trust_env=False).status_code == 401


def test_a_recipe_that_is_edited_is_read_again_and_few_are_kept_ready(tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    text = "name: words\nclasses: [red, blue]\nlfs: [{name: a, kind: keyword, any: [wall], vote: %s}]\n"
    file.write_text(text % "red")
    app = create_app(ServiceSettings(recipes_dir=tmp_path, max_labelers=2))
    with Client.in_process(app) as client:
        first = client.label(["a wall"], recipe="words")
        file.write_text(text % "blue")
        second = client.label(["a wall"], recipe="words")
        assert (first[0].label, second[0].label) == ("red", "blue")
        assert first.versions.recipe != second.versions.recipe
        file.unlink()
        with pytest.raises(LookupError):
            client.label(["a wall"], recipe="words")
        for n in range(5):
            brought = (text % "red").replace("words", f"words-{n}")
            assert client.label(["a wall"], recipe=brought).recipe == f"words-{n}"
    assert len(app.state.service.engine._ready) == 2


def test_two_recipes_are_labeled_side_by_side(recipes_dir: Path, url: str) -> None:
    def waste_time() -> None:
        with Client(url) as client:
            client.label(["t"] * 4, recipe="slow")

    slow = [threading.Thread(target=waste_time) for _ in range(2)]
    for thread in slow:
        thread.start()
    time.sleep(0.1)
    started = time.perf_counter()
    with Client(url) as client:
        client.label(["a crimson wall"], recipe="paint")
    waited = time.perf_counter() - started
    for thread in slow:
        thread.join()
    # Behind both calls of the other recipe it would wait two seconds.
    assert waited < 1.5
