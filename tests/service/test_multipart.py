"""Forms, as they arrive: in pieces, cut off, or not forms at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyeyes.errors import InvalidRequest, RequestTooLarge
from manyeyes.service.intake.multipart import Part, read_parts


def _encoded(*parts: tuple[str, str | None, bytes]) -> tuple[str, bytes]:
    told = [(name, (filename, data)) for name, filename, data in parts]
    request = httpx.Request("POST", "http://x", files=told)
    return request.headers["content-type"], request.read()


def _read(content_type: str, body: bytes, *, step: int = 7, max_parts: int = 10) -> list[Part]:
    async def stream() -> AsyncIterator[bytes]:
        for start in range(0, len(body), step):
            yield body[start : start + step]

    return asyncio.run(read_parts(content_type, stream(), max_parts=max_parts))


@settings(max_examples=50, deadline=None)
@given(
    parts=st.lists(
        st.tuples(
            st.text(st.characters(codec="ascii", categories=["L"]), min_size=1, max_size=8),
            st.none()
            | st.text(st.characters(codec="utf-8", categories=["L", "N", "Zs"]), min_size=1, max_size=8),
            st.binary(max_size=64),
        ),
        min_size=1,
        max_size=5,
    ),
    step=st.integers(1, 64),
)
def test_parts_come_out_as_they_went_in_however_the_body_is_cut(
    parts: list[tuple[str, str | None, bytes]], step: int
) -> None:
    read = _read(*_encoded(*parts), step=step)
    assert [(part.name, part.filename, bytes(part.data)) for part in read] == parts


def test_a_body_that_was_cut_off_is_refused_wherever_it_ends() -> None:
    content_type, body = _encoded(("files", "a.png", b"12345"), ("recipe", None, b"r"))
    for end in range(len(body) - 4):  # the last two bytes, and the dashes before them, close the form
        with pytest.raises(InvalidRequest, match=r"cut off|not well-formed"):
            _read(content_type, body[:end])


@pytest.mark.parametrize(
    ("content_type", "body", "told"),
    [
        ("multipart/form-data", b"--x--", "names no boundary"),
        ("multipart/form-data; boundary=", b"--x--", "names no boundary"),
        ("multipart/form-data; boundary=" + "x" * 1000, b"--x--", "not well-formed"),
        ("multipart/form-data; boundary=x", b"hello", "not well-formed"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno headers\r\n--x--\r\n", "no `Content-Disposition"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: attachment; name="a"\r\n\r\n1\r\n--x--\r\n',
            "no `Content-Disposition",
        ),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\n" + b"a: b\r\n" * 100 + b"\r\n1\r\n--x--\r\n",
            "not well-formed",
        ),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: " + b"a" * 100_000 + b"\r\n\r\n1\r\n--x--\r\n",
            "not well-formed",
        ),
    ],
)
def test_what_is_no_form_is_refused(content_type: str, body: bytes, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        _read(content_type, body, step=4096)


def test_too_many_parts_are_refused_before_the_rest_is_read() -> None:
    with pytest.raises(RequestTooLarge, match="more than 3 parts"):
        _read(*_encoded(*[("texts", None, b"t")] * 4), max_parts=3)
    assert len(_read(*_encoded(*[("texts", None, b"t")] * 3), max_parts=3)) == 3
