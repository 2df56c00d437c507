"""Jobs in processes that die when they are told to: forked from one that has loaded everything, so that many may.

``python nursery.py`` reads orders from its input, one JSON object a line, and answers each with one line.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from manyeyes.service.jobs.places.bucket import BucketPlace
from manyeyes.service.jobs.places.folder import Folder
from manyeyes.service.jobs.run import run_job
from manyeyes.service.jobs.shapes import JobRequest

When = Literal["before", "within", "after"]


class End(NamedTuple):
    """How a process ended. killed: by SIGKILL. told: the job's status and message, an error's code, its writes."""

    killed: bool
    told: Mapping[str, Any]

    @property
    def status(self) -> str | None:
        """The job's, unless an error was raised."""
        return self.told.get("status")


def check_completed(end: End) -> None:
    """The job is done."""
    assert end.status == "completed", end


class Nursery:
    """Starts jobs, each in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._started = 0

    def start(
        self,
        request: JobRequest,
        *,
        die_at: int | None = None,
        when: When = "before",
        wall_jumps: bool = False,
        max_file_bytes: int | None = None,
        lease_s: float = 60.0,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Return the number of a process that runs a job.

        die_at: of its writes, all threads together, the one at which it kills itself; ``within`` writes half of it.
        wall_jumps: its wall clock goes to and fro by years. max_file_bytes: of a file, then there is no more room.
        """
        self._started += 1
        told = self._folder / f"{self._started}.json"
        order = {
            "request": request.model_dump_json(),
            "die_at": die_at,
            "when": when,
            "wall_jumps": wall_jumps,
            "max_file_bytes": max_file_bytes,
            "lease_s": lease_s,
            "env": dict(env or {}),
            "told": str(told),
        }
        return int(self._ask(order)["pid"])

    def wait(self, pid: int) -> End:
        """Wait for its end."""
        answer = self._ask({"wait": pid})
        return End(answer["status"] == signal.SIGKILL, answer["told"])

    def run(self, request: JobRequest, **how: Any) -> End:
        """Start a process and wait for its end."""
        return self.wait(self.start(request, **how))

    def _ask(self, order: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def nursery(folder: Path, path: Path | None = None) -> Iterator[Nursery]:
    """Open one. folder: its own, for files. path: where functions of recipes are."""
    folder.mkdir(parents=True, exist_ok=True)
    ways = [str(Path(__file__).parents[4]), *([] if path is None else [str(path)])]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(ways)}
    env["MANYEYES_HOME"] = str(folder / "home")
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    try:
        yield Nursery(process, folder)
    finally:
        process.kill()
        process.communicate()


def main() -> None:
    """Do what is ordered."""
    told: dict[int, Path] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            pid = order["wait"]
            _, status = os.waitpid(pid, 0)
            file = told.pop(pid)
            said = json.loads(file.read_text()) if file.exists() else {}
            print(json.dumps({"status": os.WTERMSIG(status), "told": said}), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            try:
                _live(order)
            finally:
                os._exit(0)
        told[pid] = Path(order["told"])
        print(json.dumps({"pid": pid}), flush=True)


def _live(order: Mapping[str, Any]) -> None:
    os.close(0)
    os.dup2(2, 1)
    os.environ.update(order["env"])
    writes = Writes(order["die_at"], order["when"])
    writes.watch()
    if order["wall_jumps"]:
        _let_the_wall_jump()
    if order["max_file_bytes"] is not None:
        _fill_the_disk(order["max_file_bytes"])
    told: dict[str, Any] = {}
    try:
        done = run_job(JobRequest.model_validate_json(order["request"]), lease_s=order["lease_s"])
        told.update(status=done.status, message=done.message, rows=done.counts.rows, job=done.job)
    except Exception as error:
        told.update(error=getattr(error, "code", type(error).__name__), message=str(error))
    told["writes"] = writes.n
    Path(order["told"]).write_text(json.dumps(told))


class Writes:
    """Counts what a process writes below the places of its job, and ends it at one of them."""

    def __init__(self, die_at: int | None, when: When) -> None:
        self.n = 0
        self._die_at = die_at
        self._when = when
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Stand between every job of this process and its places."""
        for name in ("put", "create", "copy", "delete"):
            setattr(BucketPlace, name, self._counted(getattr(BucketPlace, name)))
        Folder.delete = self._counted(Folder.delete)  # type: ignore[method-assign]
        write = Folder._write

        def halved(folder: Folder, path: str, data: Any, *, new: bool, durable: bool) -> None:
            if self._is_now("within"):
                data = _Half(data if isinstance(data, bytes) else data.read())
            write(folder, path, data, new=new, durable=durable)

        Folder._write = self._counted(halved)  # type: ignore[method-assign]

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **more: Any) -> Any:
            with self._lock:
                self.n += 1
                mine = self.n == self._die_at
            self._mine.on = mine
            if self._is_now("before"):
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args, **more)
            if self._is_now("after"):
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted

    _mine = threading.local()

    def _is_now(self, when: When) -> bool:
        return self._when == when and getattr(self._mine, "on", False)


class _Half:
    """A body, in the middle of which its writer dies."""

    def __init__(self, data: bytes) -> None:
        self._half: bytes | None = data[: len(data) // 2] or b"?"

    def read(self, size: int) -> bytes:
        if self._half is None:
            os.kill(os.getpid(), signal.SIGKILL)
        half, self._half = self._half, None
        return half or b""


def _fill_the_disk(max_file_bytes: int) -> None:
    """Have every file of a place end there; not at once, for the feature cache is of another disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    write, lock = Folder._write, threading.Lock()

    def limited(*args: Any, **more: Any) -> None:
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        with lock:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, most))
            try:
                write(*args, **more)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    Folder._write = limited  # type: ignore[method-assign]


def _let_the_wall_jump() -> None:
    real, real_ns = time.time, time.time_ns
    jumps = [0]

    def jump() -> float:
        jumps[0] += 1
        return (jumps[0] * 7919 % 2001 - 1000) * 86400.0

    time.time = lambda: real() + jump()
    time.time_ns = lambda: real_ns() + int(jump() * 1e9)


if __name__ == "__main__":
    main()
