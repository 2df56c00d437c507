"""A server that is told to stop: what it has taken is finished, what comes is told to come back."""

from __future__ import annotations

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from manyeyes import Client
from manyeyes.primitives.toy import ToyText
from manyeyes.service.app import create_app, listen, make_server
from manyeyes.service.settings import ServiceSettings

RECIPE = """
name: words
classes: [red, blue]
primitives: {toy: {}}
lfs: [{name: looks, kind: prompt, using: toy, on: text, prompts: {red: red, blue: blue}, threshold: 0.4}]
"""


def test_sigterm_finishes_what_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    (tmp_path / "words.yaml").write_text(RECIPE)
    settings = ServiceSettings(recipes_dir=tmp_path, port=0)
    listener = listen(settings)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    app = create_app(settings)
    server = make_server(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    with Client(url, max_retries=0) as client, ThreadPoolExecutor(1) as pool:
        client.label(["red"], recipe="words")
        compute = ToyText.compute
        monkeypatch.setattr(ToyText, "compute", lambda self, batch: (time.sleep(1), compute(self, batch))[1])
        taken = pool.submit(client.label, ["a red wall"], recipe="words")
        wait_until(lambda: app.state.service.engine.n_waiting == 1)
        server.handle_exit(signal.SIGTERM, None)
        wait_until(lambda: app.state.service.engine.draining)
        form = {"recipe": (None, "words"), "texts": (None, "blue")}
        refused = httpx.post(f"{url}/v1/label", files=form, trust_env=False)
        assert (refused.status_code, refused.json()["code"]) == (503, "service_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        assert httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        assert taken.result(timeout=10)[0].label == "red"
    thread.join(timeout=10)
    assert not thread.is_alive()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz", trust_env=False)


def test_a_second_signal_stops_at_once() -> None:
    waits = threading.Event()
    import uvicorn

    from manyeyes.service.pipeline.stopping import DrainingServer

    server = DrainingServer(uvicorn.Config(lambda: None), lambda: waits.wait(20))
    server.handle_exit(signal.SIGTERM, None)
    time.sleep(0.05)
    assert not server.should_exit
    server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit
    waits.set()
