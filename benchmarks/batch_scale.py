"""Batch jobs over several actors. With a primitive that only sleeps, how much does each further actor bring?

What sleeps needs no core, so that what is missing to the ideal is what jobs cost: leases, parts, commits, and Ray. Then
the same without any work: what listing, leasing and committing ten thousand shards costs.

python -m benchmarks.batch_scale [--json] [--quick] [--only scale|shards]
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks.bars import Bar, arguments, at_least, at_most, show, told

SLEEPER: Final = '''
"""A primitive that takes its time and needs nothing else for it."""

import time

import numpy as np

from manyeyes.primitives.base import PrimitiveKind, PrimitiveSpec

DTYPE = np.dtype([("embedding", "<f4", (3,))])


class Spec(PrimitiveSpec):
    model: str = "sleeper"
    seconds: float = 0.0


class Sleeper:
    modality = "text"
    dtype = DTYPE
    ragged = False
    info = {"dim": 3}

    def __init__(self, name, seconds):
        self.name, self.seconds = name, seconds
        self.version = f"sleeper {seconds}"

    def setup(self):
        pass

    def compute(self, batch):
        time.sleep(self.seconds * len(batch))
        rows = np.zeros(1, dtype=DTYPE)
        rows["embedding"] = 3**-0.5
        return [rows] * len(batch)


def vote(item, features):
    return "odd" if len(features["sleeper"]) and item.text[-1] in "13579" else None


KIND = PrimitiveKind(Spec=Spec, build=lambda name, spec: {name: Sleeper(name, spec.seconds)})
'''
SHARD_ROWS: Final = 64
SHARD_S: Final = 1.0
"""How long a shard sleeps. A shard of a real job has 4,096 rows, and takes longer."""
ACTORS: Final = (1, 2, 4, 8)
N_SHARDS: Final = 10_000


def recipe(seconds: float) -> dict[str, Any]:
    """Return a recipe whose primitive sleeps so long for each row."""
    return {
        "name": "asleep",
        "classes": ["odd", "even"],
        "primitives": {"sleeper": {"kind": "sleeper", "seconds": seconds}},
        "lfs": [
            {"name": "odd", "kind": "regex", "pattern": "[13579]$", "vote": "odd"},
            {"name": "even", "kind": "regex", "pattern": "[02468]$", "vote": "even"},
            {"name": "seen", "kind": "python", "function": "sleeper:vote", "reads": ["sleeper"]},
        ],
    }


def install(folder: Path) -> None:
    """Put the primitive where this process, and those that it starts, find it as they find any other package's."""
    told_of = folder / "sleeper-1.dist-info"
    told_of.mkdir(parents=True)
    (folder / "sleeper.py").write_text(SLEEPER)
    (told_of / "METADATA").write_text("Metadata-Version: 2.1\nName: sleeper\nVersion: 1\n")
    (told_of / "entry_points.txt").write_text("[manyeyes.primitives]\nsleeper = sleeper:KIND\n")
    sys.path.insert(0, str(folder))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def begin(folder: Path, name: str, *, shards: int, shard_rows: int, seconds: float) -> tuple[Any, Any, Any]:
    """Return the place, the manifest and the job of so many shards."""
    from manyeyes.service.jobs.manifests.manifest import write_manifest
    from manyeyes.service.jobs.places.storage import Storage
    from manyeyes.service.jobs.shapes import JobRequest, Row, Source
    from manyeyes.service.jobs.work.job import write_job

    storage = Storage.open(str(folder / name))
    rows: Iterable[Row] = (Row(id=f"{name}-{i}", text=f"{name} {i}") for i in range(shards * shard_rows))
    manifest = write_manifest(rows, storage, uri="memory", shard_rows=shard_rows)
    request = JobRequest(
        source=Source(uri="none"), recipe=recipe(seconds), out=str(folder / name), shard_rows=shard_rows
    )
    return storage, manifest, write_job(storage, request, manifest)


def measure_scale(folder: Path, *, per_actor: int) -> list[Bar]:
    """Let 1, 2, 4 and 8 actors do as many shards each; what the first one does is what each should do."""
    from manyeyes.service.jobs.engines.base import open_engine
    from manyeyes.service.jobs.shapes import EngineSpec, Shard
    from manyeyes.service.jobs.work.worker import Outcome, WorkSpec

    bars: list[Bar] = []
    alone = 0.0
    for n in ACTORS:
        storage, manifest, job = begin(
            folder,
            f"scale-{n}",
            shards=(per_actor + 1) * n,
            shard_rows=SHARD_ROWS,
            seconds=SHARD_S / SHARD_ROWS,
        )
        spec = WorkSpec(out=storage.uri, job=job.id, pass_="votes")
        states: list[str] = []

        def note(_shard: Shard, outcome: Outcome, states: list[str] = states) -> None:
            states.append(outcome.state)

        with open_engine(EngineSpec(name="ray", workers=n), storage) as engine:
            # The first shard of each actor begins it and loads what it needs.
            engine.run(manifest.shards[:n], spec, note, threading.Event())
            began = time.perf_counter()
            engine.run(manifest.shards[n:], spec, note, threading.Event())
            seconds = time.perf_counter() - began
        if states != ["committed"] * len(manifest.shards):
            raise RuntimeError(f"{len(manifest.shards)} shards were to be committed: {states}")
        speed = (len(manifest.shards) - n) / seconds
        if n == 1:
            alone = speed
            bars.append(told("1 Ray actor, of the speed of sleeping alone", speed * SHARD_S))
        else:
            bars.append(
                at_least(f"{n} Ray actors: speed per actor, of one's", speed / n / alone, 0.9, peer="1 actor")
            )
    return bars


def measure_shards(folder: Path, *, n_shards: int) -> list[Bar]:
    """Lease and commit many shards, list them, and read what they come to, as workers and coordinators do."""
    from manyeyes.service.jobs.places.commits import Commits
    from manyeyes.service.jobs.places.leases import Leases
    from manyeyes.service.jobs.progress.progress import progress_of
    from manyeyes.service.jobs.shapes import Commit, Counts
    from manyeyes.service.jobs.work.worker import ShardWorker, WorkSpec

    storage, manifest, job = begin(folder, "many", shards=n_shards, shard_rows=1, seconds=0)
    leases = Leases(storage, job.id, "votes", 0)
    commits = Commits(storage, job.id, "votes", 0)
    counts = Counts(rows=SHARD_ROWS)
    began = time.perf_counter()
    done = commits.done()
    for shard in manifest.shards:
        assert shard.index not in done
        lease = leases.acquire(shard.index)
        assert lease is not None
        with lease:
            commits.create(Commit(shard.index, lease.attempt, {"votes": ("x", "0" * 64)}, counts))
            lease.done()
    leased = time.perf_counter() - began
    began = time.perf_counter()
    assert progress_of(storage, job.id).counts.rows == n_shards * SHARD_ROWS
    listed = time.perf_counter() - began

    few = min(n_shards, 1000)
    storage, manifest, job = begin(folder, "whole", shards=few, shard_rows=1, seconds=0)
    worker = ShardWorker(WorkSpec(out=storage.uri, job=job.id, pass_="votes"), storage=storage)
    began = time.perf_counter()
    for shard in manifest.shards:
        assert worker.do(shard).state == "committed"
    whole = time.perf_counter() - began
    return [
        at_most(
            f"listing, leasing and committing {n_shards:,} shards, of their {SHARD_S:g} s of sleep each",
            (leased + listed) / (n_shards * SHARD_S),
            0.01,
        ),
        told("lease and commit of a shard", 1000 * leased / n_shards, unit="ms"),
        told(f"progress of a job of {n_shards:,} shards, from its commits alone", listed, unit="s"),
        told("all of a shard of one row that needs no work", 1000 * whole / few, unit="ms"),
    ]


def main() -> int:
    """Measure, and say what came out."""
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=("scale", "shards"), help="one of the parts")
    asked = parser.parse_args()
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory(prefix="manyeyes-scale-") as name:
        folder = Path(name)
        install(folder / "packages")
        os.environ["MANYEYES_HOME"] = str(folder / "home")
        if asked.only in (None, "shards"):
            bars += measure_shards(folder, n_shards=1000 if asked.quick else N_SHARDS)
        if asked.only in (None, "scale"):
            bars += measure_scale(folder, per_actor=3 if asked.quick else 10)
    return show("Batch jobs, scaled", bars, as_json=asked.json)


if __name__ == "__main__":
    raise SystemExit(main())
