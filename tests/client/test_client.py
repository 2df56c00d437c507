"""The SDK against doubles: what it sends, what it makes of answers, and when it tries again."""

from __future__ import annotations

import asyncio
import io
import json
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from manyeyes import AsyncClient, Client, Item, Label
from manyeyes.client import LabelResult, asynchronous, sync
from manyeyes.client.images import image_bytes
from manyeyes.client.items import fill_form, recipe_text
from manyeyes.errors import (
    ImageTooLarge,
    InvalidItem,
    InvalidRecipe,
    InvalidRequest,
    ManyeyesError,
    RecipeNotFound,
    ServiceFailed,
    ServiceUnavailable,
    UndecodableImage,
    UnreadableItem,
    by_code,
)

VERSIONS = {"recipe": "v", "primitives": {"toy": "1"}, "label_model": "m"}


def _labeled(name: str) -> dict[str, Any]:
    return Label(
        id=name,
        status="labeled",
        label="a",
        confidence=0.1 + 0.2,
        probs={"a": 0.1 + 0.2},
        runner_up="b",
        prior=0.0,
    ).to_dict()


def _answer(request: httpx.Request) -> httpx.Response:
    """Answer as a service does: one label for each item that was sent."""
    text = request.read().decode("latin-1")
    start = text.index("\r\n\r\n", text.index('name="items"')) + 4
    entries = json.loads(text[start : text.index("\r\n--", start)])
    rows = [_labeled(entry["id"]) for entry in entries]
    return httpx.Response(200, json={"labels": rows, "versions": VERSIONS, "recipe": "r"})


def _double(
    *answers: httpx.Response | Exception | Callable[[httpx.Request], httpx.Response], **options: Any
) -> Client:
    """Return a client of a double that gives these answers in turn."""
    left = list(answers)

    def handle(request: httpx.Request) -> httpx.Response:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    return Client(transport=httpx.MockTransport(handle), rng=random.Random(7), **options)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note how long the client would wait, without waiting."""
    waited: list[float] = []

    async def note(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(sync.time, "sleep", waited.append)
    monkeypatch.setattr(asynchronous.asyncio, "sleep", note)
    return waited


def _problem(code: str, detail: str = "told", status: int = 400, **headers: str) -> httpx.Response:
    return httpx.Response(
        status,
        content=json.dumps({"code": code, "detail": detail}),
        headers={"content-type": "application/problem+json", **headers},
    )


# What is sent


def test_every_kind_of_item_is_told_apart(tmp_path: Path) -> None:
    photo = tmp_path / "hat.png"
    photo.write_bytes(b"png")
    form = fill_form(
        [
            Item("a", image=str(photo), text="t", metadata={"price": 1.5}),
            photo,
            "a text",
            b"bytes of a file",
            {"id": "d", "text": "t"},
            Image.new("RGB", (2, 2)),
        ]
    )
    entries = [json.loads(entry) for entry in form.entries]
    assert entries[0] == {
        "id": "a",
        "file": 0,
        "text": "t",
        "metadata": {"price": 1.5, "filename": "hat.png"},
    }
    assert entries[1] == {"id": str(photo), "file": 1}
    assert entries[2] == {"id": "item-2", "text": "a text"}
    assert entries[3] == {"id": "item-3", "file": 2}
    assert entries[4] == {"id": "d", "text": "t"}
    assert form.files[:3] == [b"png", b"png", b"bytes of a file"]
    assert form.files[3].startswith(b"\x89PNG")
    assert not form.unsent


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "LAB"]
)
def test_a_pil_image_travels_without_loss(mode: str) -> None:
    noise = Image.frombytes("RGB", (16, 16), random.Random(3).randbytes(16 * 16 * 3))
    image = (
        noise.convert("L").convert(mode)
        if mode in ("I;16", "I", "F")
        else (Image.frombytes("LAB", (16, 16), noise.tobytes()) if mode == "LAB" else noise.convert(mode))
    )
    with Image.open(io.BytesIO(image_bytes(image, max_bytes=10**6))) as back:
        assert back.tobytes() == image.tobytes()


def test_a_pil_image_keeps_its_orientation() -> None:
    image = Image.new("RGB", (4, 2))
    image.getexif()[274] = 6
    with Image.open(io.BytesIO(image_bytes(image, max_bytes=10**6))) as back:
        assert back.getexif()[274] == 6


def test_what_cannot_be_sent_is_a_row_and_the_others_are_sent(tmp_path: Path) -> None:
    fifo = tmp_path / "pipe"
    os.mkfifo(fifo)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    (tmp_path / "large.png").write_bytes(b"x" * 2000)
    cut = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(cut, "JPEG")
    broken: list[tuple[Any, type[ManyeyesError]]] = [
        (tmp_path / "gone.png", UnreadableItem),
        (tmp_path, UnreadableItem),
        (fifo, UnreadableItem),
        (loop, UnreadableItem),
        (Path("/dev/zero"), UnreadableItem),
        (Item("nul", image="a\0b"), UnreadableItem),
        (tmp_path / "large.png", ImageTooLarge),
        (b"x" * 2000, ImageTooLarge),
        (Image.open(io.BytesIO(cut.getvalue()[:500])), UndecodableImage),
        (5, InvalidItem),
        (None, InvalidItem),
        ({"imgae": b"x"}, InvalidItem),
        ({"id": 5, "text": "t"}, InvalidItem),
        (Item("", text="t"), InvalidItem),
        (Item("obj", text="t", metadata={"when": object()}), InvalidItem),  # type: ignore[dict-item]
        (Item("nan", text="t", metadata={"price": float("nan")}), InvalidItem),
        (Item("list", text="t", metadata=[1]), InvalidItem),  # type: ignore[arg-type]
        (Item("odd", image=object()), InvalidItem),  # type: ignore[arg-type]
        (Item("half", text="\ud800"), InvalidItem),
    ]
    double = _double(_answer, max_image_bytes=1024)
    labels = double.label(["first", *(given for given, _ in broken), "last"], recipe="r")
    assert [label.status for label in labels] == ["labeled", *["error"] * len(broken), "labeled"]
    assert [type(label.error) for label in labels[1:-1]] == [kind for _, kind in broken]
    assert all(str(label.error) for label in labels[1:-1])
    assert len({label.id for label in labels}) == len(labels)


def test_where_nothing_can_be_sent_nothing_is_asked() -> None:
    double = _double()
    labels = double.label([Path("/no/such.jpg")], recipe="r")
    assert [label.status for label in labels] == ["error"]
    assert labels.versions.recipe == ""


@pytest.mark.parametrize(
    "items", ["text", b"bytes", Path("a.jpg"), {"text": "t"}, Item("a"), 5, None, [], iter(())]
)
def test_items_must_be_a_list_with_something_in_it(items: Any) -> None:
    double = _double()
    with pytest.raises(InvalidRequest):
        double.label(items, recipe="r")


def test_two_equal_ids_are_refused_and_made_up_ones_are_made_different() -> None:
    with pytest.raises(InvalidRequest, match="two items have the id 'a'"):
        fill_form([Item("a", text="1"), {"id": "a", "text": "2"}])
    form = fill_form([{"id": "item-1", "text": "1"}, "2", "3"])
    assert [json.loads(entry)["id"] for entry in form.entries] == ["item-1", "item-1#2", "item-2"]


def test_a_recipe_may_be_many_things(tmp_path: Path) -> None:
    class Recipe:
        def to_json(self) -> str:
            return '{"name": "r"}'

    file = tmp_path / "r.yaml"
    file.write_text("name: é", "utf-8")
    assert recipe_text("garments") == "garments"
    assert recipe_text(file) == "name: é"
    assert recipe_text({"name": "r"}) == '{"name": "r"}'
    assert recipe_text(Recipe()) == '{"name": "r"}'
    for wrong in (5, None, {"name": object()}, tmp_path / "gone.yaml"):
        with pytest.raises(InvalidRecipe):
            recipe_text(wrong)


# What is made of answers


def test_labels_come_back_in_order_with_every_bit_of_every_float() -> None:
    double = _double(_answer)
    labels = double.label(["one", "two"], recipe="r")
    assert isinstance(labels, LabelResult)
    assert [label.id for label in labels] == ["item-0", "item-1"]
    assert labels[0].confidence == 0.1 + 0.2
    assert labels[-1] == labels[0:2][1]
    assert (labels.recipe, labels.versions.primitives) == ("r", {"toy": "1"})


@pytest.mark.parametrize("kind", by_code().values(), ids=list(by_code()))
def test_every_problem_becomes_its_class_again(kind: type[ManyeyesError], no_waiting: list[float]) -> None:
    double = _double(_problem(kind.code, "what went wrong"))
    with pytest.raises(kind, match="what went wrong") as caught:
        double.recipes()
    assert type(caught.value) is kind


def test_the_builtin_that_users_expect_catches_it_too() -> None:
    double = _double(_problem("recipe_not_found"))
    with pytest.raises(LookupError):
        double.recipe("r")


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"labels": [], "versions": VERSIONS, "recipe": "r"}),
        httpx.Response(200, json={"labels": [{"id": "a"}], "versions": VERSIONS, "recipe": "r"}),
        httpx.Response(200, json={"labels": [_labeled("a")], "recipe": "r"}),
        httpx.Response(302, headers={"location": "https://example.org"}),
        httpx.Response(404, text="nothing here"),
        httpx.Response(500, text="oops"),
        httpx.Response(400, content=b"\xff", headers={"content-type": "application/problem+json"}),
        httpx.Response(400, json=[1], headers={"content-type": "application/problem+json"}),
        _problem("a code of next year"),
    ],
)
def test_what_no_service_would_answer_is_named_so(answer: httpx.Response) -> None:
    double = _double(answer)
    with pytest.raises(ServiceFailed):
        double.label(["one"], recipe="r")


# When it tries again


def test_a_busy_service_is_asked_again_when_it_says(no_waiting: list[float]) -> None:
    busy = _problem("service_unavailable", status=503, **{"retry-after": "3"})
    double = _double(busy, httpx.Response(429, headers={"retry-after": "2"}), _answer)
    assert double.label(["one"], recipe="r")[0].label == "a"
    assert 3 < no_waiting[0] < 3.3
    assert 2 < no_waiting[1] < 2.6


def test_a_date_to_come_back_and_nonsense_are_both_understood(no_waiting: list[float]) -> None:
    long_ago = httpx.Response(503, headers={"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"})
    far_off = httpx.Response(503, headers={"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"})
    nonsense = httpx.Response(503, headers={"retry-after": "soon"})
    huge = httpx.Response(503, headers={"retry-after": "9" * 30})
    double = _double(long_ago, far_off, nonsense, huge, _answer)
    double.label(["one"], recipe="r")
    assert no_waiting[0] < 0.3
    assert no_waiting[1] == 60
    assert no_waiting[2] < 1.1
    assert no_waiting[3] == 60


def test_a_broken_connection_is_tried_again(no_waiting: list[float]) -> None:
    double = _double(
        httpx.ConnectError("refused"), httpx.ReadError("reset"), httpx.RemoteProtocolError("gone"), _answer
    )
    assert double.label(["one"], recipe="r")[0].label == "a"
    assert no_waiting == sorted(no_waiting)
    assert len(no_waiting) == 3


def test_patience_ends(no_waiting: list[float]) -> None:
    double = _double(*[_problem("service_unavailable", "still busy", status=503)] * 5)
    with pytest.raises(ServiceUnavailable, match="still busy"):
        double.recipes()
    assert len(no_waiting) == 4
    double = _double(*[httpx.ConnectError("refused")] * 5)
    with pytest.raises(ServiceUnavailable, match="manyeyes serve"):
        double.recipes()


def test_a_slow_answer_is_not_asked_for_twice(no_waiting: list[float]) -> None:
    double = _double(httpx.ReadTimeout("slow"))
    with pytest.raises(ServiceUnavailable, match="timeout_s"):
        double.recipes()
    assert no_waiting == []


def test_where_no_service_is_the_message_says_what_to_start() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets the port, and nobody answers
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url, max_retries=1) as lonely:
            assert lonely.healthy() is False
            with pytest.raises(ServiceUnavailable, match=f"no service answers at {url}.*manyeyes serve"):
                lonely.label(["one"], recipe="r")


def test_the_key_travels_in_the_header_and_nowhere_else() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer the-key"
        assert "the-key" not in str(request.url)
        return httpx.Response(200, json={"recipes": [], "broken": []})

    with Client(api_key="the-key", transport=httpx.MockTransport(handle)) as keyed:
        assert keyed.recipes() == []


def test_a_key_from_a_file_may_end_with_a_line_break_and_is_never_shown() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer the-key"
        return httpx.Response(200, json={"recipes": [], "broken": []})

    with Client(api_key="the-key\n", transport=httpx.MockTransport(handle)) as keyed:
        assert keyed.recipes() == []
    for wrong in ("the-key\r\nHost: x", "the-kéy"):
        with pytest.raises(InvalidRequest) as caught:
            Client(api_key=wrong)
        assert "the-k" not in str(caught.value)


def test_the_async_client_does_the_same(no_waiting: list[float]) -> None:
    answers: list[Any] = [httpx.Response(503, headers={"retry-after": "1"}), httpx.ConnectError("refused")]

    def handle(request: httpx.Request) -> httpx.Response:
        if answers:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer  # type: ignore[no-any-return]
        if request.url.path == "/v1/label":
            return _answer(request)
        return _problem("recipe_not_found", "no recipe 'x'", status=404)

    async def run() -> LabelResult:
        async with AsyncClient(transport=httpx.MockTransport(handle)) as double:
            with pytest.raises(RecipeNotFound):
                await double.recipe("x/../y")
            labels = await double.label(["one", Path("/no/such.jpg"), "two"], recipe="r")
            assert await double.healthy() is False
            return labels

    labels = asyncio.run(run())
    assert [label.status for label in labels] == ["labeled", "error", "labeled"]
    assert len(no_waiting) == 2
