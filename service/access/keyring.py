"""From the secret that a call brings to who calls: the keys of the settings, and those of the store.

A secret is known by its SHA-256 only. That is enough for secrets that a machine drew from 256 bits: there is nothing to
guess, and no salt could make it slower to try. Keys of the settings need no database, so that one that is gone locks
out nobody whose key stands there, and opens nothing to others.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar, cast

import anyio
import anyio.to_thread

from manyeyes.errors import StoreUnavailable
from manyeyes.service.access.callers import LOCAL, Caller
from manyeyes.service.access.scopes import SCOPES, Scope
from manyeyes.service.access.settings import AccessSettings
from manyeyes.service.store.records import KeyRecord

T = TypeVar("T")

PREFIX: Final = "me_"
"""How every key of the store begins: what does not is in no database, and asking for it costs nothing."""

_MAX_CACHED: Final = 4096
_N_QUERIES: Final = 4
_DOWN_S: Final = 1.0
_DOWN: Final = "the database with the keys does not answer; send this again in a moment"


class StoredKeys(Protocol):
    """What is asked of the store; both may be called from any thread. See ``store.keys.Keys``."""

    def find(self, secret: str) -> KeyRecord | None:
        """Return a live key, or None. Raises StoreUnavailable."""

    def touch(self, id: str) -> None:
        """Note that a key is used."""


def digest_of(secret: str) -> str:
    """Return what is kept of a key: ``sha256:`` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class Keyring:
    """Every key that opens something.

    stored: those of the store; None where there is none. required: whether a call without a key is refused.
    """

    def __init__(
        self,
        settings: AccessSettings,
        stored: StoredKeys | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.required = bool(settings.api_keys)
        self._configured = dict(_configured(key) for key in settings.api_keys)
        self._stored = stored
        self._cache_s = settings.key_cache_s
        self._clock = clock
        self._now = now
        # Wrong keys have a cache of their own, so that trying many does not push right ones out of theirs.
        self._found: OrderedDict[str, tuple[float, KeyRecord]] = OrderedDict()
        self._unknown: OrderedDict[str, tuple[float, None]] = OrderedDict()
        self._locks: dict[str, anyio.Lock] = {}
        self._down_until = -math.inf
        self._queries = anyio.CapacityLimiter(_N_QUERIES)

    async def caller(self, secret: str, *, before_query: Callable[[], None] = lambda: None) -> Caller | None:
        """Return who brings a secret; None where it opens nothing, or no more.

        before_query: called before the store is asked, to refuse where too much was tried already.
        Raises StoreUnavailable if only the store could tell, and it does not answer.
        """
        digest = digest_of(secret)
        if (caller := self._from_settings(digest)) is not None:
            return caller
        if self._stored is None or not secret.startswith(PREFIX):
            return None
        known, key = self._cached(digest)
        if not known:
            key = await self._look_up(secret, digest, before_query)
        return None if key is None else self._valid(key)

    def at_hand(self, secret: str) -> Caller | None:
        """Return who brings a secret, where that is known without asking the store; else None."""
        digest = digest_of(secret)
        if (caller := self._from_settings(digest)) is not None:
            return caller
        known, key = self._cached(digest)
        return self._valid(key) if known and key is not None else None

    def forget(self) -> None:
        """Forget what was found: the next calls ask the store again. For changes that this process makes itself."""
        self._found.clear()
        self._unknown.clear()

    def _from_settings(self, digest: str) -> Caller | None:
        # Every digest is compared, each in constant time: how long it takes tells nothing of any key.
        matches = [caller for known, caller in self._configured.items() if hmac.compare_digest(digest, known)]
        return matches[0] if matches else None

    def _cached(self, digest: str) -> tuple[bool, KeyRecord | None]:
        for cache in (self._found, self._unknown):
            at, key = cache.get(digest, (None, None))
            if at is not None and self._clock() - at <= self._cache_s:
                return True, key
        return False, None

    async def _look_up(self, secret: str, digest: str, before_query: Callable[[], None]) -> KeyRecord | None:
        stored = self._stored
        assert stored is not None
        # Calls with the same key wait for one query.
        lock = self._locks.setdefault(digest, anyio.Lock())
        try:
            async with lock:
                known, key = self._cached(digest)
                if known:
                    return key
                async with self._queries:
                    before_query()
                    asked = self._clock()
                    if asked < self._down_until:
                        # Else all who wait would find out one after the other, each after a time-out.
                        raise StoreUnavailable(_DOWN)
                    try:
                        key = await anyio.to_thread.run_sync(stored.find, secret)
                    except StoreUnavailable:
                        self._down_until = self._clock() + _DOWN_S
                        raise
        finally:
            if not lock.statistics().tasks_waiting and not lock.locked():
                self._locks.pop(digest, None)
        if key is None:
            _keep(self._unknown, digest, (asked, None))
            self._found.pop(digest, None)
        else:
            _keep(self._found, digest, (asked, key))
            self._unknown.pop(digest, None)
        return key

    def _valid(self, key: KeyRecord) -> Caller | None:
        if not key.is_live(self._now()):  # it may have expired since it was read
            return None
        assert self._stored is not None
        self._stored.touch(key.id)
        scopes = frozenset(scope for scope in SCOPES if scope in key.scopes)
        return Caller(key.id, scopes, key.rate_per_minute)


def _configured(written: str) -> tuple[str, Caller]:
    digest, _, scopes = written.partition("=")
    opens = cast("list[Scope]", scopes.split("+")) if scopes else LOCAL.scopes
    return digest, Caller("env-" + digest.removeprefix("sha256:")[:8], frozenset(opens))


def _keep(cache: OrderedDict[str, tuple[float, T]], digest: str, entry: tuple[float, T]) -> None:
    cache[digest] = entry
    cache.move_to_end(digest)
    while len(cache) > _MAX_CACHED:
        cache.popitem(last=False)
