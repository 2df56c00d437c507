"""A service in a process of its own, with a toy model that fails on sight of some colours."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from manyeyes import Client, Item, Labeler, Recipe

START = '''
"""Starts the command line with a toy that has faults: what a model's own code may do to the service."""
import sys, time
import numpy as np
from manyeyes.primitives import toy

compute = toy.ToyImage.compute

def faulty(self, batch):
    colours = [tuple(np.asarray(image.pixels)[0, 0] > 128) for image in batch]
    if (True, True, False) in colours:  # yellow
        raise ValueError("cannot bear the sight of yellow")
    if (False, True, True) in colours:  # cyan: nothing that is meant to be caught
        raise SystemExit("the thread ends here")
    time.sleep(0.1 * colours.count((True, False, True)))  # magenta
    return compute(self, batch)

toy.ToyImage.compute = faulty
from manyeyes.cli import main
main()
'''
LOOKS = """
name: looks
classes: [red, green, blue]
primitives: {toy: {}}
lfs:
  - {name: looks, kind: prompt, using: toy, prompts: {red: red, green: green, blue: blue}, threshold: 0.2}
  - {name: says, kind: keyword, on: text, votes: {red: [crimson], green: [lime], blue: [navy]}}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server that can be stopped, killed and started again at the same address over the same home."""

    def __init__(self, folder: Path, recipes: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        (folder / "start.py").write_text(START)
        self.command = [sys.executable, str(folder / "start.py"), "serve"]
        self.command += ["--port", str(self.port), "--recipes", str(recipes)]
        self.environment = {
            **os.environ,
            "MANYEYES_HOME": str(folder / "home"),
            "OMP_NUM_THREADS": "1",
            **settings,
        }
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=subprocess.STDOUT, env=self.environment
            )
        deadline = time.monotonic() + 60
        while not self.answers("/healthz"):
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.05)

    def answers(self, path: str) -> bool:
        try:
            return httpx.get(self.address + path, timeout=5, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=10)

    def stop(self) -> int:
        """Ask it to stop; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")[-4000:]

    def metric(self, name: str) -> float:
        """Return a metric, summed over its labels; 0 where it is not there."""
        page = httpx.get(f"{self.address}/metrics", timeout=10, trust_env=False).text
        return sum(map(float, re.findall(rf"^{name}(?:{{[^}}]*}})? ([0-9.e+-]+)$", page, re.MULTILINE)))

    @property
    def n_files(self) -> int:
        return int(psutil.Process(self.process.pid).num_fds())

    @property
    def n_threads(self) -> int:
        return int(psutil.Process(self.process.pid).num_threads())


@pytest.fixture(scope="session")
def photo() -> Callable[..., bytes]:
    """Return a maker of PNGs of one colour; every number is another file."""

    def make(colour: str, number: int = 0) -> bytes:
        stream = io.BytesIO()
        image = Image.new("RGB", (16, 16), colour)
        image.putpixel((15, 15), (number & 255, number >> 8 & 255, number >> 16 & 255))
        image.save(stream, "PNG")
        return stream.getvalue()

    return make


@pytest.fixture(scope="session")
def recipes(tmp_path_factory: pytest.TempPathFactory, photo: Callable[..., bytes]) -> Path:
    """Return a folder with a recipe over the toy, and its fitted label model."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "looks.yaml").write_text(LOOKS)
    said = {"red": "a crimson wall", "green": "a lime wall", "blue": "a navy wall"}
    items = [
        Item(f"{colour}-{n}", image=photo(colour, n), text=text if n % 2 else None)
        for colour, text in said.items()
        for n in range(20)
    ]
    labeler = Labeler(Recipe.load(folder / "looks.yaml"))
    labeler.fit(items).save_label_model(folder / "looks.label_model")
    return folder


@pytest.fixture
def serve(tmp_path: Path, recipes: Path) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a service; settings: MANYEYES_… variables."""
    started: list[Server] = []

    def start(**settings: str) -> Server:
        folder = tmp_path / f"server-{len(started)}"
        folder.mkdir()
        started.append(Server(folder, recipes, settings))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.kill()


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    """Return a running service with the settings that it comes with."""
    return serve()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """Return a client of that service that does not try again."""
    with Client(server.address, max_retries=0, timeout_s=60) as made:
        yield made
