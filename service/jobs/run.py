"""The one entrance to batch jobs, for the command line, the service's processes and Python."""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from manyeyes.errors import InvalidRequest, NotFound
from manyeyes.labeler import Labeler
from manyeyes.recipe import Recipe
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.coordination.control import cancel, is_published, retry_failed, take_up
from manyeyes.service.jobs.coordination.coordinator import LEASE_S, Coordinator
from manyeyes.service.jobs.engines.base import Engine, open_engine
from manyeyes.service.jobs.manifests.manifest import read_manifest, update_manifest, write_manifest
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.progress.events import events_of, last_status, tell_status
from manyeyes.service.jobs.progress.latest import find_job, write_latest
from manyeyes.service.jobs.progress.progress import OnProgress, Watch, progress_of
from manyeyes.service.jobs.shapes import Counts, JobRequest, Manifest, Progress, Row
from manyeyes.service.jobs.sources import open_source
from manyeyes.service.jobs.work.gold import read_gold
from manyeyes.service.jobs.work.job import Job, read_label_model_files, write_job

__all__ = [
    "Watch",
    "cancel",
    "events_of",
    "find_job",
    "progress_of",
    "resume_job",
    "retry_failed",
    "run_job",
    "stopped_by_signals",
]

_TELL_S: Final = 0.5


class _Interrupted(Exception):
    """The job was told to stop before it began."""


def run_job(
    request: JobRequest,
    *,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
    buckets: Buckets | None = None,
    trusted: bool = True,
    allowed_models: Collection[str] = (),
    lease_s: float = LEASE_S,
) -> Progress:
    """Run a batch job to its end and return how it ended; go on where the same job was left, by whomever.

    on_progress: called about twice a second, by threads of its own. stop: ends it within seconds; what was done stays,
    and the same call goes on with it. buckets: of an operator: then it reads and writes there alone. trusted: whether
    the recipe may run code; else it may name ``allowed_models`` only. lease_s: how long whoever works on a shard may
    give no sign of life.

    Before anything is labeled, and within seconds, raises InvalidRecipe, InvalidRequest, ModelNotFound,
    MissingDependency, UntrustedRecipe or NotPermitted if the job cannot be done as asked, and StorageFailed if its
    source cannot be listed or its place not be written. A job that began and cannot be finished ends as ``failed``, and
    says why in its ``message``; one that was told to stop has a status that is none of the last ones.
    """
    how = _How(on_progress, stop or threading.Event(), buckets, lease_s)
    how.tell("the recipe, the models and the place are checked")
    storage = Storage.open(request.out, buckets=buckets)
    storage.hurry(how.stop)
    with open_engine(request.engine, storage) as engine:
        recipe = _check(request, trusted=trusted, allowed_models=allowed_models, buckets=buckets)
        storage.check(write=True)
        try:
            if request.same_rows:
                manifest = _same(storage, request)
            else:
                manifest = _left(storage, request, recipe) or _listed(storage, request, how)
        except _Interrupted:
            return how.tell("stopped before all rows were listed; running it again begins anew")
        job = write_job(
            storage, request, manifest, trusted=trusted, allowed_models=allowed_models, buckets=buckets
        )
        return _coordinate(job, request, manifest, storage, engine, how)


def resume_job(
    out: str,
    job_id: str | None = None,
    *,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
    buckets: Buckets | None = None,
    lease_s: float = LEASE_S,
) -> Progress:
    """Go on with a job that was begun in a place, without listing its source again; by default with the latest.

    For failed rows that are to be tried again, and for machines that help: all it needs lies in the job's folder.
    Raises NotFound if there is no such job, and what ``run_job`` raises.
    """
    storage = Storage.open(out, buckets=buckets)
    job = find_job(storage, job_id)
    with open_engine(job.request.engine, storage) as engine:
        how = _How(on_progress, stop or threading.Event(), buckets, lease_s)
        storage.hurry(how.stop)
        storage.check(write=True)
        return _coordinate(job, job.request, read_manifest(storage, job.manifest), storage, engine, how)


@contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """Have the first Ctrl-C or SIGTERM set an event; a second one ends the process as ever. For the main thread."""
    before: dict[int, Any] = {}

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()
        for one, handler in before.items():
            signal.signal(one, handler)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@dataclass(frozen=True)
class _How:
    """How a job is run, beside what it is."""

    on_progress: OnProgress | None
    stop: threading.Event
    buckets: Buckets | None
    lease_s: float

    def tell(self, message: str, n_rows: int = 0) -> Progress:
        """Say how far a job is that has not begun."""
        progress = Progress("", "validating", "votes", 0, 0, Counts(), message=message, n_rows=n_rows)
        if self.on_progress is not None:
            self.on_progress(progress)
        return progress


def _coordinate(
    job: Job, request: JobRequest, manifest: Manifest, storage: Storage, engine: Engine, how: _How
) -> Progress:
    if last_status(storage, job.id) is None:
        tell_status(
            storage, job.id, "validating", f"{manifest.n_rows:,} rows in {len(manifest.shards):,} shards"
        )
    is_first = write_latest(storage, job)
    progress = progress_of(storage, job.id)
    if progress.status == "completed" and is_published(storage, job.id):
        if how.on_progress is not None:
            how.on_progress(progress)
        return progress
    if not take_up(storage, job.id):
        tell_status(
            storage, job.id, "cancelled", "as was asked for before it began; running it again goes on"
        )
        return progress_of(storage, job.id)
    return Coordinator(
        job,
        request,
        manifest,
        storage,
        engine,
        on_progress=how.on_progress,
        stop=how.stop,
        buckets=how.buckets,
        lease_s=how.lease_s,
        is_first=is_first,
    ).run()


def _check(
    request: JobRequest, *, trusted: bool, allowed_models: Collection[str], buckets: Buckets | None
) -> Recipe:
    """Return the recipe, if it and what it needs is there; for nobody wants to hear of it after an hour of listing."""
    recipe = Recipe.parse(request.recipe, source="recipe")
    if not trusted:
        recipe.check_untrusted(allowed_models)
    labeler = Labeler(recipe)
    labeler.extractor.versions(labeler.needs)
    gold = None if request.gold is None else read_gold(request.gold, buckets=buckets)
    if request.label_model is None:
        labeler.require_gold(gold)
    else:
        read_label_model_files(request.label_model, buckets=buckets)
    return recipe


def _left(storage: Storage, request: JobRequest, recipe: Recipe) -> Manifest | None:
    """Return the rows of the latest job, if it is this one and was interrupted: they are not listed again."""
    job = _latest(storage)
    if job is None or job.recipe.version != recipe.version:
        return None
    how = {"recipe", "out", "engine", "attempts", "breaker", "same_rows"}
    if job.request.model_dump(exclude=how) != request.model_dump(exclude=how):
        return None
    last = last_status(storage, job.id)
    # One that failed is listed anew: what was wrong with it may have been its source.
    if last is not None and last.status in ("completed", "failed"):
        return None
    return read_manifest(storage, job.manifest)


def _same(storage: Storage, request: JobRequest) -> Manifest:
    """Return the rows of the latest job. Raises InvalidRequest if there is none, or it is of another source."""
    job = _latest(storage)
    if job is None:
        raise InvalidRequest(
            f"there is no earlier job in {storage.uri} whose rows could be labeled again: leave out same_rows"
            " (--same-rows), and the source is listed"
        )
    if job.request.source != request.source:
        raise InvalidRequest(
            f"the latest job in {storage.uri} labeled {job.request.source.uri}, or read it with other options: for the"
            " same rows (same_rows, --same-rows), give the same source as then; for others, leave it out"
        )
    return read_manifest(storage, job.manifest)


def _listed(storage: Storage, request: JobRequest, how: _How) -> Manifest:
    listing = open_source(request.source, buckets=how.buckets)
    how.tell(f"{listing.uri} is listed")
    rows = _until(how.stop, listing.rows())
    first = next(rows, None)
    if first is None:
        passed = ", ".join(f"{n:,} {what}" for what, n in listing.skipped.most_common(3))
        raise InvalidRequest(
            f"there is nothing to label in {listing.uri}" + (f"; passed over: {passed}" if passed else "")
        )
    before = _latest(storage) if request.update else None
    previous = None if before is None else read_manifest(storage, before.manifest)
    told = 0.0

    def tell(n_rows: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_S:
            told = time.monotonic()
            how.tell(f"{n_rows:,} rows are listed", n_rows)

    every = itertools.chain([first], rows)
    if previous is not None and previous.uri == listing.uri:
        return update_manifest(previous, every, storage, shard_rows=request.shard_rows, progress=tell)
    return write_manifest(every, storage, uri=listing.uri, shard_rows=request.shard_rows, progress=tell)


def _until(stop: threading.Event, rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        if stop.is_set():
            raise _Interrupted
        yield row


def _latest(storage: Storage) -> Job | None:
    try:
        return find_job(storage)
    except NotFound:
        return None
