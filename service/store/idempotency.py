"""Calls that are made once, however often they are sent: their answers, under the caller's keys of idempotency."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from manyeyes.service.store.database import Database
from manyeyes.service.store.records import Begun


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
        anew. keep_s: how long the answer is kept.
        """
        raise NotImplementedError

    def extend(self, token: str, *, lease_s: float = 60.0) -> bool:
        """Hold on to a call; return False if its lease had ended and another has taken it."""
        raise NotImplementedError

    def finish(self, token: str, *, status: int, headers: Mapping[str, str], body: bytes) -> bool:
        """Keep the answer of a call; return False if its lease had ended and another has taken it."""
        raise NotImplementedError

    def abandon(self, token: str) -> None:
        """Forget a call that failed, so that it may be made again."""
        raise NotImplementedError

    def purge(self, before: datetime | None = None) -> int:
        """Remove answers that are kept no longer; before: a time instead of now. Return how many."""
        raise NotImplementedError
