"""Who calls: every request brings a key, or is one of the few that need none. Costs a stranger nothing but headers."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from manyeyes.errors import AccessDenied
from manyeyes.service.access.callers import LOCAL
from manyeyes.service.errors import problem_of
from manyeyes.service.middleware.log import request_id_in
from manyeyes.service.settings import ServiceSettings

OPEN_PATHS: Final = frozenset({"/healthz"})
"""What is answered without a key: probes have none, and the answer says nothing."""


class KeyCheck:
    """Lets in who brings a configured key, as ``Authorization: Bearer …`` or ``X-Api-Key: …``; probes need none."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self.app = app
        self.settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            key = key_of(Headers(scope=scope))
            if not self.settings.admits(key):
                refused = AccessDenied(
                    f"{'this key is not one of the configured keys' if key else 'a key is needed here'}; send"
                    " `Authorization: Bearer <key>` with a key that the operator of this service gave you"
                )
                await problem_of(refused, request_id=request_id_in(scope))(scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = LOCAL
        await self.app(scope, receive, send)


def key_of(headers: Headers) -> str | None:
    """Return the key that a request brings, or None."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key") or None
