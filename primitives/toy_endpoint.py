"""An endpoint to try and to test with: it speaks OpenAI's chat protocol over a socket, and you say what it answers.

>>> with ToyEndpoint(lambda asked: "gown" if "silk" in asked.text else "cap") as toy:
...     toy.base_url.startswith("http://127.0.0.1:")
True

A function that returns a mapping of answers to probabilities makes an endpoint with log-probabilities: the most
probable answer is said, as one token, and the others are its alternatives.
"""

from __future__ import annotations

import base64
import json
import math
import re
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, NamedTuple, Self, TypeAlias

_TEXT: Final = re.compile(r"<item (\w+)>\n(.*)\n</item \1>", flags=re.S)


class Asked(NamedTuple):
    """What a call asks. text, image: of the item, empty where it has none; image is the bytes of a JPEG."""

    question: str
    text: str = ""
    image: bytes = b""
    body: Mapping[str, Any] = {}


Answer: TypeAlias = "Callable[[Asked], str | Mapping[str, float]]"


class ToyEndpoint:
    """A server on this machine, running inside ``with``. answer: what it says.

    calls: every request's JSON, in order of arrival. keys: the ``Authorization`` header of each.
    most_at_once: how many requests were being answered at the same time, at most.
    """

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.calls: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()
        toy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with toy._lock:
                    n = len(toy.calls)
                    toy.calls.append(body)
                    toy.keys.append(self.headers.get("Authorization"))
                    toy._at_once += 1
                    toy.most_at_once = max(toy.most_at_once, toy._at_once)
                try:
                    toy.respond(self, body, n)
                finally:
                    with toy._lock:
                        toy._at_once -= 1

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exception(), OSError):  # Who asked may hang up at any time.
                    super().handle_error(request, client_address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def base_url(self) -> str:
        """What stands in the operator's file."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def respond(self, handler: BaseHTTPRequestHandler, body: Mapping[str, Any], n: int) -> None:
        """Answer the n-th call, counted from 0; a test overrides it to go wrong."""
        told = self.answer(asked(body))
        probs = {told: 1.0} if isinstance(told, str) else dict(told)
        said = max(probs, key=lambda word: probs[word])
        choice: dict[str, Any] = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": said},
        }
        if body.get("logprobs") and not isinstance(told, str):
            top = [{"token": word, "logprob": math.log(p)} for word, p in probs.items() if p > 0]
            choice["logprobs"] = {
                "content": [{"token": said, "logprob": math.log(probs[said]), "top_logprobs": top}]
            }
        n_out = len(said.split())
        usage = {"prompt_tokens": 100, "completion_tokens": n_out, "total_tokens": 100 + n_out}
        told_of = {"id": f"toy-{n}", "object": "chat.completion", "created": 0, "model": body.get("model")}
        send(handler, 200, {**told_of, "choices": [choice], "usage": usage})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def asked(body: Mapping[str, Any]) -> Asked:
    """Return what a request of ours asks."""
    content = body["messages"][-1]["content"]
    parts: list[Any] = [{"type": "text", "text": content}] if isinstance(content, str) else content
    texts = "\n\n".join(part["text"] for part in parts if part["type"] == "text")
    images = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    found = _TEXT.search(texts)
    return Asked(
        question=_TEXT.sub("", texts).strip(),
        text=found[2] if found else "",
        image=base64.b64decode(images[0].partition(",")[2]) if images else b"",
        body=body,
    )


def send(
    handler: BaseHTTPRequestHandler, status: int, value: object, headers: Mapping[str, str] | None = None
) -> None:
    """Send JSON."""
    data = json.dumps(value).encode()
    handler.send_response(status)
    for name, told in {
        "Content-Type": "application/json",
        "Content-Length": str(len(data)),
        **(headers or {}),
    }.items():
        handler.send_header(name, told)
    handler.end_headers()
    handler.wfile.write(data)
