"""Bodies that are too large, too many at once, or made to be slow to read. Each is refused before it costs much."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.attacks.conftest import Victim, a_victim, picture


def megabytes(n: int) -> Iterator[bytes]:
    for _ in range(n):
        yield b" " * 2**20


def refused(victim: Victim, content: object, content_type: str = "application/json") -> int:
    """Send a body, and return the status; what is sent after the answer is nobody's business."""
    try:
        return victim.post(content=content, headers={"Content-Type": content_type}).status_code
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        return 0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """Return a service that takes 8 MiB at once, and 24 MiB of all callers together."""
    with a_victim(
        tmp_path_factory.mktemp("small"),
        MANYEYES_MAX_BODY_BYTES="8MiB",
        MANYEYES_MAX_HELD_BYTES="24MiB",
        MANYEYES_MAX_ITEMS="100",
        MANYEYES_BODY_TIMEOUT_S="3",
    ) as running:
        yield running


def test_a_body_that_says_how_large_it_is(small: Victim) -> None:
    with small.costs_little():
        assert refused(small, b" " * 9 * 2**20) == 413


def test_a_body_without_a_length_and_without_an_end(small: Victim) -> None:
    with small.costs_little():
        assert refused(small, megabytes(100)) == 413


def test_a_form_without_an_end(small: Victim) -> None:
    def form() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        yield from megabytes(100)

    with small.costs_little():
        assert refused(small, form(), "multipart/form-data; boundary=b") == 413


def test_many_large_bodies_at_once(small: Victim) -> None:
    statuses: list[int] = []

    def flood() -> None:
        statuses.append(refused(small, megabytes(7)))

    with small.costs_little():
        threads = [threading.Thread(target=flood) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(statuses) <= {0, 422, 429}


def test_more_items_than_there_may_be(small: Victim) -> None:
    with small.costs_little():
        assert refused(small, json.dumps({"recipe": "says", "items": [{"text": "a"}] * 101}).encode()) == 413
        part = b'--b\r\nContent-Disposition: form-data; name="texts"\r\n\r\na\r\n'
        assert refused(small, part * 100_000 + b"--b--\r\n", "multipart/form-data; boundary=b") == 413


@pytest.mark.parametrize(
    "body",
    [
        b"--b\r\nContent-Disposition: form-data; name=" + b"a" * 7_000_000,
        b"--b\r\n" + b"X: y\r\n" * 1_000_000,
        b"--b\r\nContent-Disposition: form-data; " + b"a=b; " * 1_000_000 + b"\r\n\r\n",
        b"\r\n" * 3_500_000,
        b"-" * 7_000_000,
        b'--b\r\nContent-Disposition: form-data; name="texts"\r\n\r\n' + b"\r\n--" * 1_700_000,
        b'--b\r\nContent-Disposition: form-data; name="texts"\r\n\r\n' + b"\r" * 7_000_000,
        b'--b\r\nContent-Disposition: form-data; name="texts"\r\n\r\na\r\n--b--' + b"\r\n" * 3_000_000,
    ],
    ids=["name", "headers", "options", "lines", "dashes", "boundaries", "returns", "epilogue"],
)
def test_forms_that_are_slow_to_read(small: Victim, body: bytes) -> None:
    with small.costs_little():
        status = refused(small, body, "multipart/form-data; boundary=b")
        assert status in (0, 413, 422)


def test_an_image_that_is_too_large(small: Victim) -> None:
    with small.costs_little():
        assert small.codes({"image": "A" * 6_000_000}) == ["unsupported_format"]
        assert small.codes({"image": picture() + "=" * 100_000}) in (["invalid_item"], [None])


def test_texts_that_are_too_long(small: Victim) -> None:
    with small.costs_little():
        assert len(small.codes({"text": "a " * 3_000_000}, {"text": "crimson"}, recipe="says")) == 2


def test_many_headers_and_a_long_path(small: Victim) -> None:
    with small.costs_little():
        answer = httpx.get(small.url + "/v1/recipes/" + "a" * 50_000)
        assert answer.status_code in (400, 404, 422)
        answer = httpx.get(small.url + "/healthz", headers={f"x-{n}": "a" * 100 for n in range(400)})
        assert answer.status_code in (200, 400)
