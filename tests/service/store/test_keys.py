"""API keys: shown once, kept as digests, and ended for good."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select

from manyeyes.errors import InvalidRequest, NotFound
from manyeyes.service.store import tables
from manyeyes.service.store.store import Store


def test_a_secret_is_shown_once_and_opens(store: Store) -> None:
    record, secret = store.keys.create(
        "ci", ["label", "read"], author="cli", rate_per_minute=60, request_id="r"
    )
    assert re.fullmatch(rf"me_{record.id}_[\w-]{{43}}", secret)
    assert (record.name, record.scopes, record.rate_per_minute) == ("ci", {"label", "read"}, 60)
    assert store.keys.find(secret) == store.keys.get(record.id) == record
    assert store.keys.list().items == (record,)
    random = secret.rpartition(record.id)[2][1:]
    # Neither the rows nor the audit hold the secret.
    for table in (tables.keys, tables.audit):
        rows = store.database.read(lambda connection, table=table: connection.execute(select(table)).all())
        assert rows and random not in repr(rows)
    (told,) = store.audit.list()
    assert (told.actor, told.action, told.subject, told.request_id) == (
        "cli",
        "key.create",
        f"key:{record.id}",
        "r",
    )
    assert store.keys.create("ci", ["admin"], author="cli")[1] != secret


def test_what_opens_nothing(store: Store) -> None:
    record, secret = store.keys.create("ci", ["label"], author="cli")
    other, other_secret = store.keys.create("ci", ["label"], author="cli")
    mixed = secret.replace(record.id, other.id)
    wrongs = [
        "",
        "me_",
        "me__",
        "x",
        "\0",
        "\ud800",
        secret[:-1],
        secret + "x",
        secret + "\n",
        secret.upper(),
        mixed,
    ]
    wrongs += [f"me_{record.id}", f"me_{record.id}\0_x", f"me_{'0' * 32}_{'x' * 43}", f"me_{'é' * 32}_x"]
    for wrong in wrongs:
        assert store.keys.find(wrong) is None, wrong
    assert store.keys.find(other_secret) == other


def test_a_key_ends(store: Store, clock: Any) -> None:
    assert not store.keys.any()
    until = clock() + timedelta(minutes=5)
    record, secret = store.keys.create("short", ["read"], author="cli", expires_at=until)
    assert record.expires_at == until and store.keys.any()
    clock.pass_by(299)
    assert store.keys.find(secret) == record
    clock.pass_by(1)
    assert store.keys.find(secret) is None and not store.keys.any()
    assert store.keys.get(record.id) == record

    record, secret = store.keys.create("long", ["read"], author="cli")
    revoked = store.keys.revoke(record.id, author="ada")
    assert revoked.revoked_at == clock() and store.keys.find(secret) is None and not store.keys.any()
    clock.pass_by(60)
    assert store.keys.revoke(record.id, author="bob") == revoked
    assert [row.actor for row in store.audit.list(action="key.revoke")] == ["ada"]
    for call in (store.keys.get, lambda id: store.keys.revoke(id, author="a")):
        with pytest.raises(NotFound):
            call("0" * 32)


def test_use_is_noted_once_a_minute(store: Store, clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = [0.0]
    monkeypatch.setattr("manyeyes.service.store.keys.time.monotonic", lambda: ticks[0])
    record, _ = store.keys.create("ci", ["label"], author="cli")

    def used_at() -> datetime | None:
        store.audit.add(actor="a", action="b", subject="c")  # what was queued before is done by then
        time.sleep(0.05)
        return store.keys.get(record.id).last_used_at

    first = clock()
    store.keys.touch(record.id)
    assert used_at() == first
    clock.pass_by(59)
    ticks[0] += 59
    store.keys.touch(record.id)
    assert used_at() == first
    clock.pass_by(1)
    ticks[0] += 1
    store.keys.touch(record.id)
    assert used_at() == clock()
    store.keys.touch("unknown")
    store.close()
    ticks[0] += 60
    store.keys.touch(record.id)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scopes": []},
        {"scopes": ["root"]},
        {"expires_at": datetime(2020, 1, 1).astimezone()},
        {"expires_at": datetime(2099, 1, 1)},
        {"rate_per_minute": 0},
        {"rate_per_minute": 2**31},
        {"name": "\0"},
        {"name": "x" * 201},
        {"author": "\0"},
    ],
)
def test_keys_that_cannot_be_made(store: Store, wrong: dict[str, object]) -> None:
    told = {"name": "ci", "scopes": ["label"], "author": "cli"} | wrong
    with pytest.raises(InvalidRequest):
        store.keys.create(**told)  # type: ignore[arg-type]
    assert not store.keys.list() and not store.audit.list()
