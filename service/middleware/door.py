"""Says no at the door: a service that has too much to do spends as little as it can on saying so."""

from __future__ import annotations

from typing import Final

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from manyeyes.service.errors import Refusal, problem_of
from manyeyes.service.middleware.log import request_id_in
from manyeyes.service.pipeline.engine import Engine

PATHS: Final = frozenset({"/v1/label", "/v1/votes", "/v1/embed", "/v1/detect", "/v1/embeddings"})
"""Calls that models work for, whose first step would be to ask the same."""
SMALL_BYTES: Final = 2**20
_PATIENCE_S: Final = 0.5


class Door:
    """Refuses a call that the engine would refuse, before anything else is done for it.

    A small body is read all the same and thrown away, so that the connection can be used again: opening another costs
    both sides more. A call with a key of idempotency passes, since its answer may be known.
    """

    def __init__(self, app: ASGIApp, engine: Engine) -> None:
        self.app = app
        self.engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] in PATHS and scope["method"] == "POST":
            headers = Headers(scope=scope)
            if "idempotency-key" not in headers:
                try:
                    self.engine.admit()
                except Refusal as refused:
                    length = headers.get("content-length", "")
                    if length.isdecimal() and len(length) < 8 and int(length) <= SMALL_BYTES:
                        with anyio.move_on_after(_PATIENCE_S):
                            while (await receive()).get("more_body", False):
                                pass
                    await problem_of(refused, request_id=request_id_in(scope))(scope, receive, send)
                    return
        await self.app(scope, receive, send)
