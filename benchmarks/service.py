"""The service under load, on real sockets: beside the same work in one process, beside peers, at half load, overloaded.

Everything shares the cores of this machine, the load generator too. Every photograph is new to the service: a comment
in it changes its digest and none of its pixels. What is compared takes turns; a ratio is the median of its rounds.

python -m benchmarks.service [--json] [--quick] [--only PART]
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.bars import Bar, arguments, at_least, at_most, show, told
from benchmarks.photo_speed import resized
from benchmarks.service_load import Answer, Request, closed, form, on_schedule, poisson
from benchmarks.service_process import InProcess, Server, manyeyes

GARMENTS = Path(__file__).resolve().parents[1] / "examples" / "garments.yaml"
N_CLIENTS = 32


class World:
    """What the parts share: photographs, a recipe with a fitted label model, a service, and the same in one process."""

    def __init__(self, data: Path, work: Path, *, quick: bool) -> None:
        self.data, self.work, self.quick = data, work, quick
        self.stack = ExitStack()
        self.photos = resized(data / "imagenet_sample.zip", 64, (500, 375))

    @cached_property
    def recipes(self) -> Path:
        """A folder with two recipes, each with a label model fitted on the photographs.

        garments: the example, over a CLIP, a detector and image facts; looks: the same without the detector.
        """
        from manyeyes import Item, Labeler, Recipe

        folder = self.work / "recipes"
        folder.mkdir()
        whole = Recipe.load(GARMENTS)
        told = whole.model_dump(mode="json")
        lfs = [lf for lf in told["lfs"] if lf["kind"] != "detect"]
        light = Recipe.parse({**told, "name": "looks", "primitives": {"clip": "starter"}, "lfs": lfs})
        items = [Item(str(n), image=photo) for n, photo in enumerate(self.photos)]
        for recipe in [light] if self.quick else [light, whole]:
            (folder / f"{recipe.name}.yaml").write_text(recipe.to_yaml())
            Labeler(recipe).fit(items).save_label_model(folder / f"{recipe.name}.label_model")
        return folder

    @cached_property
    def service(self) -> Server:
        """A service with its models loaded.

        Clients with eight photographs each hold 256 at once, near the 10 s that a call may wait by default.
        """
        patient = {"MANYEYES_MAX_WAIT_S": "20"}
        server = self.stack.enter_context(manyeyes(self.recipes, self.work / "service", **patient))
        sound(closed(server.address, self.labels("looks", server), n_calls=32, n_clients=4))
        return server

    def labels(self, recipe: str, server: Server, *, a_call: int = 1) -> list[Request]:
        """Return calls to label photographs, so many in each."""
        groups = [self.photos[n : n + a_call] for n in range(0, len(self.photos), a_call)]
        return [
            form(f"{server.address}/v1/label", group, field="files", fields=[("recipe", recipe)])
            for group in groups
        ]

    def in_process(self, recipe: str, *, keep: bool) -> InProcess:
        """Return a Labeler in another process that has labeled something; see InProcess."""
        made = InProcess(
            self.recipes / f"{recipe}.yaml",
            self.recipes / f"{recipe}.label_model",
            self.work / f"in-process-{recipe}-{keep}",
            self.photos,
            keep=keep,
        )
        self.stack.callback(made.close)
        made.label(32)
        return made

    def saturation(self, n_items: int, *, recipe: str = "looks", a_call: int = 1) -> float:
        """Return how many photographs a second are labeled for clients who ask again at once."""
        requests = self.labels(recipe, self.service, a_call=a_call)
        return rate_of(
            sound(closed(self.service.address, requests, n_calls=n_items // a_call, n_clients=N_CLIENTS))
        )


def sound(answers: Sequence[Answer]) -> list[Answer]:
    """Return answers that must all be labels; raise RuntimeError where one is not."""
    for answer in answers:
        if answer.status != 200 or answer.wrong:
            raise RuntimeError(
                f"a call was answered with {answer.status}, errors among the items: {answer.wrong}"
            )
    return list(answers)


def rate_of(answers: Sequence[Answer]) -> float:
    """Return items a second from the first call to the last answer."""
    first, last = min(answer.due for answer in answers), max(answer.done for answer in answers)
    return sum(answer.n_items for answer in answers) / (last - first)


def percentiles_ms(answers: Sequence[Answer]) -> tuple[float, float]:
    """Return the median latency and the 99th percentile, in milliseconds."""
    p50, p99 = np.percentile([answer.latency_s * 1000 for answer in answers], [50, 99])
    return float(p50), float(p99)


def saturation(world: World, recipe: str = "looks") -> list[Bar]:
    """Photographs a second that 32 clients get, of what a Labeler labels in one process without a service.

    Beside the Labeler as it comes there is one whose process keeps freed memory, as the service's does.
    """
    bars = []
    service = world.service
    alone = {"alone": world.in_process(recipe, keep=False), "kept": world.in_process(recipe, keep=True)}
    calls = {"1": 1, "8": 8}
    sound(closed(service.address, world.labels(recipe, service), n_calls=32, n_clients=4))
    n_items = 96 if world.quick else 256
    rates: dict[str, list[float]] = {side: [] for side in (*alone, *calls)}
    costs: dict[str, list[float]] = {side: [] for side in (*alone, *calls)}
    for _ in range(1 if world.quick else 5 if recipe == "looks" else 3):
        for side, labeler in alone.items():
            seconds, cpu = labeler.label(n_items)
            rates[side].append(n_items / seconds)
            costs[side].append(cpu / n_items)
        for side, a_call in calls.items():
            before = service.cpu_s
            rates[side].append(world.saturation(n_items, recipe=recipe, a_call=a_call))
            costs[side].append((service.cpu_s - before) / n_items)
    rate = {side: statistics.median(values) for side, values in rates.items()}
    for side in calls:
        share = statistics.median(np.divide(rates[side], rates["alone"]))
        kept = statistics.median(np.divide(rates[side], rates["kept"]))
        cost = statistics.median(np.divide(costs["alone"], costs[side]))
        title = f"{recipe}, {side} a call"
        peer = f"{rate[side]:.1f}/s; Labeler {rate['alone']:.1f}/s"
        bars.append(at_least(f"{title}: throughput, of a Labeler's", share, 0.85, peer=peer))
        peer = f"Labeler {rate['kept']:.1f}/s"
        bars.append(told(f"{title}: the same, where it keeps freed memory, too", kept, peer=peer))
        peer = f"{statistics.median(costs[side]) * 1000:.1f} ms of CPU a photograph"
        bars.append(told(f"{title}: CPU of a Labeler, of the service's", cost, peer=peer))
    return bars


def with_detector(world: World) -> list[Bar]:
    """The same with a recipe that looks for objects, too."""
    return saturation(world, "garments")


def half_load(world: World) -> list[Bar]:
    """How much longer than half of the callers the unluckiest one in a hundred waits, at half of saturation."""
    rng = random.Random(0)
    service = world.service
    requests = world.labels("looks", service)
    ratios, told_ms = [], []
    for _ in range(1 if world.quick else 3):
        rate = world.saturation(128 if world.quick else 256) / 2
        times = poisson(rate, 6 if world.quick else 25, rng)
        p50, p99 = percentiles_ms(sound(on_schedule(service.address, requests, times)))
        ratios.append(p99 / p50)
        told_ms.append(f"{p50:.0f} and {p99:.0f} ms at {rate:.1f}/s")
    peer = "; ".join(told_ms)
    return [
        at_most("half load, Poisson arrivals: p99 of p50", statistics.median(ratios), 3, unit="×", peer=peer)
    ]


def overload(world: World) -> list[Bar]:
    """Five times what the service can do: is all answered, at once where refused, and as much labeled as ever?"""
    service = world.service
    requests = world.labels("looks", service)
    n_items = 128 if world.quick else 384
    seconds, warm_s = (8, 3) if world.quick else (32, 10)
    before = world.saturation(n_items)
    memory: list[float] = []
    answers = on_schedule(
        service.address,
        requests,
        poisson(5 * before, seconds, random.Random(1)),
        watch=lambda: memory.append(service.memory_mb),
    )
    after = world.saturation(n_items)
    can = (before + after) / 2
    started = min(answer.due for answer in answers)
    labeled = [answer for answer in answers if answer.status == 200]
    in_time = [a for a in labeled if started + warm_s <= a.done < started + seconds]
    goodput = len(in_time) / (seconds - warm_s)
    refused = [answer.latency_s for answer in answers if answer.status == 429]
    unanswered = sum(answer.status not in (200, 429) or answer.wrong for answer in answers)
    warm = memory[int(len(memory) * warm_s / seconds)]
    grown = max(memory[int(len(memory) * warm_s / seconds) :]) - warm
    _, p99 = percentiles_ms(labeled) if labeled else (0.0, 0.0)
    return [
        at_most("overload, 5×: calls without 200 or 429", unanswered, 0, peer=f"{len(answers)} calls"),
        at_most("overload, 5×: the latest 429", max(refused, default=0.0), 1, unit="s", peer=f"{len(refused)} of them"),
        at_least("overload, 5×: labeled, of saturation", goodput / can, 0.9, peer=f"{goodput:.1f}/s; {can:.1f}/s"),
        at_most("overload, 5×: memory grown", grown, max(50.0, warm * 0.1), unit="MB", peer=f"{warm:.0f} MB when warm"),
        told("overload, 5×: p99 of those labeled", p99 / 1000, unit="s"),
        told("overload, 5×: processes that ended", float(service.process.poll() is not None)),
    ]  # fmt: skip


def against_naive(world: World) -> list[Bar]:
    """Embeddings a second beside an endpoint of FastAPI and open_clip."""
    from benchmarks.service_peers import sides

    return sides.against_naive(world.data, world.work, quick=world.quick)


def against_infinity(world: World) -> list[Bar]:
    """Embeddings a second beside infinity-emb."""
    from benchmarks.service_peers import sides

    return sides.against_infinity(world.data, world.work, quick=world.quick)


PARTS: dict[str, Callable[[World], list[Bar]]] = {
    "saturation": saturation,
    "with_detector": with_detector,
    "half_load": half_load,
    "overload": overload,
    "naive": against_naive,
    "infinity": against_infinity,
}


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="one part, or several; all by default")
    options = parser.parse_args()
    # Without what takes longest: installing a peer, and loading three servers.
    quick_parts = ["saturation", "half_load", "overload"]
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as name:
        os.environ["MANYEYES_HOME"] = str(Path(name) / "home")
        world = World(options.data, Path(name), quick=options.quick)
        with world.stack:
            for part in options.only or (quick_parts if options.quick else list(PARTS)):
                bars += PARTS[part](world)
    return show("The service", bars, as_json=bool(options.json))


if __name__ == "__main__":
    sys.exit(main())
