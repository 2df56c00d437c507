"""API keys: digests of secrets, and what each opens."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from manyeyes.service.store.database import Database
from manyeyes.service.store.records import KeyRecord, Page


class Keys:
    """The API keys of a store. Every change writes a row of the audit in the same transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

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
        raise NotImplementedError

    def find(self, secret: str) -> KeyRecord | None:
        """Return the key of a secret, or None for one that is unknown, revoked or expired.

        One read by id; the digests are compared in constant time, also where there is no such id.
        """
        raise NotImplementedError

    def get(self, id: str) -> KeyRecord:
        """Return a key, live or not. Raises NotFound."""
        raise NotImplementedError

    def list(self, limit: int = 50, cursor: str | None = None) -> Page[KeyRecord]:
        """Return keys, the newest first. Raises InvalidRequest for a wrong cursor."""
        raise NotImplementedError

    def revoke(self, id: str, *, author: str, request_id: str | None = None) -> KeyRecord:
        """End a key for good; a key that has ended stays as it is. Raises NotFound."""
        raise NotImplementedError

    def touch(self, id: str) -> None:
        """Note that a key is used now. Returns at once, writes once a minute a key, and never raises."""
        raise NotImplementedError

    def any(self) -> bool:
        """Return whether there is a key that is neither revoked nor expired."""
        raise NotImplementedError
