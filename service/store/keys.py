"""API keys: digests of secrets, and what each opens."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, Row, insert, or_, select, update

from manyeyes.errors import InvalidRequest, NotFound, StoreUnavailable
from manyeyes.service.store import tables
from manyeyes.service.store.database import Database
from manyeyes.service.store.ids import new_id
from manyeyes.service.store.records import KeyRecord, Page
from manyeyes.service.store.rows import audited, page, storable

log: Final = logging.getLogger("manyeyes.service.store")

PREFIX: Final = "me"
SCOPES: Final = ("label", "read", "admin")
_SECRET_BYTES: Final = 32
_TOUCH_EVERY_S: Final = 60.0
_NO_DIGEST: Final = "0" * 64
_MAX_CHARS: Final = 200

_T = tables.keys


class Keys:
    """The API keys of a store. Every change writes a row of the audit in the same transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._touched: dict[str, float] = {}
        self._lock = threading.Lock()

    def create(
        self,
        name: str,
        scopes: Iterable[str],
        *,
        author: str,
        expires_at: datetime | None = None,
        rate_per_minute: int | None = None,
        request_id: str | None = None,
    ) -> tuple[KeyRecord, str]:
        """Return a new key and its secret, ``me_<id>_<random>``, which nobody can read again: a digest alone is kept.

        Raises InvalidRequest for a scope that is none, no scope, or a time that has passed.
        """
        now = self._database.now()
        opened = frozenset(scopes)
        if not opened or not opened <= set(SCOPES):
            raise InvalidRequest(
                f"a key opens one or more of the scopes {', '.join(SCOPES)}, got"
                f" {', '.join(sorted(map(str, opened))) or 'none'}"
            )
        if expires_at is not None and (expires_at.tzinfo is None or expires_at <= now):
            raise InvalidRequest(f"a key expires at a time to come, with its zone, got {expires_at}")
        if rate_per_minute is not None and not 1 <= rate_per_minute < 2**31:
            raise InvalidRequest(f"rate_per_minute is 1 or more, or none for no limit, got {rate_per_minute}")
        record = KeyRecord(
            id=new_id(),
            name=storable("the name of a key", name, max_chars=_MAX_CHARS),
            scopes=opened,
            author=storable("the author", author),
            created_at=now,
            expires_at=expires_at,
            rate_per_minute=rate_per_minute,
        )
        secret = f"{PREFIX}_{record.id}_{secrets.token_urlsafe(_SECRET_BYTES)}"

        def work(connection: Connection) -> None:
            connection.execute(
                insert(_T).values(
                    id=record.id,
                    digest=_digest(secret),
                    name=record.name,
                    scopes=sorted(opened),
                    author=author,
                    created_at=now,
                    expires_at=expires_at,
                    rate_per_minute=rate_per_minute,
                )
            )
            told = {"name": name, "scopes": sorted(opened), "rate_per_minute": rate_per_minute}
            told["expires_at"] = None if expires_at is None else expires_at.isoformat()
            audited(
                connection,
                now,
                actor=author,
                action="key.create",
                subject=f"key:{record.id}",
                request_id=request_id,
                details=told,
            )

        self._database.write(work)
        return record, secret

    def find(self, secret: str) -> KeyRecord | None:
        """Return the key of a secret, or None for one that is unknown, revoked or expired.

        One read by id; the digests are compared in constant time, also where there is no such id.
        """
        # The random part may hold underscores itself.
        prefix, _, rest = secret.partition("_")
        id = rest.partition("_")[0]
        row = None
        # What is no id of ours would not reach any key, and may hold what no database takes.
        if prefix == PREFIX and len(id) == 32 and id.isascii() and id.isalnum():
            row = self._database.read(lambda c: c.execute(select(_T).where(_T.c.id == id)).one_or_none())
        known = _NO_DIGEST if row is None else str(row.digest)
        matches = hmac.compare_digest(_digest(secret), known)
        if row is None or not matches:
            return None
        record = _record(row)
        return record if record.is_live(self._database.now()) else None

    def get(self, id: str) -> KeyRecord:
        """Return a key, live or not. Raises NotFound."""
        return self._database.read(lambda connection: _get(connection, id))

    def list(self, limit: int = 50, cursor: str | None = None) -> Page[KeyRecord]:
        """Return keys, the newest first. Raises InvalidRequest for a wrong cursor."""
        return self._database.read(
            lambda connection: page(connection, select(_T), _T.c.id, limit, cursor, _record)
        )

    def revoke(self, id: str, *, author: str, request_id: str | None = None) -> KeyRecord:
        """End a key for good; a key that has ended stays as it is. Raises NotFound."""
        now = self._database.now()

        def work(connection: Connection) -> KeyRecord:
            found = _get(connection, id, lock=True)
            if found.revoked_at is not None:
                return found
            connection.execute(update(_T).where(_T.c.id == found.id).values(revoked_at=now))
            audited(
                connection,
                now,
                actor=author,
                action="key.revoke",
                subject=f"key:{found.id}",
                request_id=request_id,
                details={"name": found.name},
            )
            return _get(connection, id)

        return self._database.write(work)

    def touch(self, id: str) -> None:
        """Note that a key is used now. Returns at once, writes once a minute a key, and never raises."""
        with self._lock:
            if time.monotonic() - self._touched.get(id, -_TOUCH_EVERY_S) < _TOUCH_EVERY_S:
                return
            self._touched[id] = time.monotonic()
        now = self._database.now()
        # Other replicas touch it, too.
        due = or_(_T.c.last_used_at.is_(None), _T.c.last_used_at <= now - timedelta(seconds=_TOUCH_EVERY_S))
        change = update(_T).where(_T.c.id == id, due).values(last_used_at=now)
        try:
            self._database.write_later(lambda connection: connection.execute(change).rowcount)
        except StoreUnavailable as error:
            log.debug("the use of a key is not noted: %s", error)

    def any(self) -> bool:
        """Return whether there is a key that is neither revoked nor expired."""
        live = select(_T.c.id).where(
            _T.c.revoked_at.is_(None), or_(_T.c.expires_at.is_(None), _T.c.expires_at > self._database.now())
        )
        return self._database.read(lambda connection: connection.execute(live.limit(1)).first() is not None)


def _digest(secret: str) -> str:
    # One round is enough: the secret is 256 random bits, which nobody guesses from a digest, however fast it is.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _get(connection: Connection, id: str, *, lock: bool = False) -> KeyRecord:
    query = select(_T).where(_T.c.id == storable("the id", id))
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"there is no key {id!r:.80}; `manyeyes key list` shows all")
    return _record(row)


def _record(row: Row[Any]) -> KeyRecord:
    told = dict(row._mapping)
    told.pop("digest")
    return KeyRecord(**(told | {"scopes": frozenset(told["scopes"])}))
