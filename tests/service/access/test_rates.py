"""How often: buckets, the headers that tell of them, and memory that stays bounded."""

from __future__ import annotations

from typing import Any

import httpx
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.service.access.buckets import Buckets
from manyeyes.service.settings import ServiceSettings
from tests.service.access.test_keys import KEY, STORED, Clock, StoredKeys, app_of, bearer, record, run


def test_a_bucket_holds_a_burst_and_fills_by_the_minute() -> None:
    clock = Clock()
    buckets = Buckets(clock=clock)
    taken = [buckets.take("a", per_minute=60, burst=3) for _ in range(4)]
    assert [one.allowed for one in taken] == [True, True, True, False]
    assert [one.remaining for one in taken] == [2, 1, 0, 0]
    assert taken[-1].retry_after_s == 1
    assert buckets.take("b", per_minute=60, burst=3).allowed
    clock.now += 1
    assert buckets.take("a", per_minute=60, burst=3).allowed
    assert not buckets.take("a", per_minute=60, burst=3).allowed


def test_looking_takes_nothing() -> None:
    buckets = Buckets(clock=Clock())
    assert buckets.take("a", per_minute=1, burst=1, tokens=0).remaining == 1
    assert buckets.take("a", per_minute=1, burst=1).allowed
    looked = buckets.take("a", per_minute=1, burst=1, tokens=0)
    assert (looked.allowed, looked.retry_after_s) == (False, 60)


@given(
    per_minute=st.integers(1, 1000),
    burst=st.integers(0, 50),
    waits=st.lists(st.floats(0, 120, allow_nan=False), min_size=1, max_size=60),
)
def test_never_more_than_the_burst_and_the_rate(per_minute: int, burst: int, waits: list[float]) -> None:
    clock = Clock()
    buckets = Buckets(clock=clock)
    allowed, started = 0, clock.now
    for wait in waits:
        clock.now += wait
        taken = buckets.take("a", per_minute=per_minute, burst=burst)
        allowed += taken.allowed
        if not taken.allowed:  # coming back when told to is always early enough
            clock.now += taken.retry_after_s
            assert buckets.take("a", per_minute=per_minute, burst=burst, tokens=0).allowed
    most = (burst or per_minute) + (clock.now - started) * per_minute / 60
    assert allowed <= most + 1e-3


def test_many_names_take_little_memory() -> None:
    buckets = Buckets(max_buckets=100, clock=Clock())
    for n in range(10_000):
        buckets.take(str(n), per_minute=1, burst=1)
    assert len(buckets) == 100


def test_a_key_that_asks_too_often_is_told_when_to_come_back() -> None:
    stored = StoredKeys(**{STORED: record(rate_per_minute=2)})
    app = app_of(ServiceSettings(api_keys=KEY), stored)

    async def ask(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.get("/who", headers=bearer(STORED)) for _ in range(3)] + [
            await client.get("/who", headers=bearer(KEY))
        ]

    answers: Any = run(app, ask)
    assert [answer.status_code for answer in answers] == [200, 200, 429, 200]
    assert answers[0].headers["ratelimit-limit"] == "2"
    assert [answer.headers.get("ratelimit-remaining") for answer in answers] == ["1", "0", "0", None]
    refused = answers[2]
    assert refused.json()["code"] == "rate_limited"
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert STORED not in refused.text


def test_the_settings_say_how_often_where_a_key_does_not() -> None:
    app = app_of(ServiceSettings(rate_per_minute=600, rate_burst=1))

    async def ask(client: httpx.AsyncClient) -> list[int]:
        return [(await client.get("/who")).status_code for _ in range(2)]

    assert run(app, ask) == [200, 429]
