"""Calls that are made once, however often they are sent."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from manyeyes.errors import InvalidRequest
from manyeyes.service.store.database import SWEEP_EVERY
from manyeyes.service.store.records import Begun, InFlight, Mismatch, New, Replay
from manyeyes.service.store.store import Store
from manyeyes.types import Versions


def begin(
    store: Store, key: str = "a", *, key_id: str = "me", body: str = "digest", route: str = "/v1/label"
) -> Begun:
    return store.idempotency.begin(key_id, key, body_digest=body, route=route, lease_s=60, keep_s=3600)


def test_an_answer_is_given_again(store: Store, clock: Any) -> None:
    begun = begin(store)
    assert isinstance(begun, New)
    assert begin(store) == InFlight(60.0)
    clock.pass_by(20)
    assert begin(store) == InFlight(40.0)
    for other in (begin(store, body="other"), begin(store, route="/v1/votes")):
        assert other == Mismatch()
    assert store.idempotency.finish(begun.token, status=200, headers={"Content-Type": "x"}, body=b"\0answer")
    assert begin(store) == Replay(200, {"Content-Type": "x"}, b"\0answer")
    assert begin(store, body="other") == Mismatch()
    # Once finished, it stays so.
    assert not store.idempotency.finish(begun.token, status=500, headers={}, body=b"")
    store.idempotency.abandon(begun.token)
    assert begin(store) == Replay(200, {"Content-Type": "x"}, b"\0answer")


def test_keys_of_other_callers_are_others(store: Store) -> None:
    assert isinstance(begin(store), New)
    assert isinstance(begin(store, key_id="you"), New)
    assert isinstance(begin(store, "b"), New)


def test_a_call_that_failed_may_be_made_again(store: Store) -> None:
    begun = begin(store)
    assert isinstance(begun, New)
    store.idempotency.abandon(begun.token)
    assert isinstance(begin(store, body="other"), New)


def test_what_a_dead_process_began_is_begun_anew(store: Store, clock: Any) -> None:
    dead = begin(store)
    assert isinstance(dead, New)
    clock.pass_by(60)
    alive = begin(store)
    assert isinstance(alive, New) and alive.token != dead.token
    # It was not dead, but slow: its answer comes too late, and takes nothing from the other.
    assert not store.idempotency.finish(dead.token, status=200, headers={}, body=b"late")
    assert not store.idempotency.extend(dead.token)
    store.idempotency.abandon(dead.token)
    assert begin(store) == InFlight(60.0)
    assert store.idempotency.finish(alive.token, status=201, headers={}, body=b"in time")
    assert begin(store) == Replay(201, {}, b"in time")


def test_a_slow_call_holds_on(store: Store, clock: Any) -> None:
    begun = begin(store)
    assert isinstance(begun, New)
    clock.pass_by(59)
    assert store.idempotency.extend(begun.token, lease_s=60)
    clock.pass_by(59)
    assert begin(store) == InFlight(1.0)


def test_answers_are_forgotten(store: Store, clock: Any) -> None:
    begun = begin(store)
    assert isinstance(begun, New)
    store.idempotency.finish(begun.token, status=200, headers={}, body=b"")
    clock.pass_by(3599)
    assert store.idempotency.purge() == 0
    clock.pass_by(1)
    # Whether or not anybody has purged.
    again = begin(store, body="other")
    assert isinstance(again, New)
    clock.pass_by(3600)
    assert store.idempotency.purge() == 1
    assert not store.idempotency.finish(again.token, status=200, headers={}, body=b"")


def test_old_answers_go_as_others_come(store: Store, clock: Any) -> None:
    for n in range(30):
        begin(store, f"old {n}")
    clock.pass_by(3600)
    for n in range(SWEEP_EVERY):
        begin(store, f"new {n}")
    store.batches.add(
        key_id="k", recipe_name="r", versions=Versions("v"), labels=[]
    )  # in a group after the sweep's
    assert store.status().rows["idempotency"] == SWEEP_EVERY


def test_of_many_at_once_one_makes_the_call(store: Store) -> None:
    found: list[Begun] = []
    start = threading.Barrier(8)

    def call() -> None:
        start.wait()
        found.append(begin(store))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(one).__name__ for one in found) == ["InFlight"] * 7 + ["New"]


@pytest.mark.parametrize("key", ["x" * 256, "\0", "\ud800"])
def test_keys_that_cannot_be_kept(store: Store, key: str) -> None:
    with pytest.raises(InvalidRequest):
        begin(store, key)
