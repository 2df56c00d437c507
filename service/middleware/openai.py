"""Problem documents that OpenAI's clients can read, too, whichever layer writes them."""

from __future__ import annotations

import json
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manyeyes.service.errors import MEDIA_TYPE

PATHS: Final = ("/v1/embeddings", "/v1/models")


class OpenAIErrors:
    """Adds ``error`` to the problem documents of the paths that OpenAI's clients call: they show its message alone."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PATHS):
            await self.app(scope, receive, send)
            return
        held: Message | None = None
        body = b""

        async def send_told(message: Message) -> None:
            nonlocal held, body
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                plain = "content-encoding" not in headers
                if plain and headers.get("content-type", "").startswith(MEDIA_TYPE):
                    held = message  # with its length, once that is known
                    return
            elif held is not None:
                body += message.get("body", b"")
                if message.get("more_body", False):
                    return
                body = _with_error(body)
                MutableHeaders(scope=held)["Content-Length"] = str(len(body))
                await send(held)
                message = {"type": "http.response.body", "body": body}
            await send(message)

        await self.app(scope, receive, send_told)


def _with_error(body: bytes) -> bytes:
    document = json.loads(body)
    told = {"message": document["detail"], "type": document["code"], "code": document["code"], "param": None}
    return json.dumps({**document, "error": told}).encode()
