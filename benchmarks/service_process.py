"""Servers in processes of their own, what they cost, and the same work done without one."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.service_load import numbered_photo


@dataclass(frozen=True, slots=True)
class Server:
    """A running server: where it listens, and its process. It may have children."""

    address: str
    process: subprocess.Popen[bytes]

    def _all(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    @property
    def memory_mb(self) -> float:
        """What it holds in memory, in MB of 10⁶ bytes; pages that children share with it are counted again."""
        return float(sum(one.memory_info().rss for one in self._all()) / 1e6)

    @property
    def cpu_s(self) -> float:
        """How many seconds of CPU it has used so far."""
        return float(sum(sum(one.cpu_times()[:2]) for one in self._all()))


def free_port() -> int:
    """Return a port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str], port: int, log: Path, *, probe: str = "/healthz", environment: Mapping[str, str]
) -> Iterator[Server]:
    """Run a server until the block ends. Raises RuntimeError, with the end of its log, if it does not come up."""
    address = f"http://127.0.0.1:{port}"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )
    try:
        deadline = time.monotonic() + 180
        while not _answers(address + probe):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{command[0]} does not come up: {log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.1)
        yield Server(address, process)
    finally:
        process.terminate()
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def manyeyes(recipes: Path, home: Path, **settings: str) -> Iterator[Server]:
    """Run ``manyeyes serve`` over a folder of recipes, with a cache of its own. settings: MANYEYES_… variables."""
    port = free_port()
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "manyeyes.cli", "serve", "--port", str(port), "--recipes", str(recipes)]
    environment = {"MANYEYES_HOME": str(home), **settings}
    with running(command, port, home / "server.log", environment=environment) as server:
        yield server


_labeler: Any = None


def _load(recipe: str, label_model: str, home: str, keep: bool) -> None:
    global _labeler
    os.environ["MANYEYES_HOME"] = home
    if keep:
        from manyeyes.service.operations.allocator import keep_freed_memory

        keep_freed_memory()
    from manyeyes import Labeler, Recipe

    _labeler = Labeler(Recipe.load(recipe)).load_label_model(label_model)


def _label(photos: Sequence[bytes], first: int, n_items: int) -> tuple[float, float]:
    """Return the seconds that labels of some photographs took, and the seconds of CPU."""
    from manyeyes import Item

    items = [Item(str(n), image=numbered_photo(photos[n % len(photos)], first + n)) for n in range(n_items)]
    started, cpu = time.perf_counter(), time.process_time()
    labels = _labeler.label(items)
    took = time.perf_counter() - started, time.process_time() - cpu
    assert not labels.errors
    return took


class InProcess:
    """A Labeler with a fitted label model in a process of its own, which labels photographs that it never saw.

    keep: whether the process keeps freed memory, as the service does and a library must not.
    """

    def __init__(
        self, recipe: Path, label_model: Path, home: Path, photos: Sequence[bytes], *, keep: bool = False
    ) -> None:
        self._photos = photos
        self._n_seen = 0
        self._pool = ProcessPoolExecutor(
            1,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_load,
            initargs=(str(recipe), str(label_model), str(home), keep),
        )

    def label(self, n_items: int) -> tuple[float, float]:
        """Label so many new photographs in one call; return the seconds it took, and the seconds of CPU."""
        first, self._n_seen = self._n_seen, self._n_seen + n_items
        return self._pool.submit(_label, self._photos, first, n_items).result()

    def close(self) -> None:
        """Stop the process."""
        self._pool.shutdown()
