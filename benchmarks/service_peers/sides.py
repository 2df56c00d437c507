"""Embeddings of a ViT-B-32 over HTTP, ours and theirs: the same weights, the same photographs, in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from benchmarks.bars import Bar, at_least, told
from benchmarks.photo_speed import ARCH, random_weights, resized
from benchmarks.service_load import Request, closed, data_url, form
from benchmarks.service_peers import infinity
from benchmarks.service_process import Server, free_port, manyeyes, running

N_CLIENTS = 32
_MOST_TRIES = 5
HERE = Path(__file__).resolve().parents[2]


def open_clip_model(folder: Path) -> tuple[Path, Path]:
    """Make a ViT-B-32 with random weights as open_clip saves models; return its folder and the file of weights."""
    weights = folder / f"{ARCH}.safetensors"
    if not weights.is_file():
        folder.mkdir(parents=True)
        random_weights(folder)
        import open_clip

        (folder / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": open_clip.get_model_config(ARCH), "preprocess_cfg": {}})
        )
    return folder, weights


class Sides:
    """Servers that embed the same photographs, and how each is asked."""

    def __init__(self, data: Path, work: Path) -> None:
        self.work = work
        self.photos = resized(data / "imagenet_sample.zip", 64, (500, 375))
        self.model, self.weights = open_clip_model(work / "clip")
        self.stack = ExitStack()
        self.asked: dict[str, tuple[Server, list[Request]]] = {}

    def ours(self, runtime: str) -> None:
        """Add our service, with the CLIP in one runtime."""
        settings = {"MANYEYES_RUNTIME": runtime, "MANYEYES_ALLOWED_MODELS": f"clip:{self.model}"}
        recipes = self.work / "no-recipes"
        recipes.mkdir(exist_ok=True)
        server = self.stack.enter_context(manyeyes(recipes, self.work / f"home-{runtime}", **settings))
        fields = [("primitive", f"clip:{self.model}")]
        self.asked[f"ours, {runtime}"] = (
            server,
            [
                form(f"{server.address}/v1/embed", [photo], field="files", fields=fields)
                for photo in self.photos
            ],
        )

    def naive(self) -> None:
        """Add FastAPI and open_clip."""
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.service_peers.naive", str(self.weights), str(port)]
        environment = {"PYTHONPATH": str(HERE)}
        server = self.stack.enter_context(
            running(command, port, self.work / "naive.log", environment=environment)
        )
        requests = [form(f"{server.address}/embed", [photo], field="file") for photo in self.photos]
        self.asked["naive"] = server, requests

    def infinity(self, python: Path) -> None:
        """Add infinity-emb."""
        port = free_port()
        model = infinity.write_model(self.weights, self.work / "infinity-model")
        environment = {"INFINITY_ANONYMOUS_USAGE_STATS": "0", "HF_HUB_OFFLINE": "1"}
        server = self.stack.enter_context(
            running(
                infinity.command(python, model, port),
                port,
                self.work / "infinity.log",
                probe="/health",
                environment=environment,
            )
        )
        before, after = '{"model": "clip", "modality": "image", "input": [', "]}"
        requests = [
            data_url(f"{server.address}/embeddings", photo, before=before, after=after)
            for photo in self.photos
        ]
        self.asked["infinity"] = server, requests

    def rates(self, *, n_calls: int, rounds: int) -> dict[str, list[float]]:
        """Return how many photographs a second each side embeds for 32 clients, in every round."""
        rates: dict[str, list[float]] = {name: [] for name in self.asked}
        for name, (server, requests) in self.asked.items():  # for nothing: models load, threads start
            for _ in range(_MOST_TRIES):
                # Choosing a runtime may take longer than a call may, and must be over before anything is timed.
                answers = closed(server.address, requests, n_calls=N_CLIENTS, n_clients=N_CLIENTS)
                if all(answer.status == 200 for answer in answers):
                    break
            else:
                raise RuntimeError(f"{name} does not come to answer")
        for _ in range(rounds):
            for name, (server, requests) in self.asked.items():
                answers = closed(server.address, requests, n_calls=n_calls, n_clients=N_CLIENTS)
                if any(answer.status != 200 or answer.wrong for answer in answers):
                    raise RuntimeError(
                        f"{name} answered {[a.status for a in answers if a.status != 200][:3]}"
                    )
                seconds = max(a.done for a in answers) - min(a.due for a in answers)
                rates[name].append(len(answers) / seconds)
        return rates

    def embedding(self, name: str) -> np.ndarray:
        """Return a side's embedding of the first photograph, L2-normalised."""
        _, requests = self.asked[name]
        found = np.array(_floats(_asked(self.asked[name][0].address, requests[0])))
        unit: np.ndarray = found / np.linalg.norm(found)
        return unit


def _asked(address: str, request: Request) -> object:
    head, _, body = request.numbered(0).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    call = urllib.request.Request(address + lines[0].split()[1], data=body, headers=headers)
    with urllib.request.urlopen(call, timeout=120) as answer:
        return json.load(answer)


def _floats(told: object) -> Sequence[float]:
    """Return the first list of numbers in an answer: the embedding, wherever a server puts it."""
    if isinstance(told, list) and len(told) >= 64 and all(isinstance(value, float) for value in told):
        return told
    parts = told.values() if isinstance(told, dict) else told if isinstance(told, list) else ()
    for part in parts:
        if found := _floats(part):
            return found
    return ()


def compared(sides: Sides, peer: str, *, goal: float | None, quick: bool) -> list[Bar]:
    """Return how many times as many photographs our sides embed as a peer does, and whether they say the same."""
    rates = sides.rates(n_calls=64 if quick else 192, rounds=1 if quick else 3)
    theirs = sides.embedding(peer)
    bars = []
    for name in rates:
        if name == peer:
            continue
        ratio = statistics.median(np.divide(rates[name], rates[peer]))
        cosine = float(sides.embedding(name) @ theirs)
        own, others = statistics.median(rates[name]), statistics.median(rates[peer])
        beside = f"{own:.1f}/s; {peer}: {others:.1f}/s; cosine {cosine:.4f}"
        title = f"{ARCH}, {N_CLIENTS} clients, of {peer}: {name}"
        fast = "torch" not in name
        bars.append(
            at_least(title, ratio, goal, unit="×", peer=beside)
            if fast and goal is not None
            else told(title, ratio, unit="×", peer=beside)
        )
    return bars


def against_naive(data: Path, work: Path, *, quick: bool) -> list[Bar]:
    """Our service in two runtimes beside FastAPI and open_clip."""
    sides = Sides(data, work)
    with sides.stack:
        sides.naive()
        for runtime in ("auto",) if quick else ("auto", "torch"):
            sides.ours(runtime)
        return compared(sides, "naive", goal=3, quick=quick)


def against_infinity(data: Path, work: Path, *, quick: bool) -> list[Bar]:
    """Our service in two runtimes beside infinity-emb, installed into the user's cache where it is not there yet."""
    try:
        python = infinity.python_in(Path.home() / ".cache" / "manyeyes-bench" / "infinity")
    except subprocess.CalledProcessError as error:
        print(f"infinity-emb cannot be installed: {str(error.stderr)[-500:]}", file=sys.stderr)
        return []
    sides = Sides(data, work)
    with sides.stack:
        sides.infinity(python)
        for runtime in ("auto",) if quick else ("auto", "torch"):
            sides.ours(runtime)
        return compared(sides, "infinity", goal=None, quick=quick)
