"""What benchmarks/batch.py compares, each in a process of its own: a job, and the same work in a few lines of Python.

python -m benchmarks.batch_sides job|relabel|labeler|list RECIPE SOURCE OUT
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyeyes import Item

_AHEAD = 64


def labeler(recipe: str, source: str, out: str) -> dict[str, Any]:
    """Label a folder or a bucket as a careful user would without jobs: read ahead on threads, label, write a table."""
    from manyeyes import Labeler, Recipe
    from manyeyes.sinks import write_labels

    loaded = Recipe.load(recipe)
    made = Labeler(loaded)
    items = _from_bucket(source) if "://" in source else _from_folder(Path(source))
    labels = made.label(items)
    write_labels(Path(out) / "labels.parquet", labels, classes=loaded.classes, versions=labels.versions)
    return {
        "rows": len(labels),
        "failed": len(labels.errors),
        "computed": dict(made.counter.items),
    }


def _from_folder(folder: Path) -> Iterator[Item]:
    from manyeyes import Item

    for path in sorted(folder.rglob("*.jpg")):
        yield Item(path.relative_to(folder).as_posix(), image=path)


def _from_bucket(uri: str) -> Iterator[Item]:
    import obstore
    from obstore.store import from_url

    from manyeyes import Item

    # The bucket's own server comes from AWS_ENDPOINT_URL, as for every client.
    store: Any = from_url(uri, client_options={"allow_http": True})

    def read(name: str) -> bytes:
        return bytes(obstore.get(store, name).bytes())

    with ThreadPoolExecutor(16) as threads:
        waiting: deque[tuple[str, Future[bytes]]] = deque()
        for chunk in obstore.list(store):
            for meta in chunk:
                waiting.append((meta["path"], threads.submit(read, meta["path"])))
                if len(waiting) > _AHEAD:
                    name, found = waiting.popleft()
                    yield Item(name, image=found.result())
        for name, found in waiting:
            yield Item(name, image=found.result())


def job(recipe: str, source: str, out: str, *, same_rows: bool = False) -> dict[str, Any]:
    """Run a job."""
    from manyeyes import Recipe
    from manyeyes.service.jobs.run import run_job
    from manyeyes.service.jobs.shapes import JobRequest, Source
    from manyeyes.service.operations.allocator import keep_freed_memory

    keep_freed_memory()  # as manyeyes job run does
    document = Recipe.load(recipe).model_dump(mode="json")
    done = run_job(JobRequest(source=Source(uri=source), recipe=document, out=out, same_rows=same_rows))
    return {
        "rows": done.counts.rows,
        "failed": done.counts.failed,
        "status": done.status,
        "computed": dict(done.computed),
    }


def relabel(recipe: str, source: str, out: str) -> dict[str, Any]:
    """Run a job over the rows of the one before."""
    return job(recipe, source, out, same_rows=True)


def list_(recipe: str, source: str, out: str) -> dict[str, Any]:
    """List a folder or a bucket, and nothing else: what the place itself takes for it."""
    del recipe, out
    if "://" not in source:
        return {"rows": sum(len(files) for _, _, files in os.walk(source)), "failed": 0}
    import obstore
    from obstore.store import from_url

    store: Any = from_url(source, client_options={"allow_http": True})
    return {"rows": sum(len(chunk) for chunk in obstore.list(store)), "failed": 0}


SIDES = {"labeler": labeler, "job": job, "relabel": relabel, "list": list_}


def main() -> None:
    """Do it once, and print what it took as one line of JSON."""
    side, recipe, source, out = sys.argv[1:]
    import manyeyes.labeler  # what both need is loaded before the clock starts  # noqa: F401

    os.makedirs(out, exist_ok=True) if "://" not in out else None
    started, cpu = time.perf_counter(), time.process_time()
    told = SIDES[side](recipe, source, out)
    told |= {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
    told["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(told))


if __name__ == "__main__":
    main()
