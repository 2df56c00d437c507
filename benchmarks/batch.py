"""Batch jobs over CIFAR-10, from an S3 server and from disk: beside a few lines of Python, again, and after an edit.

The S3 server (moto) shares the cores of this machine with the job and with its peer, which reads the same bucket ahead
on threads. Each side runs in a process of its own with an empty cache, in turns; a ratio is the median of its rounds.

python -m benchmarks.batch [--json] [--quick] [--only PART] [--on disk|S3] [--files N]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from zipfile import ZipFile

from benchmarks.bars import Bar, arguments, at_least, at_most, show, told
from benchmarks.service_process import free_port, running

RECIPE: Final = """
name: cifar
classes: [airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck]
primitives: {clip: starter}
lfs:
  - name: looks
    kind: prompt
    prompts:
      airplane: [a photo of an airplane, a plane in the sky]
      automobile: [a photo of a car, a passenger car on the street]
      bird: [a photo of a bird, a small bird]
      cat: [a photo of a cat, a kitten]
      deer: [a photo of a deer, a stag in the woods]
      dog: [a photo of a dog, a puppy]
      frog: [a photo of a frog, a toad]
      horse: [a photo of a horse, a pony]
      ship: [a photo of a ship, a boat on the sea]
      truck: [a photo of a truck, a lorry]
  - name: moves
    kind: prompt
    prompts: {airplane: something that flies, ship: something that swims}
    against: [something on wheels, an animal]
  - name: lives
    kind: prompt
    prompts: {horse: an animal of the farm, deer: an animal of the woods}
    against: [a pet, a bird, a machine]
"""
EDITED: Final = (
    RECIPE
    + """
  - name: on_wheels
    kind: prompt
    prompts: {truck: a large vehicle, automobile: a small vehicle}
    against: [an animal, a ship, an airplane]
"""
)
TWICE_EDITED: Final = EDITED.replace("a small vehicle", "a family car")
BUCKET: Final = "photos"
KINDS: Final = ("disk", "S3")


class World:
    """What the parts share: photographs on disk and in a bucket, and recipes."""

    def __init__(
        self, data: Path, work: Path, *, files: int, rounds: int, quick: bool, kinds: Sequence[str] = KINDS
    ) -> None:
        self.data, self.work, self.files, self.rounds, self.quick = data, work, files, rounds, quick
        self.kinds = kinds
        self.stack = ExitStack()
        self._n = 0
        (work / "recipe.yaml").write_text(RECIPE)
        (work / "edited.yaml").write_text(EDITED)
        (work / "twice_edited.yaml").write_text(TWICE_EDITED)

    def photos(self, n_files: int) -> Path:
        """Return a folder with so many photographs, in folders by number."""
        folder = self.work / f"photos-{n_files}"
        if not folder.exists():
            for n, (name, data) in enumerate(_pictures(self.data, n_files)):
                path = folder / f"{n // 1000:03d}" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
        return folder

    @cached_property
    def s3(self) -> str:
        """The address of an S3 server with an empty bucket."""
        port = free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = self.stack.enter_context(
            running(command, port, self.work / "moto.log", probe="/moto-api/", environment={})
        )
        os.environ |= {
            "AWS_ENDPOINT_URL": server.address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_REGION": "us-east-1",
        }
        urllib.request.urlopen(urllib.request.Request(f"{server.address}/{BUCKET}", method="PUT")).close()
        return server.address

    def upload(self, folder: Path, prefix: str) -> str:
        """Put a folder into the bucket; return its address there."""
        import obstore
        from obstore.store import from_url

        assert self.s3
        store: Any = from_url(f"s3://{BUCKET}/{prefix}", client_options={"allow_http": True})
        files = sorted(folder.rglob("*.jpg"))
        with ThreadPoolExecutor(8) as threads:
            list(
                threads.map(
                    lambda path: obstore.put(
                        store, path.relative_to(folder).as_posix(), path.read_bytes(), mode="overwrite"
                    ),
                    files,
                )
            )
        return f"s3://{BUCKET}/{prefix}"

    def run(self, side: str, source: str, out: Path | str, *, recipe: str = "recipe") -> dict[str, Any]:
        """Run a side in a process of its own, with an empty cache; return what it told."""
        self._n += 1
        home = self.work / f"home-{self._n}"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.batch_sides", side),
                *(str(self.work / f"{recipe}.yaml"), source, str(out)),
            ],
            env={**os.environ, "MANYEYES_HOME": str(home)},
            stdout=subprocess.PIPE,
            check=True,
        )
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if said["failed"]:
            raise RuntimeError(f"{side}: {said['failed']} of {said['rows']} rows failed")
        return said


def _pictures(data: Path, n_files: int) -> Iterator[tuple[str, bytes]]:
    """Yield photographs of CIFAR-10, the test part first, then those to train on."""
    left = n_files
    for part in ("test", "train"):
        with ZipFile(data / f"cifar10_{part}.zip") as archive:
            for name in sorted(archive.namelist(), key=lambda name: name.rpartition("/")[2])[:left]:
                yield f"{part}-{name.replace('/', '-')}", archive.read(name)
                left -= 1


def overhead(world: World) -> list[Bar]:
    """How much longer a job takes than reading, labeling and writing in one process, from disk and from a bucket."""
    n_files = 300 if world.quick else 6000
    rounds = 1 if world.quick else world.rounds
    folder = world.photos(n_files)
    bars = []
    for kind in world.kinds:
        source = world.upload(folder, "overhead") if kind == "S3" else str(folder)
        ratios, seconds, cpu = [], [], []
        for n in range(rounds):
            plain = world.run("labeler", source, world.work / f"labeler-{kind}-{n}")
            job = world.run("job", source, world.work / f"job-{kind}-{n}")
            ratios.append(job["seconds"] / plain["seconds"] - 1)
            seconds.append((job["seconds"], plain["seconds"]))
            cpu.append((job["cpu_s"], plain["cpu_s"]))
            peak = (job["peak_mb"], plain["peak_mb"])
        peer = "; ".join(f"{mine:.1f} and {theirs:.1f} s" for mine, theirs in seconds)
        bars.append(
            at_most(
                f"{n_files} files, {kind}: longer than a Labeler",
                100 * statistics.median(ratios),
                10,
                unit="%",
                peer=peer,
            )
        )
        peer = "; ".join(f"{mine:.1f} and {theirs:.1f} s" for mine, theirs in cpu)
        bars.append(told(f"{n_files} files, {kind}: CPU", cpu[-1][0] / cpu[-1][1], unit="×", peer=peer))
        bars.append(
            told(f"{n_files} files, {kind}: peak memory", peak[0], unit="MB", peer=f"{peak[1]:.0f} MB")
        )
    return bars


def again(world: World) -> list[Bar]:
    """What a job costs once 1 % of the objects are new, and once a labeling function was added."""
    n_files = 300 if world.quick else world.files
    more = world.photos(n_files + n_files // 100)
    # All but a hundredth of them, in a folder of their own, to which the others are added later.
    folder = world.work / "growing"
    late = [path for n, path in enumerate(sorted(more.rglob("*.jpg"))) if n % 101 == 100]
    _link(set(more.rglob("*.jpg")) - set(late), more, folder)
    places: dict[str, tuple[str, str]] = {"disk": (str(folder), str(world.work / "again"))}
    if "S3" in world.kinds:
        places["S3"] = (world.upload(folder, "again"), f"s3://{BUCKET}/out")
    first = {kind: world.run("job", *places[kind]) for kind in world.kinds}
    _link(late, more, folder)
    _link(late, more, world.work / "late")
    bars = []
    for kind in world.kinds:
        if kind == "S3":
            world.upload(world.work / "late", "again")
        bars += _again_on(world, kind, *places[kind], first[kind], len(late))
    return bars


def _again_on(world: World, kind: str, source: str, out: str, whole: dict[str, Any], n_new: int) -> list[Bar]:
    # Other machines have no cache of this one: what is not stored beside the labels would have to be computed.
    part = world.run("job", source, out)
    edited = world.run("job", source, out, recipe="edited")
    same = world.run("relabel", source, out, recipe="twice_edited")
    n_rows = whole["rows"] + n_new
    given = [sum(run["computed"].values()) for run in (part, edited, same)]
    listed = statistics.median(world.run("list", source, out)["seconds"] for _ in range(3))
    title = f"{whole['rows']:,} files, {kind}"
    rate, n_seen = whole["rows"] / whole["seconds"], f"{part['seconds']:.1f} s, {given[0]} inputs computed"
    return [
        told(f"{title}: the first run", rate, unit="rows/s", peer=f"{whole['seconds']:.0f} s"),
        at_most(
            f"{title}: 1 % new, of a full run",
            100 * part["seconds"] / whole["seconds"],
            3,
            unit="%",
            peer=n_seen,
        ),
        at_most(f"{title}: an LF added, relabeled in", edited["seconds"], 10, unit="s"),
        at_most(f"{title}: the same without listing (same_rows)", same["seconds"], 10, unit="s"),
        told(f"{title}: listing alone, by a few lines", listed, unit="s"),
        at_most(f"{title}: inputs that a model was given then", given[1] + given[2], 0),
        at_least(f"{title}: rows labeled then", min(edited["rows"], same["rows"]), n_rows),
        told(f"{title}: peak memory", whole["peak_mb"], unit="MB", peer=f"{edited['peak_mb']:.0f} MB after the edit"),
    ]  # fmt: skip


def _link(files: Iterable[Path], above: Path, folder: Path) -> None:
    for path in files:
        target = folder / path.relative_to(above)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.hardlink_to(path)


PARTS: Final[dict[str, Callable[[World], list[Bar]]]] = {"overhead": overhead, "again": again}


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="one part, or several; all by default")
    parser.add_argument(
        "--files",
        type=int,
        default=60_000,
        help="objects of the second part; at most 59,400, as there are 60,000 and a hundredth of them comes later",
    )
    parser.add_argument("--on", choices=KINDS, action="append", help="where the files lie; both by default")
    parser.add_argument("--rounds", type=int, default=3, help="of the first part")
    options = parser.parse_args()
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as name:
        files = min(options.files, 59_400)
        world = World(
            options.data,
            Path(name),
            files=files,
            rounds=options.rounds,
            quick=options.quick,
            kinds=options.on or KINDS,
        )
        with world.stack:
            for part in options.only or PARTS:
                bars += PARTS[part](world)
    return show("Batch jobs", bars, as_json=bool(options.json))


if __name__ == "__main__":
    sys.exit(main())
