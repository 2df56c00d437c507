"""``manyeyes job run``, ``resume`` and ``retry``: batch jobs that run in this process until they end or are stopped."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from manyeyes.commands import screen
from manyeyes.commands.job_progress import shown
from manyeyes.errors import InvalidRequest, ManyeyesError, MissingDependency
from manyeyes.recipe import Recipe

if TYPE_CHECKING:
    from manyeyes.service.jobs.shapes import Progress

STOPPED: Final = 130
_FORMATS_BELOW: Final = "exports"
_COLUMNS: Final = ("id", "image", "text")


@dataclass(frozen=True)
class Options:
    """What the arguments of ``manyeyes job run`` say; see ``manyeyes.service.jobs.shapes.JobRequest``.

    formats: what the dataset is exported as besides, below ``exports/`` of its place.
    """

    source: str
    recipe: Path
    out: str
    kind: str = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    recursive: bool = True
    join: Mapping[str, str] | None = None
    label_model: str | None = None
    gold: str | None = None
    engine: Mapping[str, Any] = field(default_factory=dict)
    shard_rows: int = 4096
    attempts: int = 4
    update: bool = True
    same_rows: bool = False
    max_error_rate: float = 0.5
    formats: Sequence[str] = ()
    as_json: bool = False


def run(options: Options) -> int:
    """Run a job as the options say; return the exit code: 0, 1 where nothing is labeled, 130 where it was stopped."""
    with jobs_needed():
        from manyeyes.service.jobs.run import run_job
        from manyeyes.service.jobs.shapes import JobRequest
        from manyeyes.service.jobs.sinks.export import sink_of
    recipe = Recipe.load(options.recipe)
    for name in options.formats:
        sink_of(name)
    source: dict[str, Any] = {
        "uri": absolute(options.source),
        "kind": options.kind,
        "columns": dict(options.columns),
        "recursive": options.recursive,
    }
    if options.join is not None:
        source["join"] = {**options.join, "table": absolute(options.join["table"])}
    with checked():
        request = JobRequest.model_validate(
            {
                "source": source,
                "recipe": recipe.document(),
                "out": absolute(options.out),
                "label_model": None if options.label_model is None else absolute(options.label_model),
                "gold": None if options.gold is None else absolute(options.gold),
                "shard_rows": options.shard_rows,
                "attempts": options.attempts,
                "breaker": {"max_error_rate": options.max_error_rate},
                "engine": dict(options.engine),
                "update": options.update,
                "same_rows": options.same_rows,
            }
        )
    code = _until_it_ends(
        lambda show, stop: run_job(request, on_progress=show, stop=stop),
        out=request.out,
        go_on="The same command goes on where it was stopped.",
        as_json=options.as_json,
    )
    if code == 0:
        for name in options.formats:
            from manyeyes.commands.dataset import export

            place = f"{request.out.rstrip('/')}/{_FORMATS_BELOW}/{name}"
            export(request.out, to=place, format=name, options={"overwrite": True}, quiet=options.as_json)
    return code


def resume(out: str, job: str | None, *, as_json: bool) -> int:
    """Go on with a job; return the exit code as ``run`` does."""
    with jobs_needed():
        from manyeyes.service.jobs.run import resume_job
    place = absolute(out)
    return _until_it_ends(
        lambda show, stop: resume_job(place, job, on_progress=show, stop=stop),
        out=place,
        go_on=f"manyeyes job resume {out} goes on where it was stopped.",
        as_json=as_json,
    )


def retry(out: str, job: str | None, *, every: bool, as_json: bool) -> int:
    """Try the failed rows of a job again; return the exit code as ``run`` does."""
    with jobs_needed():
        from manyeyes.service.jobs.places.storage import Storage
        from manyeyes.service.jobs.run import find_job, retry_failed
    storage = Storage.open(absolute(out))
    found = find_job(storage, job).id
    if retry_failed(storage, found, every=every) is None:
        which = "row that failed" if every else "row whose failure may pass by itself"
        screen.say(f"Job {found} has no {which}" + ("." if every else "; --every tries all that failed."))
        return 0
    return resume(out, found, as_json=as_json)


def columns(told: Sequence[str]) -> dict[str, str]:
    """Return our names of columns → those of a table, from ``image=photo_url``. Raises InvalidRequest."""
    found: dict[str, str] = {}
    for one in told:
        ours, separator, theirs = one.partition("=")
        if not separator or ours not in _COLUMNS or not theirs:
            raise InvalidRequest(
                f"--column says what a column is called, as image=photo_url; ours are {', '.join(_COLUMNS)}, got"
                f" {one!r}"
            )
        found[ours] = theirs
    return found


def join(told: str, *, on: str) -> dict[str, str]:
    """Return a join from ``table`` or ``table:key``.

    >>> join("s3://shop/goods.csv:sku", on="stem"), join("goods.csv", on="id")
    ({'table': 's3://shop/goods.csv', 'key': 'sku', 'on': 'stem'}, {'table': 'goods.csv', 'on': 'id'})
    """
    table, separator, key = told.rpartition(":")
    # The colon of s3://… has a slash behind it, and no column's name does.
    if not separator or "/" in key or not table:
        return {"table": told, "on": on}
    return {"table": table, "key": key, "on": on}


def absolute(place: str) -> str:
    """Return an address that means the same from every folder."""
    return place if "://" in place else os.path.abspath(os.path.expanduser(place))


@contextmanager
def jobs_needed() -> Iterator[None]:
    """Say which package is missing where batch jobs are not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"batch jobs need the package {error.name}, which is not installed; run pip install 'manyeyes[serve]'"
        ) from error


@contextmanager
def checked() -> Iterator[None]:
    """Tell in one sentence what is wrong with options that pydantic refuses."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        raise InvalidRequest(f"{where}: {message}, got {problem['input']!r}" if where else message) from None


def _until_it_ends(
    work: Callable[[Any, threading.Event], Progress], *, out: str, go_on: str, as_json: bool
) -> int:
    from manyeyes.service.jobs.progress.events import ENDED
    from manyeyes.service.jobs.run import stopped_by_signals
    from manyeyes.service.operations.allocator import keep_freed_memory

    keep_freed_memory()  # this process does nothing but the job
    stop = threading.Event()
    with stopped_by_signals(stop), shown() as show:
        progress = work(show, stop)
    if as_json:
        # Not through the console, which would wrap it.
        print(json.dumps(asdict(progress), indent=2))  # noqa: T201
    if progress.status not in ENDED and stop.is_set():
        screen.say(f"Stopped; what was done stays in {out}. {go_on}")
        return STOPPED
    if progress.status != "completed":
        screen.err().print(
            Text(
                f"Job {progress.job} {progress.status}: {progress.message or 'manyeyes job logs says more'}"
            ),
            soft_wrap=True,
        )
        screen.say(go_on)
        return 1
    if not as_json:
        _tell(out)
    return 0 if progress.counts.labeled else 1


def _tell(out: str) -> None:
    """Show what a dataset holds."""
    from manyeyes.service.jobs.datasets.provenance import read_published
    from manyeyes.service.jobs.places.storage import Storage

    try:
        told = read_published(Storage.open(out))
    except ManyeyesError as error:  # another job publishes just now, or somebody removed it
        screen.show_error(error)
        return
    console, sound = screen.out(), told.counts.labeled + told.counts.abstained
    if told.lfs and sound:
        shares = [
            (
                lf.name,
                ", ".join(lf.values) or "–",
                *(f"{n / sound:.1%}" for n in (lf.votes, lf.overlaps, lf.conflicts)),
            )
            for lf in told.lfs
        ]
        heads = ("function", "votes for", "coverage", "overlaps", "conflicts")
        console.print(screen.table("Labeling functions", heads, shares, words=("votes for",)))
        console.print()
        rows = [(name, f"{n:,}", f"{n / sound:.1%}") for name, n in told.by_class.items()]
        rows.append(("(abstained)", f"{told.counts.abstained:,}", f"{told.counts.abstained / sound:.1%}"))
        console.print(screen.table("Labels", ("class", "rows", "share"), rows))
        console.print()
    if told.counts.failed:
        failed = [(code, f"{n:,}") for code, n in sorted(told.counts.errors.items(), key=lambda one: -one[1])]
        console.print(screen.table("Errors", ("code", "rows"), failed))
        console.print()
    errors = "1 error" if told.counts.failed == 1 else f"{told.counts.failed:,} errors"
    screen.say(
        f"Wrote {told.counts.rows:,} rows ({told.counts.labeled:,} labeled, {told.counts.abstained:,} abstained,"
        f" {errors}) to {out}; README.md there tells more, and manyeyes verify holds it to that."
    )
