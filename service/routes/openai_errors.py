"""Problem documents that OpenAI's clients can read, too."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from manyeyes.errors import ManyeyesError
from manyeyes.service.errors import Refusal, problem_of, request_id_of


class OpenAIRoute(APIRoute):
    """Answers an error with the usual problem document, and ``error`` in it as OpenAI's clients look for it."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except (ManyeyesError, Refusal) as error:
                return _with_error(problem_of(error, request_id=request_id_of(request)))

        return answer


def _with_error(response: Response) -> Response:
    document: dict[str, Any] = json.loads(bytes(response.body))
    document["error"] = {
        "message": document["detail"],
        "type": document["code"],
        "code": document["code"],
        "param": None,
    }
    headers = {name: value for name, value in response.headers.items() if name != "content-length"}
    return Response(json.dumps(document), status_code=response.status_code, headers=headers)
