"""The process that runs one job for the service: ``python -m manyeyes.service.jobs.serving.child``.

The first line of its input is what to do, as JSON; after that ``cancel`` and ``stop`` may follow, and the end of the
input means that the service is gone, which is a ``stop``, too. It says on its output, one JSON object a line:

::

    {"kind": "progress", "progress": {…}}                   how far the job is, as its commits say
    {"kind": "status", "status": "finalizing"}
    {"kind": "log", "level": "warning", "message": "…"}
    {"kind": "retried"}                                     the failed rows are a generation of their own now
    {"kind": "ended", "status": "completed", "errors": []}
    {"kind": "stopped"}                                     the job is not over, and somebody else may go on with it

It holds nothing that is not below the job's ``out``: whoever kills it loses no more than shards that were under way.
"""

from __future__ import annotations

import json
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

from manyeyes.errors import InvalidRequest, ManyeyesError, ServiceFailed
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.jobs.coordination.control import cancel, retry_failed
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.progress.events import events_of
from manyeyes.service.jobs.run import resume_job, run_job
from manyeyes.service.jobs.shapes import JobRequest, Progress
from manyeyes.service.operations import logs
from manyeyes.service.operations.allocator import keep_freed_memory
from manyeyes.service.operations.secrets import Redactor
from manyeyes.service.operations.settings import OperationsSettings

log: Final = logging.getLogger("manyeyes.service.jobs")

GRACE_S: Final = 20.0
"""How long a job that was told to stop may take; its leases say the rest."""
_LEAST_S: Final = 0.5
_LOOK_S: Final = 2.0
FINAL: Final = ("completed", "failed", "cancelled")


class Teller:
    """Writes messages to the service, whichever thread they come from."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._redactor = Redactor.from_env()

    def __call__(self, kind: str, **told: Any) -> None:
        """Say something; nobody may be listening any more."""
        line = json.dumps(self._redactor.clean({"kind": kind, **told}), default=str)
        try:
            with self._lock:
                self._stream.write(line + "\n")
                self._stream.flush()
        except (OSError, ValueError):
            pass


class _Lines(logging.Handler):
    def __init__(self, tell: Teller) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell("log", level=record.levelname.lower(), message=record.getMessage()[:2000])


class Child:
    """Runs the job of a task. stop: what ends it early."""

    def __init__(self, task: Mapping[str, Any], tell: Teller) -> None:
        file = task.get("buckets_file")
        web = FetchSettings.model_validate(task.get("web", {}))
        self.buckets = Buckets.load(Path(file) if file else None, web=web)
        self.request = JobRequest.model_validate(task["request"])
        self.trusted = task.get("trusted") is True
        self.allowed_models = tuple(task.get("allowed_models", ()))
        self.wish = task.get("wish", "run")
        self.tell = tell
        self.stop = threading.Event()
        self.cancelled = False
        self.job: str | None = task.get("job")
        self._told = (0.0, "")
        self._happened = Happened(tell, self._storage)

    def run(self) -> None:
        """Run it, and say how it ended."""
        try:
            if self.job is not None:
                self._happened.skip(self.job)
            done = self._run()
        except ManyeyesError as error:
            log.warning("the job failed: %s", error)
            if not self._gave_up():
                self.tell("ended", status="failed", errors=[{"code": error.code, "message": str(error)}])
            return
        except Exception:
            log.exception("the job failed")
            if not self._gave_up():
                told = "something went wrong inside the job; the service's log says more"
                self.tell("ended", status="failed", errors=[{"code": ServiceFailed.code, "message": told}])
            return
        self._progress(done, last=True)
        if done.status in FINAL:
            errors = [{"code": ServiceFailed.code, "message": done.message or "the job failed"}]
            self.tell("ended", status=done.status, errors=errors if done.status == "failed" else [])
        elif not self._gave_up():
            told = f"the job ended as {done.status}, which is no end"
            self.tell("ended", status="failed", errors=[{"code": ServiceFailed.code, "message": told}])

    def cancel(self) -> None:
        """End the job early, for all who work on it."""
        self.cancelled = True
        if self.job is None:  # it has not begun, so that there is nobody to be told
            self.stop.set()
            return
        try:
            cancel(self._storage(), self.job)
        except ManyeyesError:
            log.warning("the job could not be cancelled where it lies; it stops here", exc_info=True)
            self.stop.set()

    def _run(self) -> Progress:
        keep_freed_memory()  # this process does nothing but the job
        if self.wish == "retry" and self.job is not None:
            try:
                if retry_failed(self._storage(), self.job) is None:
                    self.tell(
                        "log",
                        level="info",
                        message="no row failed in a way that may pass; nothing is tried again",
                    )
            except InvalidRequest as error:  # an earlier process got as far, and died before it could say so
                log.info("the failed rows are being retried already: %s", error)
            self.tell("retried")
            return resume_job(
                self.request.out, self.job, on_progress=self._progress, stop=self.stop, buckets=self.buckets
            )
        self.tell("retried")
        return run_job(
            self.request,
            on_progress=self._progress,
            stop=self.stop,
            buckets=self.buckets,
            trusted=self.trusted,
            allowed_models=self.allowed_models,
        )

    def _storage(self) -> Storage:
        return Storage.open(self.request.out, buckets=self.buckets)

    def _gave_up(self) -> bool:
        """Say that the job was left as it is, if it was told to stop."""
        if self.cancelled:
            self.tell("ended", status="cancelled", errors=[])
        elif self.stop.is_set():
            self.tell("stopped")
        else:
            return False
        return True

    def _progress(self, progress: Progress, *, last: bool = False) -> None:
        self.job = progress.job or self.job
        at, status = self._told
        now = time.monotonic()
        if not last and status == progress.status and now - at < _LEAST_S:
            return
        self._told = (now, progress.status)
        if progress.job:
            self._happened.look(progress.job, now, last=last)
        self.tell("progress", progress=asdict(progress))


class Happened:
    """Passes on what the job's own events say, whoever worked on it: changes of status, and what went wrong."""

    def __init__(self, tell: Teller, storage: Callable[[], Storage]) -> None:
        self._tell = tell
        self._storage = storage
        self._after = 0
        self._looked = 0.0

    def skip(self, job: str) -> None:
        """Pass over what an earlier process has told already."""
        with suppress(ManyeyesError):
            self._after = max((event.id for event in events_of(self._storage(), job)), default=0)

    def look(self, job: str, now: float, *, last: bool) -> None:
        """Tell what is new, now and then; what cannot be read now is told later."""
        if not last and now - self._looked < _LOOK_S:
            return
        self._looked = now
        with suppress(ManyeyesError):
            for event in events_of(self._storage(), job, self._after):
                self._after = event.id
                if event.status is not None and event.status not in FINAL:
                    self._tell("status", status=event.status)
                elif event.kind == "problem":
                    self._tell("log", level="warning", message=event.message[:2000])


def watch(child: Child, stream: IO[bytes], parent: int) -> None:
    """Do what the service says, until it is gone."""
    while os.getppid() == parent:
        ready, _, _ = select.select([stream], [], [], 1.0)
        if not ready:
            continue
        told = os.read(stream.fileno(), 4096)
        if not told or b"stop" in told:
            break
        if b"cancel" in told:
            child.cancel()
    child.stop.set()
    time.sleep(GRACE_S)
    os._exit(3)  # a call that hangs is left to the operating system; what it had in hand is done again


def main() -> None:
    """Run the job that the input tells of."""
    told = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no message
    tell = Teller(told)
    parent = os.getppid()
    task = json.loads(_first_line())
    os.nice(int(task.get("niceness", 0)))
    logs.configure(OperationsSettings.model_validate(task.get("logs", {})))
    logging.getLogger("manyeyes").addHandler(_Lines(tell))
    child = Child(task, tell)
    threading.Thread(
        target=watch, args=(child, sys.stdin.buffer, parent), name="manyeyes-job-watch", daemon=True
    ).start()
    child.run()
    logging.shutdown()
    # All is said: no thread of a library is waited for, and what was started goes with the group of this process.
    os._exit(0)


def _first_line() -> bytes:
    # Byte by byte: what a buffer reads ahead would be hidden from ``select``.
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            raise SystemExit("this process is started by the service, which tells it what to do")
        line += byte
    return bytes(line)


if __name__ == "__main__":
    main()
