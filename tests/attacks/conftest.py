"""A service in a process of its own, and the price of attacking it."""

from __future__ import annotations

import base64
import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.service.conftest import PAINT
from tests.service.fetching.sites import Site, a_site

MAX_S = 5.0
MAX_BYTES = 200 * 2**20
REPOSITORY = Path(__file__).parents[2]
RED = """
name: says
classes: [red, blue]
lfs:
  - {name: red, kind: keyword, on: text, any: [crimson], vote: red}
  - {name: blue, kind: keyword, on: text, any: [navy], vote: blue}
"""


@dataclass
class Victim:
    """url: where it listens. pid: its process. home: a folder of its own, with `recipes` in it."""

    url: str
    pid: int
    home: Path

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return host, int(port)

    def rss_bytes(self) -> int:
        """Return the memory of the service and of the processes that it started; what they share counts once."""
        told = [_memory_of(pid) for pid in [self.pid, *children(self.pid)]]
        return sum(own for own, _ in told) + max(shared for _, shared in told)

    def post(self, path: str = "/v1/label", **options: Any) -> httpx.Response:
        return httpx.post(self.url + path, timeout=30, **options)

    def label(self, *items: Mapping[str, Any], recipe: Any = "paint") -> list[dict[str, Any]]:
        answer = self.post(json={"recipe": recipe, "items": list(items)})
        assert answer.status_code == 200, answer.text
        labels: list[dict[str, Any]] = answer.json()["labels"]
        return labels

    def codes(self, *items: Mapping[str, Any], recipe: Any = "paint") -> list[str | None]:
        """Return the code of what is wrong with each item."""
        return [row.get("error", {}).get("code") for row in self.label(*items, recipe=recipe)]

    @contextmanager
    def costs_little(self, max_s: float = MAX_S, max_bytes: int = MAX_BYTES) -> Iterator[None]:
        """Check that what is done inside is short, takes little memory at any time, and that the service goes on."""
        before, peak = self.rss_bytes(), 0
        done = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.01):
                peak = max(peak, self.rss_bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.perf_counter()
        try:
            yield
        finally:
            took_s = time.perf_counter() - started
            done.set()
            watcher.join()
        assert took_s < max_s, f"it took {took_s:.1f} s"
        assert peak - before < max_bytes, f"it took {(peak - before) / 2**20:.0f} MiB"
        started = time.perf_counter()
        assert httpx.get(self.url + "/healthz", timeout=5).json() == {"status": "ok"}
        assert time.perf_counter() - started < 2
        assert self.codes({"image": picture()}) == [None]


def picture(colour: str = "red") -> str:
    stream = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def children(pid: int) -> list[int]:
    """Return the processes that a process started; not a copy of itself that is about to become one."""
    found = []
    try:
        own = Path(f"/proc/{pid}/cmdline").read_bytes()
        for task in Path(f"/proc/{pid}/task").iterdir():
            started = (task / "children").read_text().split()
            found += [int(one) for one in started if Path(f"/proc/{one}/cmdline").read_bytes() != own]
    except OSError:  # one that ended in between
        pass
    return found


def _memory_of(pid: int) -> tuple[int, int]:
    """Return the bytes of a process: its own, and those that it shares with others."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    told = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
    return told.get("RssAnon", 0) + told.get("RssFile", 0), told.get("RssShmem", 0)


@contextmanager
def a_victim(home: Path, **settings: str) -> Iterator[Victim]:
    recipes = home / "recipes"
    recipes.mkdir(exist_ok=True)
    (recipes / "paint.yaml").write_text(PAINT)
    (recipes / "says.yaml").write_text(RED)
    (home / "secret.yaml").write_text(RED.replace("says", "secret"))
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MANYEYES_")},
        "MANYEYES_HOME": str(home),
        "MANYEYES_RECIPES_DIR": str(recipes),
        "MANYEYES_PORT": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        **settings,
    }
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.victim"],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, (home / "log").read_text()
        victim = Victim(f"http://127.0.0.1:{port}", process.pid, home)
        for _ in range(4):  # both processes that decode are there
            victim.label(*[{"image": picture()}, {"image": picture("blue")}] * 4)
        yield victim
        assert process.poll() is None, (home / "log").read_text()[-4000:]
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture(scope="session")
def inside() -> Iterator[Site]:
    """Return a server that nobody outside should ever reach, such as one with the cloud's credentials."""
    with a_site("127.0.0.1") as site:
        yield site


@pytest.fixture(scope="session")
def allowed() -> Iterator[Site]:
    """Return a server that images may be fetched from."""
    with a_site("127.0.0.2") as site:
        yield site


@pytest.fixture(scope="session")
def victim(inside: Site, allowed: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """Return a running service that fetches from every name of ``.test``, and from one address of this machine."""
    hosts = [f"*.test:{port}" for port in (inside.port, allowed.port)] + ["*.test"]
    with a_victim(
        tmp_path_factory.mktemp("victim"),
        MANYEYES_FETCH_HOSTS=",".join(hosts),
        MANYEYES_FETCH_HTTP="1",
        MANYEYES_FETCH_NETWORKS="127.0.0.2",
        MANYEYES_FETCH_TIMEOUT_S="2",
        MANYEYES_BODY_TIMEOUT_S="3",
        MANYEYES_HEAD_TIMEOUT_S="1",
        MANYEYES_MAX_CONNECTIONS="300",
    ) as running:
        yield running
