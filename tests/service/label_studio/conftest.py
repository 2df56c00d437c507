"""A real Label Studio server, in a process and an environment of its own."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from manyeyes.service.app import listen
from manyeyes.service.settings import ServiceSettings


class LabelStudio(NamedTuple):
    """A running server. url: its address. token: of its one user. python: of its environment. log: what it wrote."""

    url: str
    token: str
    python: Path
    log: Path

    @property
    def http(self) -> httpx.Client:
        """A client that is logged in."""
        headers = {"Authorization": f"Token {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    """Return a Label Studio with nothing in it."""
    program = Path(os.environ.get("MANYEYES_LABEL_STUDIO") or "/nowhere")
    if not program.is_file():
        told = "no Label Studio: MANYEYES_LABEL_STUDIO=$(scripts/label_studio), as scripts/test has it"
        if os.environ.get("CI"):
            pytest.fail(told)
        pytest.skip(told)
    folder = tmp_path_factory.mktemp("label-studio")
    with listen(ServiceSettings(port=0)) as free:
        port = free.getsockname()[1]
    token = secrets.token_hex(20)
    log = folder / "log"
    environ: dict[str, Any] = {
        "HOME": str(folder),
        "PATH": os.environ["PATH"],
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
        "LABEL_STUDIO_USERNAME": "somebody@example.org",
        "LABEL_STUDIO_PASSWORD": secrets.token_hex(8),
        "LABEL_STUDIO_USER_TOKEN": token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "ML_BLOCK_LOCAL_IP": "false",  # the service listens on this machine, too
        "SSRF_PROTECTION_ENABLED": "false",
        "COLLECT_ANALYTICS": "false",
        "LATEST_VERSION_CHECK": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
    }
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [program, "start", "--no-browser", "--port", str(port), "--internal-host", "127.0.0.1"],
            env=environ,
            cwd=folder,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240  # it makes its database first
        while not _answers(url):
            assert process.poll() is None, log.read_text(errors="replace")[-4000:]
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
            time.sleep(0.5)
        yield LabelStudio(url, token, program.with_name("python"), log)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False
