"""Who really calls, and by which scheme, where a proxy that the operator trusts stands in front."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from manyeyes.service.access.addresses import caller_address, is_trusted
from manyeyes.service.access.settings import Network


class Forwarded:
    """Puts the caller's address and scheme into the scope. trusted: whose word is taken; nobody's by default.

    Uvicorn has the like, but believes whoever connects from this machine, which any program here may do.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[Network] = ()) -> None:
        self.app = app
        self.trusted = tuple(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope.get("client") if scope["type"] in ("http", "websocket") else None
        if client is not None and self.trusted and is_trusted(client[0], self.trusted):
            headers = Headers(scope=scope)
            address = caller_address(client[0], ",".join(headers.getlist("x-forwarded-for")), self.trusted)
            scope["client"] = (address, 0 if address != client[0] else client[1])
            # The proxy next to us writes last.
            said = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
            if said in ("http", "https"):
                scope["scheme"] = said
        await self.app(scope, receive, send)
