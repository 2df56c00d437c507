"""``manyeyes job status``, ``logs``, ``cancel`` and ``list``: what is known of jobs, from any machine."""

from __future__ import annotations

import json
import re
import time
from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from rich.text import Text

from manyeyes.commands import screen
from manyeyes.commands.job import STOPPED, absolute, jobs_needed
from manyeyes.commands.job_progress import figures, shown, what

if TYPE_CHECKING:
    from manyeyes.service.jobs.places.storage import Storage
    from manyeyes.service.jobs.shapes import Progress

_LOOK_S: Final = 1.0
_JOB: Final = re.compile(r"_manyeyes/jobs/([0-9a-f]+)/job\.json")


def status(out: str, job: str | None, *, follow: bool, as_json: bool) -> int:
    """Say how far a job is; return 0, or 1 where it failed."""
    storage = _open(out)
    from manyeyes.service.jobs.run import Watch, find_job

    watch = Watch(storage, find_job(storage, job).id)
    progress = watch.progress()
    if follow:
        from manyeyes.service.jobs.progress.events import ENDED

        try:
            with shown() as show:
                while progress.status not in ENDED:
                    show(progress)
                    time.sleep(_LOOK_S)
                    progress = watch.progress()
        except KeyboardInterrupt:
            return STOPPED
    if as_json:
        print(json.dumps(asdict(progress), indent=2))  # noqa: T201
    else:
        _show(progress)
    return 1 if progress.status == "failed" else 0


def logs(out: str, job: str | None, *, follow: bool, as_json: bool) -> int:
    """Print the events of a job; return 0."""
    storage = _open(out)
    from manyeyes.service.jobs.progress.events import ENDED
    from manyeyes.service.jobs.run import events_of, find_job

    found, last, ended = find_job(storage, job).id, 0, False
    console = screen.out()
    try:
        while True:
            for event in events_of(storage, found, last):
                last = event.id
                ended = event.status in ENDED if event.status is not None else ended
                if as_json:
                    print(json.dumps(asdict(event)), flush=True)  # noqa: T201
                else:
                    told = f"{event.status}: {event.message}" if event.status is not None else event.message
                    console.print(
                        Text(f"{event.at[:19]}Z {event.kind:<8} {told.rstrip(': ')}"), soft_wrap=True
                    )
            if ended or not follow:
                return 0
            time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        return STOPPED


def cancel(out: str, job: str | None) -> int:
    """Stop a job; return 0."""
    storage = _open(out)
    from manyeyes.service.jobs.run import cancel, find_job

    found = find_job(storage, job).id
    if cancel(storage, found):
        screen.say(
            f"Job {found} is asked to stop, which takes seconds. manyeyes job resume {out} goes on with it."
        )
    else:
        screen.say(f"Job {found} has ended already.")
    return 0


def list_jobs(out: str, *, as_json: bool) -> int:
    """List the jobs of a place; return 0."""
    storage = _open(out)
    from manyeyes.errors import NotFound
    from manyeyes.service.jobs.datasets.provenance import read_published
    from manyeyes.service.jobs.progress.latest import read_latest
    from manyeyes.service.jobs.progress.progress import progress_of
    from manyeyes.service.jobs.work.job import read_job

    ids = [matched[1] for meta in storage.list("_manyeyes/jobs") if (matched := _JOB.fullmatch(meta.path))]
    latest = read_latest(storage)
    try:
        published: str | None = read_published(storage).job
    except NotFound:
        published = None
    told = []
    for found in ids:
        job, progress = read_job(storage, found), progress_of(storage, found)
        told.append(
            {
                "job": found,
                "status": progress.status,
                "rows": progress.n_rows,
                "recipe": job.recipe.name,
                "recipe_version": job.recipe.version,
                "latest": found == latest,
                "published": found == published,
            }
        )
    if as_json:
        print(json.dumps(told, indent=2))  # noqa: T201
        return 0
    heads = ("job", "status", "rows", "recipe", "version", "")
    rows = [
        (
            str(one["job"]),
            str(one["status"]),
            f"{one['rows']:,}",
            str(one["recipe"]),
            str(one["recipe_version"]),
            ", ".join(name for name in ("latest", "published") if one[name]),
        )
        for one in told
    ]
    screen.out().print(screen.table("", heads, rows, words=("status", "recipe", "version", "")))
    if not ids:
        screen.say(
            f"No job was begun in {out}; manyeyes job run SOURCE --recipe FILE --out {out} begins one."
        )
    return 0


def _open(out: str) -> Storage:
    with jobs_needed():
        from manyeyes.service.jobs.places.storage import Storage
    return Storage.open(absolute(out))


def _show(progress: Progress) -> None:
    counts = progress.counts
    rows = [("job", progress.job), ("status", progress.status)]
    if progress.status in ("in_progress", "finalizing", "cancelling"):
        rows.append(("now", f"{what(progress)}: {figures(progress)}"))
    rows += [
        ("rows", f"{progress.n_rows:,}"),
        (
            "shards",
            f"{progress.shards_done:,} of {progress.shards:,} in the pass that makes {progress.pass_}",
        ),
        ("labeled", f"{counts.labeled:,}"),
        ("abstained", f"{counts.abstained:,}"),
        ("failed", f"{counts.failed:,}"),
        *((f"  {code}", f"{n:,}") for code, n in sorted(counts.errors.items(), key=lambda one: -one[1])),
        (
            "computed",
            ", ".join(f"{n:,} {name}" for name, n in sorted(progress.computed.items())) or "nothing",
        ),
        ("since", f"{timedelta(seconds=round(progress.seconds))}"),
    ]
    if progress.message:
        rows.append(("message", progress.message))
    screen.out().print(screen.table("", ("", ""), rows, words=("",)))
