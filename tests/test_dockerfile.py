"""The image cannot be built where these tests run, so everything in its Dockerfile is one that they can run."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from manyeyes.service.settings import ENV_PREFIX, ServiceSettings


@pytest.fixture(scope="module")
def dockerfile(root: Path) -> str:
    text = (root / "Dockerfile").read_text()
    return text.replace("\\\n", " ")


def instructions(dockerfile: str, name: str) -> list[str]:
    return re.findall(rf"^(?:HEALTHCHECK .*)?{name} (.*)$", dockerfile, flags=re.M)


def test_hadolint_finds_nothing(root: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, root / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_has_two_stages_and_runs_without_rights(dockerfile: str) -> None:
    stages = re.findall(r"^FROM (\S+)", dockerfile, flags=re.M)
    assert len(stages) == 2 and all(re.fullmatch(r"python:3\.11-slim-\w+", stage) for stage in stages)
    last = dockerfile.rpartition("FROM ")[2]
    user = re.findall(r"^USER (\d+):(\d+)$", last, flags=re.M)
    assert user and "0" not in user[-1]
    assert last.index("USER ") < last.index("HEALTHCHECK ") < last.index("\nCMD ")


def test_everything_it_copies_is_there_and_not_ignored(dockerfile: str, root: Path) -> None:
    kept = re.findall(r"^!(.*)$", (root / ".dockerignore").read_text(), flags=re.M)
    assert all((root / path).exists() for path in kept)
    # What scripts/setup reads and what pyproject.toml packages; the symlinks of manyeyes/ travel inside it.
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "scripts/setup", "manyeyes"} <= set(
        kept
    )
    assert {"lfs", "models", "primitives", "service"} <= set(kept)


def test_what_it_runs_is_what_the_scripts_run(dockerfile: str, root: Path) -> None:
    runs = instructions(dockerfile, "RUN")
    assert runs[0] == "scripts/setup all,postgres,otel"
    assert os.access(root / "scripts" / "setup", os.X_OK)
    assert len(runs) == 2 and re.fullmatch(r"install -d -o \d+ -g \d+ /var/lib/manyeyes", runs[1])


def test_its_settings_are_settings(dockerfile: str) -> None:
    settings = {name.removeprefix(ENV_PREFIX) for name in re.findall(r"\b(MANYEYES_\w+)=", dockerfile)}
    assert settings - {"VENV", "HOME"} <= {name.upper() for name in ServiceSettings.model_fields}


@pytest.mark.slow
def test_the_service_starts_as_written_and_is_healthy(dockerfile: str, root: Path, tmp_path: Path) -> None:
    command = json.loads(re.findall(r"^CMD (.*)$", dockerfile, flags=re.M)[0])
    probe = json.loads(re.findall(r"^HEALTHCHECK .* CMD (.*)$", dockerfile, flags=re.M)[0])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [word.replace("8000", port) for word in command]
    probe = [word.replace("8000", port) for word in probe]
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "MANYEYES_RECIPES_DIR": str(root / "examples"),
        "MANYEYES_API_KEYS": "a key of at least sixteen characters",
    }
    assert subprocess.run(probe, env=env, capture_output=True).returncode != 0
    with subprocess.Popen(
        command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as server:
        try:
            deadline = time.monotonic() + 60
            while subprocess.run(probe, env=env, capture_output=True).returncode != 0:
                assert server.poll() is None, server.communicate()[0].decode()
                assert time.monotonic() < deadline, "the service did not answer within a minute"
                time.sleep(0.2)
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=30)
    assert server.returncode in (0, -signal.SIGTERM)


@pytest.mark.slow
def test_it_does_not_start_open_to_strangers(dockerfile: str, tmp_path: Path) -> None:
    command = json.loads(re.findall(r"^CMD (.*)$", dockerfile, flags=re.M)[0])
    env = {key: value for key, value in os.environ.items() if not key.startswith("MANYEYES_API")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "MANYEYES_API_KEYS" in done.stdout + done.stderr
