"""Small jobs over plain colours, for tests of whoever runs them."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from manyeyes.service.jobs.shapes import EngineSpec, JobRequest, Source

COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
RECIPE: Mapping[str, Any] = {
    "name": "paint",
    "classes": list(COLORS),
    "primitives": {"toy": {}},
    "lfs": [
        {"name": "looks", "kind": "prompt", "using": "toy", "prompts": {name: name for name in COLORS}},
        {
            "name": "clearly",
            "kind": "prompt",
            "using": "toy",
            "prompts": {name: name for name in COLORS},
            "threshold": 0.9,
        },
    ],
}


def with_function(function: str) -> Mapping[str, Any]:
    """Return the recipe with an LF that calls a Python function, too."""
    lfs = [*RECIPE["lfs"], {"name": "own", "kind": "python", "function": function}]
    return {**RECIPE, "lfs": lfs}


def paint(folder: Path, n: int, *, broken: Collection[int] = (), seed: int = 0) -> Path:
    """Write n images of about one colour each; those of some places are damaged."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for i in range(n):
        path = folder / f"{i:05d}.png"
        color = list(COLORS.values())[i % 3]
        noisy = tuple(min(255, max(0, value + rng.randint(-90, 90))) for value in color)
        if i in broken:
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + i.to_bytes(4, "big"))
        else:
            Image.new("RGB", (8, 8), noisy).save(path)  # type: ignore[arg-type]
    return folder


def request(
    source: Path | str,
    out: Path | str,
    *,
    shard_rows: int = 10,
    recipe: Mapping[str, Any] = RECIPE,
    engine: EngineSpec | None = None,
    **more: Any,
) -> JobRequest:
    """Return a job over a folder."""
    return JobRequest(
        source=Source(uri=str(source)),
        recipe=recipe,
        out=str(out),
        shard_rows=shard_rows,
        engine=engine or EngineSpec(),
        **more,
    )


def published(out: Path) -> dict[str, str]:
    """Return what readers see of a finished job: file → sha256."""
    paths = [*sorted((out / "labels").glob("*")), out / "manyeyes.json"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def labels(out: Path) -> list[dict[str, Any]]:
    """Return the rows that were published."""
    import pyarrow.parquet as pq

    return [row for path in sorted((out / "labels").glob("*")) for row in pq.read_table(path).to_pylist()]


PROGRAM = """
import sys, threading
from pathlib import Path
from manyeyes.service.jobs.run import run_job, stopped_by_signals
from manyeyes.service.jobs.shapes import JobRequest

stop = threading.Event()
with stopped_by_signals(stop):
    done = run_job(JobRequest.model_validate_json(Path(sys.argv[1]).read_text()), stop=stop)
print(done.status, done.job, flush=True)
"""


def start(asked: JobRequest, where: Path, *, path: Path | None = None) -> subprocess.Popen[str]:
    """Run a job in a process of its own. where: a folder for its request. path: where its functions are."""
    where.mkdir(parents=True, exist_ok=True)
    file = where / "request.json"
    file.write_text(asked.model_dump_json())
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join([str(path), env.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(file)], env=env, stdout=subprocess.PIPE, text=True, cwd=where
    )


def wait_for(condition: Callable[[], object], *, seconds: float = 30.0) -> None:
    """Wait until something is so. Raises AssertionError if it does not become so."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def n_commits(out: Path, pass_: str = "votes") -> int:
    """Return how many shards of the jobs of a place are committed."""
    return len(list(out.glob(f"_manyeyes/jobs/*/commits/{pass_}-*/*.json")))
