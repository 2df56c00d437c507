"""Who calls, and what each route asks of a caller.

Every route declares one of :func:`needs` and :func:`open_to_all`; a route that declares neither is a bug, and
``create_app`` refuses it. The middleware in front of the routes finds out who calls and keeps the answer in
``scope["state"]["caller"]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from fastapi import Depends, Request

from manyeyes.errors import AccessDenied, NotPermitted
from manyeyes.service.access.scopes import SCOPES, Scope


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    key_id: names the key in logs and in the audit, and is no secret. scopes: what the key opens.
    rate_per_minute: how many calls it may make, 0 for as many as it likes; None where the settings say.
    """

    key_id: str
    scopes: frozenset[Scope]
    rate_per_minute: int | None = None

    def may(self, scope: Scope) -> bool:
        """Return whether a scope is open to this caller."""
        return scope in self.scopes or "admin" in self.scopes


LOCAL: Final = Caller("local", frozenset(SCOPES))
"""Whoever calls a service that asks for no keys."""


class Needs:
    """The dependency behind ``needs``."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> Caller:
        """Return the caller. Raises AccessDenied, NotPermitted."""
        caller = caller_of(request)
        if caller is None:
            raise AccessDenied("a key is needed here; send `Authorization: Bearer <key>`")
        if not caller.may(self.scope):
            raise NotPermitted(
                f"this needs a key with the scope {self.scope!r}; yours has"
                f" {', '.join(sorted(caller.scopes)) or 'none'}. Ask the operator of this service for another one"
            )
        return caller


class OpenToAll:
    """The dependency behind ``open_to_all``."""

    async def __call__(self) -> None:
        """Let everybody in."""


def needs(scope: Scope) -> Any:
    """Return the declaration that a route is for callers with a scope: ``dependencies=[needs("read")]``."""
    return Depends(Needs(scope))


def open_to_all() -> Any:
    """Return the declaration that a route needs no key."""
    return Depends(OpenToAll())


def caller_of(request: Request) -> Caller | None:
    """Return who calls, as the middleware found out."""
    found = request.scope.get("state", {}).get("caller")
    return found if isinstance(found, Caller) else None
