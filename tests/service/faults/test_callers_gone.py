"""A thousand callers who hang up leave nothing behind."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from manyeyes import Client, Item

Photo = Callable[..., bytes]

BOUNDARY = b"boundary"


def body_of(photo: bytes) -> bytes:
    return (
        b'--%b\r\nContent-Disposition: form-data; name="recipe"\r\n\r\nlooks\r\n'
        b'--%b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n%b\r\n--%b--\r\n'
        % (BOUNDARY, BOUNDARY, photo, BOUNDARY)
    )


def leave(server: Any, photo: Photo, n: int) -> None:
    """Send half of a call, or a whole one, and hang up: in order, or with a reset."""
    body = body_of(photo("magenta", n))
    head = (
        b"POST /v1/label HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=%b\r\n"
        b"Content-Length: %d\r\n\r\n" % (BOUNDARY, len(body))
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as gone:
        if n % 4 == 3:
            gone.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.sendall(head + (body[: len(body) // 2] if n % 2 else body))


def quiet(server: Any) -> bool:
    """Return whether nothing waits and nothing is under way but the question itself."""
    return (
        server.metric("manyeyes_queue_items") == 0
        and server.metric("manyeyes_http_requests_in_progress") <= 1
        and server.metric("manyeyes_held_bytes") == 0
    )


@pytest.mark.slow
def test_a_thousand_callers_who_hang_up_leave_no_work(serve: Callable[..., Any], photo: Photo) -> None:
    # Threads of calls are kept once they were needed: so few are all there after the first hundred.
    server = serve(MANYEYES_MAX_ACTIVE_ITEMS="8")
    client = Client(server.address, max_retries=0, timeout_s=60)

    def hang_up(n: int, *, first: int) -> None:
        for number in range(first, first + n):
            leave(server, photo, number)
        deadline = time.monotonic() + 30
        while not quiet(server):
            assert time.monotonic() < deadline, "something is still under way"
            time.sleep(0.1)
        started = time.perf_counter()
        assert client.label([Item("a", image=photo("red", first))], recipe="looks")[0].label == "red"
        assert time.perf_counter() - started < 2

    hang_up(100, first=0)  # threads and connections that a busy service keeps
    files, threads = server.n_files, server.n_threads
    hang_up(1000, first=1000)
    deadline = time.monotonic() + 20
    while server.n_files > files or server.n_threads > threads + 2:
        assert time.monotonic() < deadline, (files, server.n_files, threads, server.n_threads)
        time.sleep(0.2)
    # Most were gone before their turn: to see them all would have taken a hundred milliseconds each.
    assert server.process.poll() is None
    client.close()
