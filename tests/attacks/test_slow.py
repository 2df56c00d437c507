"""Callers who take their time: headers that trickle in, bodies that never end, answers that nobody reads."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.attacks.conftest import Victim, picture

HEAD = b"POST /v1/label HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


@contextmanager
def connections(victim: Victim, n: int) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        made = []
        for _ in range(n):
            connection = stack.enter_context(socket.create_connection(victim.address, timeout=5))
            made.append(connection)
        yield made


def send(connection: socket.socket, data: bytes) -> bool:
    """Send some bytes; returns whether the other side still listens."""
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def still_open(connection: socket.socket) -> bool:
    while select.select([connection], [], [], 0)[0]:
        try:
            if not connection.recv(65536):
                return False
        except OSError:
            return False
    return True


def answered(connection: socket.socket) -> bytes:
    connection.settimeout(5)
    data = b""
    try:
        while part := connection.recv(65536):
            data += part
    except OSError:
        pass
    return data


def test_headers_that_trickle_in(victim: Victim) -> None:
    with victim.costs_little(), connections(victim, 150) as slow:
        started = time.monotonic()
        for connection in slow:
            send(connection, HEAD)
        n = 0
        while any(still_open(one) for one in slow) and time.monotonic() - started < 4:
            n += 1
            for connection in slow:
                send(connection, b"X-%d: y\r\n" % n)
            assert httpx.get(victim.url + "/healthz", timeout=2).status_code == 200
            time.sleep(0.1)
        # A second is what they had; each byte that they sent gave them no more.
        assert time.monotonic() - started < 3
        assert not any(still_open(one) for one in slow)


def test_connections_that_say_nothing(victim: Victim) -> None:
    with victim.costs_little(), connections(victim, 150) as silent:
        time.sleep(1.5)
        assert not any(still_open(one) for one in silent)


def test_a_second_request_that_trickles_in(victim: Victim) -> None:
    with victim.costs_little(), connections(victim, 20) as slow:
        for connection in slow:
            send(connection, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            send(connection, b"GET /healthz HTTP/1.1\r\n")
        time.sleep(1.5)
        assert not any(still_open(one) for one in slow)


def test_more_connections_than_there_may_be(victim: Victim) -> None:
    with victim.costs_little(), connections(victim, 290) as first, connections(victim, 290) as second:
        # The last to come are served, and those that waited longest are gone.
        for connection in second[-20:]:
            send(connection, b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert answered(connection).startswith(b"HTTP/1.1 200")
        assert sum(still_open(one) for one in first) < 150


@pytest.mark.slow
def test_bodies_that_trickle_in(victim: Victim) -> None:
    # Time passes, but not the service's: three seconds of waiting, and a few until those still sending have seen why.
    with victim.costs_little(max_s=15), connections(victim, 100) as slow:
        started = time.monotonic()
        for connection in slow:
            send(connection, HEAD + b"Content-Length: 1000000\r\n\r\n{")
        while time.monotonic() - started < 3.5:  # three seconds is what a body has
            for connection in slow:
                send(connection, b" ")
            assert victim.codes({"image": picture()}) == [None]
            time.sleep(0.2)
        assert sum(answered(one).startswith(b"HTTP/1.1 408") for one in slow) == len(slow)


def test_chunks_of_one_byte(victim: Victim) -> None:
    with victim.costs_little(), connections(victim, 4) as slow:

        def flood(connection: socket.socket) -> None:
            send(connection, HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(300):
                if not send(connection, b"1\r\n \r\n" * 1000):
                    break

        threads = [threading.Thread(target=flood, args=(one,)) for one in slow]
        for thread in threads:
            thread.start()
        for _ in range(5):
            assert httpx.get(victim.url + "/healthz", timeout=3).status_code == 200
        for thread in threads:
            thread.join()


def test_answers_that_nobody_reads(victim: Victim) -> None:
    with victim.costs_little(max_s=8), connections(victim, 50) as deaf:
        for connection in deaf:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            send(connection, b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n" * 4)
        time.sleep(0.5)
        assert httpx.get(victim.url + "/healthz", timeout=3).status_code == 200


def test_requests_without_end_on_one_connection(victim: Victim) -> None:
    with victim.costs_little(), connections(victim, 20) as greedy:
        for connection in greedy:
            send(connection, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 50_000)


def test_callers_who_hang_up(victim: Victim) -> None:
    body = b'{"recipe": "paint", "items": [{"image": "' + picture().encode() + b'"}]}'
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with victim.costs_little():
        for cut in (len(HEAD) // 2, len(HEAD) + 10, len(request) - 5, len(request)):
            with connections(victim, 50) as gone:
                for connection in gone:
                    send(connection, request[:cut])


def test_what_is_no_http(victim: Victim) -> None:
    tried = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 100_000, b"A" * 200_000,
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 50_000 + b"\r\n",
        b"GET / HTTP/1.1\r\nA: " + b"b" * 500_000 + b"\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/recipes HTTP/1.1\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345", HEAD + b"Content-Length: -1\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n", HEAD + b"Transfer-Encoding: gzip\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", HEAD + b" folded: a\r\n\r\n",
        HEAD + b"X: a\x00b\r\n\r\n", b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://127.0.0.1:22/ HTTP/1.1\r\nHost: a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ]  # fmt: skip
    with victim.costs_little(max_s=10), connections(victim, len(tried)) as hostile:
        for connection, data in zip(hostile, tried, strict=True):
            send(connection, data)
        for connection in hostile:
            connection.shutdown(socket.SHUT_WR) if still_open(connection) else None
        told = [answered(one) for one in hostile]
    assert not [one[:100] for one in told if b" 200 " in one[:20] or b" 500 " in one[:20]]
