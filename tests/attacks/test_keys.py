"""Somebody guesses keys. None gets in, it costs little, and others go on working."""

from __future__ import annotations

import asyncio
import resource
import secrets
import threading
import time
from collections import Counter
from pathlib import Path

import httpx

from manyeyes.service.access.callers import Caller
from manyeyes.service.access.keyring import PREFIX, Keyring
from manyeyes.service.app import create_app, listen, make_server
from manyeyes.service.middleware.keys import KeyCheck
from manyeyes.service.settings import ServiceSettings
from tests.service.access.test_keys import KEY, STORED, StoredKeys, app_of, bearer, record

N_GUESSES = 2_000
MAX_S = 5.0
MAX_BYTES = 200 * 2**20


def _client(app: object, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, client=(address, 1))  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_guessing_is_slowed_and_costs_little() -> None:
    stored = StoredKeys(**{STORED: record()})
    app = app_of(ServiceSettings(api_keys=KEY, failures_per_minute=10), stored)

    async def attack() -> Counter[int]:
        async with _client(app, "6.6.6.6") as attacker:
            statuses: Counter[int] = Counter()
            for _ in range(N_GUESSES // 50):  # fifty at once
                guesses = [
                    attacker.get("/who", headers=bearer(PREFIX + secrets.token_hex(16))) for _ in range(50)
                ]
                statuses.update(answer.status_code for answer in await asyncio.gather(*guesses))
            # A right guess would not be noticed: no key is looked at any more.
            right = await attacker.get("/who", headers=bearer(KEY))
            assert (right.status_code, right.json()["code"]) == (429, "rate_limited")
            assert int(right.headers["retry-after"]) >= 1
        async with _client(app, "7.7.7.7") as other:
            assert (await other.get("/who", headers=bearer(KEY))).status_code == 200
        return statuses

    before, started = _peak_bytes(), time.perf_counter()
    statuses = asyncio.run(attack())
    assert time.perf_counter() - started < MAX_S
    assert _peak_bytes() - before < MAX_BYTES
    assert statuses[200] == 0
    assert statuses[401] + statuses[429] == N_GUESSES
    # Those that were under way at the same moment are the only ones beyond the ten.
    assert statuses[401] <= 15
    assert len(stored.asked) <= 15, "a guess beyond the limit must not cost a query"


def test_guessing_over_real_sockets_against_a_real_store(tmp_path: Path) -> None:
    settings = ServiceSettings(api_keys=KEY, port=0, store_url=f"sqlite:///{tmp_path}/service.db")
    listener = listen(settings)
    app = create_app(settings)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    _, secret = app.state.service.store.keys.create("team", ["read"], author="local")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def attack() -> tuple[Counter[int], float]:
        statuses: Counter[int] = Counter()
        async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as attacker:
            # Somebody at the same address who works all the while, with a key of the store.
            assert (await attacker.get("/v1/recipes", headers=bearer(secret))).status_code == 200
            started = time.perf_counter()
            for _ in range(20):
                guesses = [
                    attacker.post(
                        "/v1/label",
                        headers=bearer(
                            f"{secret[:36]}{secrets.token_urlsafe(32)}"
                        ),  # a known id, a wrong rest
                        content=b"x" * 10_000,
                    )
                    for _ in range(25)
                ]
                statuses.update(answer.status_code for answer in await asyncio.gather(*guesses))
            took_s = time.perf_counter() - started
            assert (await attacker.get("/v1/recipes", headers=bearer(secret))).status_code == 200
            assert (await attacker.get("/healthz")).status_code == 200
        return statuses, took_s

    try:
        before = _peak_bytes()
        statuses, took_s = asyncio.run(attack())
        assert took_s < MAX_S
        assert _peak_bytes() - before < MAX_BYTES
    finally:
        server.should_exit = True
        thread.join(timeout=30)
    assert set(statuses) == {401, 429}
    assert statuses[401] <= 20


def test_who_shares_an_address_with_a_guesser_goes_on() -> None:
    app = app_of(ServiceSettings(api_keys=KEY, failures_per_minute=5))

    async def attack() -> list[int]:
        async with _client(app, "6.6.6.6") as shared:
            assert (await shared.get("/who", headers=bearer(KEY))).status_code == 200
            for _ in range(20):
                await shared.get("/who", headers=bearer(secrets.token_hex(16)))
            return [(await shared.get("/who", headers=bearer(KEY))).status_code for _ in range(3)]

    assert asyncio.run(attack()) == [200, 200, 200]


def test_many_addresses_and_forged_ones_do_not_fill_the_memory() -> None:
    settings = ServiceSettings(api_keys=KEY, failures_per_minute=1)
    keys = Keyring(settings)
    seen: list[Caller] = []

    async def inner(scope: dict[str, object], receive: object, send: object) -> None:
        seen.append(scope["state"]["caller"])  # type: ignore[index]

    check = KeyCheck(inner, settings, keys)  # type: ignore[arg-type]

    async def ask(address: str, headers: list[tuple[bytes, bytes]]) -> int:
        statuses = []

        async def send(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        async def receive() -> dict[str, object]:
            return {"type": "http.request"}

        scope = {
            "type": "http",
            "path": "/v1/label",
            "method": "POST",
            "client": (address, 1),
            "headers": headers,
        }
        await check(scope, receive, send)  # type: ignore[arg-type]
        return statuses[0]

    async def attack() -> None:
        before, started = _peak_bytes(), time.perf_counter()
        for n in range(20_000):
            guess = b"Bearer " + secrets.token_hex(16).encode()
            status = await ask(f"2001:db8:{n // 65536:x}:{n % 65536:x}::1", [(b"authorization", guess)])
            assert status == 401
        # A caller may not choose the address that it is counted under.
        forged = [(b"authorization", b"Bearer guess-guess-guess"), (b"x-forwarded-for", b"9.9.9.9")]
        assert [await ask("6.6.6.6", forged) for _ in range(2)] == [401, 429]
        # Nor is there a new one behind every address of a network.
        plain = [(b"authorization", b"Bearer guess-guess-guess")]
        assert [await ask(f"2001:db8:ffff::{n}", plain) for n in range(1, 4)] == [401, 429, 429]
        assert time.perf_counter() - started < MAX_S * 2
        assert _peak_bytes() - before < MAX_BYTES

    asyncio.run(attack())
    assert seen == []


def test_no_secret_is_in_an_answer_or_a_log(caplog: object) -> None:
    import logging

    app = app_of(ServiceSettings(api_keys=KEY))

    async def attack() -> str:
        async with _client(app, "6.6.6.6") as attacker:
            return (await attacker.get("/who", headers=bearer(KEY + "-almost"))).text

    caplog.set_level(logging.DEBUG)  # type: ignore[attr-defined]
    assert KEY not in asyncio.run(attack())
    assert KEY not in caplog.text  # type: ignore[attr-defined]
