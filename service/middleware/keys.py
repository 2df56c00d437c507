"""Who calls: every request brings a key, or is one of the few that need none. Costs a stranger nothing but headers."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Collection
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manyeyes.errors import AccessDenied, ManyeyesError, NotPermitted, RateLimited
from manyeyes.service.access.addresses import counted_as
from manyeyes.service.access.buckets import Buckets, Taken
from manyeyes.service.access.callers import LOCAL, Caller
from manyeyes.service.access.credentials import key_of
from manyeyes.service.access.keyring import Keyring, digest_of
from manyeyes.service.errors import Refusal, problem_of
from manyeyes.service.middleware.log import request_id_in
from manyeyes.service.settings import ServiceSettings, is_loopback

PROBES: Final = frozenset({"/healthz"})
"""What is answered without a key where nothing else is said: probes have none, and the answer says nothing."""

_MAX_WORKED: Final = 10_000

Worked = OrderedDict[tuple[str, str], None]
"""Addresses, as they are counted, and digests of the keys that opened something from there."""


class KeyCheck:
    """Finds out who calls, from ``Authorization: Bearer …``, ``Basic …`` or ``X-Api-Key: …``; and how often.

    keys: those that open something. open_paths: what needs none. worked: keys that opened something lately, and from
    which address, for whoever else may know.
    The caller is in ``scope["state"]["caller"]``, and its ``key_id`` in the log; the secret is nowhere.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: ServiceSettings,
        keys: Keyring | None = None,
        open_paths: Collection[str] = PROBES,
        worked: Worked | None = None,
    ) -> None:
        self.app = app
        self.settings = settings
        self.keys = keys or Keyring(settings)
        self.open_paths = frozenset(open_paths)
        self._rates = Buckets()
        self._failures = Buckets()
        # Whoever shares an address with somebody who guesses goes on with the key that worked there before.
        self._worked: Worked = OrderedDict() if worked is None else worked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # There is none, and none is to be open by oversight.
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http" or scope["path"] in self.open_paths:
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        try:
            caller = await self._caller(scope)
            state["caller"] = caller
            taken = self._count(caller)
        except (ManyeyesError, Refusal) as refused:
            await problem_of(refused, request_id=request_id_in(scope))(scope, receive, send)
            return
        await self.app(scope, receive, send if taken is None else _telling(send, taken))

    async def _caller(self, scope: Scope) -> Caller:
        headers = Headers(scope=scope)
        secret = key_of(headers)
        known = None if secret is None else await self._known(secret, scope)
        if known is not None:
            return known
        if self.keys.required:
            raise AccessDenied(
                "a key is needed here; send `Authorization: Bearer <key>` with a key that the operator of this service"
                " gave you"
            )
        # Many tools send something for a key whether one is needed or not.
        if is_loopback(self.settings.host) and not self.settings.allow_unauthenticated:
            refuse_pages(headers)
        return LOCAL

    async def _known(self, secret: str, scope: Scope) -> Caller | None:
        """Return whose key it is; None for a wrong one, where none is needed."""
        client = scope.get("client")
        address = counted_as(client[0]) if client else ""
        mark = (address, digest_of(secret))
        if mark not in self._worked:
            self._refuse_guesses(address)
        try:
            caller = await self.keys.caller(secret, before_query=lambda: self._refuse_guesses(address))
        except ManyeyesError:
            if self.keys.required:
                raise
            return None
        if caller is not None:
            self._worked[mark] = None
            self._worked.move_to_end(mark)
            while len(self._worked) > _MAX_WORKED:
                self._worked.popitem(last=False)
            return caller
        if not self.keys.required:
            return None
        self._worked.pop(mark, None)
        scope["state"].setdefault("facts", {})["denied"] = address
        limit = self.settings.failures_per_minute
        self._failures.take(address, per_minute=limit, burst=limit)
        raise AccessDenied(
            "this key is not one of those that open this service, or it has expired or was revoked; send"
            " `Authorization: Bearer <key>` with a key that the operator gave you"
        )

    def _refuse_guesses(self, address: str) -> None:
        limit = self.settings.failures_per_minute
        left = self._failures.take(address, per_minute=limit, burst=limit, tokens=0)
        if self.keys.required and not left.allowed:
            raise Refusal(
                RateLimited(
                    f"too many wrong keys came from {address or 'this address'}; no key is looked at before"
                    f" {left.retry_after_s} s are over"
                ),
                retry_after_s=left.retry_after_s,
            )

    def _count(self, caller: Caller) -> Taken | None:
        limit = caller.rate_per_minute
        rate = self.settings.rate_per_minute if limit is None else limit
        if not rate:
            return None
        burst = min(rate, self.settings.rate_burst) if self.settings.rate_burst else rate
        taken = self._rates.take(caller.key_id, per_minute=rate, burst=burst)
        if not taken.allowed:
            raise Refusal(
                RateLimited(
                    f"this key may make {rate} calls a minute, {burst} of them at once; the next one is possible in"
                    f" {taken.retry_after_s} s"
                ),
                retry_after_s=taken.retry_after_s,
                headers=taken.headers,
            )
        return taken


def refuse_pages(headers: Headers) -> None:
    """Refuse what a page in a browser on this machine sends on behalf of a stranger.

    Where no key is asked for, being on this machine is all that a caller needs, and a browser is. It names the page's
    origin in what it sends to another one; a page whose own name was bent to 127.0.0.1 (DNS rebinding) shows by that
    name, which has a dot and is no address.
    """
    host = headers.get("host", "")  # every browser sends it
    name = urlsplit(f"//{host}").hostname if _is_host(host) else None
    if host and (name is None or ("." in name and not _is_address(name) and not name.endswith(".localhost"))):
        raise NotPermitted(
            f"this service listens on this machine only, and is not called {host[:100]!r}; call it by address or as"
            " localhost, configure keys, or set MANYEYES_ALLOW_UNAUTHENTICATED=1 where something in front of it checks"
            " who calls"
        )
    origin = headers.get("origin")
    if origin is not None and origin.rpartition("://")[2] != host:
        raise NotPermitted(
            "a page of another site cannot call a service that asks for no key; configure keys (MANYEYES_API_KEYS)"
        )


def _is_host(host: str) -> bool:
    try:
        return bool(urlsplit(f"//{host}").hostname)
    except ValueError:
        return False


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]").partition("%")[0])
    except ValueError:
        return False
    return True


def _telling(send: Send, taken: Taken) -> Send:
    async def send_with_rate(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(taken.headers)
        await send(message)

    return send_with_rate
