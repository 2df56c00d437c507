"""Which key opens what: those of the settings, those of a store, and what happens where the store is gone."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from manyeyes.errors import InvalidSettings, StoreUnavailable
from manyeyes.service.access.callers import LOCAL, caller_of
from manyeyes.service.access.credentials import key_of
from manyeyes.service.access.keyring import Keyring
from manyeyes.service.middleware.keys import KeyCheck
from manyeyes.service.middleware.proxies import Forwarded
from manyeyes.service.settings import ServiceSettings
from manyeyes.service.store.records import KeyRecord

KEY = "a-key-that-is-long-enough"
STORED = "me_0123_a-key-of-the-store"


class StoredKeys:
    """Keys of a store that is not there; counts what it is asked."""

    def __init__(self, **keys: KeyRecord) -> None:
        self.keys = keys
        self.asked: list[str] = []
        self.used: list[str] = []
        self.gone = False

    def find(self, secret: str) -> KeyRecord | None:
        self.asked.append(secret)
        if self.gone:
            raise StoreUnavailable("the database does not answer")
        return self.keys.get(secret)

    def touch(self, id: str) -> None:
        self.used.append(id)


def record(**changes: Any) -> KeyRecord:
    told = {
        "id": "0123",
        "name": "team",
        "scopes": frozenset({"label"}),
        "author": "local",
        "created_at": datetime.now(UTC),
    }
    return KeyRecord(**(told | changes))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def app_of(
    settings: ServiceSettings, stored: StoredKeys | None = None, clock: Callable[[], float] | None = None
) -> Starlette:
    async def who(request: Request) -> JSONResponse:
        caller = caller_of(request)
        client = request.client
        return JSONResponse(
            {
                "key_id": caller and caller.key_id,
                "scopes": sorted(caller.scopes) if caller else [],
                "address": client and client.host,
                "scheme": request.url.scheme,
            }
        )

    keys = Keyring(settings, stored, **({"clock": clock} if clock else {}))
    return Starlette(
        routes=[Route("/who", who, methods=["GET", "POST"])],
        middleware=[
            Middleware(Forwarded, trusted=settings.trusted_proxies),
            Middleware(KeyCheck, settings=settings, keys=keys),
        ],
    )


def run(app: Starlette, ask: Callable[[httpx.AsyncClient], Awaitable[Any]], *, peer: str = "1.2.3.4") -> Any:
    async def go() -> Any:
        transport = httpx.ASGITransport(app=app, client=(peer, 1234))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await ask(client)

    return asyncio.run(go())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_key_may_be_written_with_what_it_opens() -> None:
    digest = hashlib.sha256(b"another-long-key").hexdigest()
    settings = ServiceSettings(api_keys=f"{KEY},sha256:{digest}=read+label")
    app = app_of(settings)
    assert run(app, lambda c: c.get("/who", headers=bearer(KEY))).json()["scopes"] == [
        "admin",
        "label",
        "read",
    ]
    told = run(app, lambda c: c.get("/who", headers=bearer("another-long-key"))).json()
    assert told["scopes"] == ["label", "read"]
    assert told["key_id"] == f"env-{digest[:8]}"
    for wrong in (KEY + "x", settings.api_keys[0], settings.api_keys[1], f"{KEY}=label", digest):
        assert run(app, lambda c, k=wrong: c.get("/who", headers=bearer(k))).status_code == 401


def test_base64_that_ends_with_equals_signs_is_a_key() -> None:
    key = base64.b64encode(b"0123456789abcdefg").decode()
    assert key.endswith("=")
    app = app_of(ServiceSettings(api_keys=key))
    assert run(app, lambda c: c.get("/who", headers=bearer(key))).status_code == 200


@pytest.mark.parametrize(
    "key", [f"{KEY}=label+raed", f"sha256:{'0' * 64}=raed", f"sha256:{'0' * 64}=label+", "short=label"]
)
def test_scopes_that_are_none_are_named_and_the_key_is_not(key: str) -> None:
    with pytest.raises(InvalidSettings) as caught:
        ServiceSettings(api_keys=key)
    assert key.partition("=")[0] not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({"Authorization": "Bearer abc"}, "abc"),
        ({"Authorization": "bearer  abc "}, "abc"),
        ({"Authorization": "Basic " + base64.b64encode(b"anybody:a:b").decode()}, "a:b"),
        ({"Authorization": "Basic " + base64.b64encode(b"key").decode()}, None),
        ({"Authorization": "Basic !!!"}, None),
        ({"Authorization": "Basic " + base64.b64encode(b"\xff\xfe:x").decode()}, None),
        ({"Authorization": "Digest abc"}, None),
        ({"Authorization": "Bearer"}, None),
        ({"X-Api-Key": "abc"}, "abc"),
        ({}, None),
    ],
)
def test_a_key_comes_in_one_of_three_ways(headers: dict[str, str], found: str | None) -> None:
    assert key_of(Headers(headers)) == found


def test_a_key_of_the_store_is_asked_for_once_in_some_seconds() -> None:
    stored, clock = StoredKeys(**{STORED: record()}), Clock()
    app = app_of(ServiceSettings(api_keys=KEY, key_cache_s=5), stored, clock)

    async def ask(client: httpx.AsyncClient) -> None:
        together = [client.get("/who", headers=bearer(STORED)) for _ in range(20)]
        for answer in await asyncio.gather(*together):
            assert answer.json() == {
                "key_id": "0123",
                "scopes": ["label"],
                "address": "1.2.3.4",
                "scheme": "http",
            }
        assert stored.asked == [STORED]
        assert len(stored.used) == 20
        stored.keys.clear()  # revoked
        clock.now += 4
        assert (await client.get("/who", headers=bearer(STORED))).status_code == 200
        clock.now += 2
        assert (await client.get("/who", headers=bearer(STORED))).status_code == 401

    run(app, ask)


def test_a_key_that_expires_while_it_is_remembered_opens_nothing() -> None:
    stored = StoredKeys(**{STORED: record(expires_at=datetime.now(UTC) + timedelta(milliseconds=200))})
    app = app_of(ServiceSettings(api_keys=KEY, key_cache_s=60), stored)

    async def ask(client: httpx.AsyncClient) -> list[int]:
        first = await client.get("/who", headers=bearer(STORED))
        await asyncio.sleep(0.25)
        return [first.status_code, (await client.get("/who", headers=bearer(STORED))).status_code]

    assert run(app, ask) == [200, 401]
    assert len(stored.asked) == 1


def test_without_the_store_the_keys_of_the_settings_work_and_no_other() -> None:
    stored, clock = StoredKeys(**{STORED: record()}), Clock()
    app = app_of(ServiceSettings(api_keys=KEY), stored, clock)

    async def ask(client: httpx.AsyncClient) -> list[int]:
        known = await client.get("/who", headers=bearer(STORED))
        stored.gone = True
        clock.now += 60
        keys = (STORED, "me_9999_nobodys-key", KEY, "not-a-key-of-the-store")
        after = [await client.get("/who", headers=bearer(key)) for key in keys]
        return [answer.status_code for answer in (known, *after)]

    assert run(app, ask) == [200, 503, 503, 200, 401]


def test_many_who_wait_for_a_database_that_is_gone_wait_together() -> None:
    stored = StoredKeys()
    stored.gone = True
    find = stored.find

    def slowly(secret: str) -> KeyRecord | None:
        time.sleep(0.2)
        return find(secret)

    stored.find = slowly  # type: ignore[method-assign]
    app = app_of(ServiceSettings(api_keys=KEY, failures_per_minute=1000), stored)

    async def ask(client: httpx.AsyncClient) -> set[int]:
        calls = [client.get("/who", headers=bearer(f"me_{n}_key-of-a-team")) for n in range(40)]
        return {answer.status_code for answer in await asyncio.gather(*calls)}

    started = time.perf_counter()
    assert run(app, ask) == {503}
    assert time.perf_counter() - started < 1.0  # and not 40 / 4 × 0.2 s
    assert len(stored.asked) <= 8


def test_what_is_no_key_of_the_store_costs_no_question() -> None:
    stored = StoredKeys()
    run(app_of(ServiceSettings(api_keys=KEY), stored), lambda c: c.get("/who", headers=bearer("nobodys-key")))
    assert stored.asked == []


def test_where_no_key_is_asked_for_a_known_one_still_says_who_calls() -> None:
    stored = StoredKeys(**{STORED: record()})
    app = app_of(ServiceSettings(), stored)
    for headers, key_id in (({}, "local"), (bearer(STORED), "0123"), (bearer("unused"), "local")):
        assert run(app, lambda c, h=headers: c.get("/who", headers=h)).json()["key_id"] == key_id
    stored.gone = True
    app = app_of(ServiceSettings(), stored)
    assert run(app, lambda c: c.get("/who", headers=bearer(STORED))).json()["key_id"] == LOCAL.key_id


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8000"},
        {"Host": "["},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
    ],
)
def test_a_page_of_another_site_reaches_nothing_where_no_key_is_asked_for(headers: dict[str, str]) -> None:
    # A page under a name that was bent to this machine may set any header.
    for more in ({}, bearer("anything")):
        refused = run(app_of(ServiceSettings()), lambda c, m=more: c.post("/who", headers=headers | m))
        assert (refused.status_code, refused.json()["code"]) == (403, "not_permitted")
    # Where something in front checks who calls, it also says by which name.
    behind = app_of(ServiceSettings(allow_unauthenticated=True))
    assert run(behind, lambda c: c.post("/who", headers=headers)).status_code == 200
    # With a key, a page would have to know it.
    known = run(
        app_of(ServiceSettings(api_keys=KEY)), lambda c: c.post("/who", headers=headers | bearer(KEY))
    )
    assert known.status_code == 200


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "service"])
def test_this_machine_may_call_itself_by_its_names(host: str) -> None:
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert run(app_of(ServiceSettings()), lambda c: c.post("/who", headers=headers)).status_code == 200


def test_a_proxy_is_believed_only_where_it_is_named() -> None:
    headers = {"X-Forwarded-For": "6.6.6.6, 203.0.113.9", "X-Forwarded-Proto": "https"}
    plain = run(app_of(ServiceSettings()), lambda c: c.get("/who", headers=headers), peer="127.0.0.1")
    assert (plain.json()["address"], plain.json()["scheme"]) == ("127.0.0.1", "http")
    settings = ServiceSettings(trusted_proxies="127.0.0.1, 10.0.0.0/8")
    behind = run(app_of(settings), lambda c: c.get("/who", headers=headers), peer="127.0.0.1")
    assert (behind.json()["address"], behind.json()["scheme"]) == ("203.0.113.9", "https")
    stranger = run(app_of(settings), lambda c: c.get("/who", headers=headers), peer="8.8.8.8")
    assert (stranger.json()["address"], stranger.json()["scheme"]) == ("8.8.8.8", "http")
    with pytest.raises(InvalidSettings, match="trusted_proxies"):
        ServiceSettings(trusted_proxies="the-proxy")
