"""Calls that are made once, however often they are sent: their answers, under the caller's keys of idempotency."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import zstandard
from sqlalchemy import Connection, Row, delete, select, update

from manyeyes.errors import StoreUnavailable
from manyeyes.service.store import tables
from manyeyes.service.store.database import SWEPT_AT_ONCE, Database
from manyeyes.service.store.ids import new_id
from manyeyes.service.store.records import Begun, InFlight, Mismatch, New, Replay
from manyeyes.service.store.rows import insert_unless_there, storable

_T = tables.idempotency
_TRIES: Final = 3
_LEVEL: Final = 1
_CHUNK: Final = 1000


class Idempotency:
    """The calls with a key of idempotency. A caller's keys are its own: another caller's never meet them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(
        self,
        key_id: str,
        key: str,
        *,
        body_digest: str,
        route: str,
        lease_s: float = 60.0,
        keep_s: float = 86_400.0,
    ) -> Begun:
        """Say that a call begins; return whether to make it (New), or what came of it (Replay, InFlight, Mismatch).

        lease_s: a process that has neither finished nor extended by then is taken to be dead, and the next call begins
        anew. keep_s: how long the answer is kept; older ones are removed a few at a time, as others come.
        Raises InvalidRequest for a key that cannot be kept.
        """
        now = self._database.now()
        fresh: dict[str, Any] = {
            "key_id": key_id,
            "key": storable("the key of idempotency", key, max_chars=255),
            "token": new_id(),
            "body_digest": body_digest,
            "route": route,
            "created_at": now,
            "lease_until": now + timedelta(seconds=lease_s),
            "expires_at": now + timedelta(seconds=keep_s),
            "status": None,
            "headers": None,
            "body": None,
        }
        this = (_T.c.key_id == key_id, _T.c.key == key)

        def work(connection: Connection) -> Begun:
            for _ in range(_TRIES):
                if insert_unless_there(connection, _T, fresh):
                    return New(fresh["token"])
                row = connection.execute(select(_T).where(*this).with_for_update()).one_or_none()
                if row is None:
                    continue  # It was removed in between.
                told = _came_of(row, now, body_digest=body_digest, route=route)
                if told is not None:
                    return told
                connection.execute(update(_T).where(*this).values(fresh))
                return New(fresh["token"])
            raise StoreUnavailable(
                "the call was begun and abandoned again and again meanwhile; send it in a moment"
            )

        begun = self._database.write(work)
        self._database.sweep(lambda connection: _remove_old(connection, now, SWEPT_AT_ONCE))
        return begun

    def extend(self, token: str, *, lease_s: float = 60.0) -> bool:
        """Hold on to a call; return False if its lease had ended and another has taken it."""
        until = self._database.now() + timedelta(seconds=lease_s)
        return self._change(token, {"lease_until": until})

    def finish(self, token: str, *, status: int, headers: Mapping[str, str], body: bytes) -> bool:
        """Keep the answer of a call; return False if its lease had ended and another has taken it."""
        packed = zstandard.compress(body, _LEVEL)
        return self._change(token, {"status": status, "headers": dict(headers), "body": packed})

    def abandon(self, token: str) -> None:
        """Forget a call that failed, so that it may be made again."""
        this = delete(_T).where(_T.c.token == token, _T.c.status.is_(None))
        self._database.write(lambda connection: connection.execute(this).rowcount)

    def purge(self, before: datetime | None = None) -> int:
        """Remove answers that are kept no longer; before: a time instead of now. Return how many."""
        until, total = before or self._database.now(), 0
        while n := self._database.write(lambda connection: _remove_old(connection, until, _CHUNK)):
            total += n
        return total

    def _change(self, token: str, values: dict[str, Any]) -> bool:
        change = update(_T).where(_T.c.token == token, _T.c.status.is_(None)).values(values)
        return self._database.write(lambda connection: connection.execute(change).rowcount == 1)


def _remove_old(connection: Connection, until: datetime, limit: int) -> int:
    old = select(_T.c.token).where(_T.c.expires_at <= until).limit(limit)
    return connection.execute(delete(_T).where(_T.c.token.in_(old))).rowcount


def _came_of(row: Row[Any], now: datetime, *, body_digest: str, route: str) -> Begun | None:
    """Return what came of a call that was begun before; None where nothing did, and it is to be made anew."""
    if row.expires_at <= now:
        return None
    if (row.body_digest, row.route) != (body_digest, route):
        return Mismatch()
    if row.status is not None:
        return Replay(row.status, row.headers, zstandard.decompress(row.body))
    if row.lease_until > now:
        return InFlight((row.lease_until - now).total_seconds())
    return None
