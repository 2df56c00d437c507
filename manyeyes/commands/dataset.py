"""``manyeyes verify`` and ``manyeyes export``: what one does with the dataset of a finished job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.text import Text

from manyeyes.commands import screen
from manyeyes.commands.job import absolute, checked, jobs_needed
from manyeyes.errors import InvalidRequest, nearest

_SHOWN: Final = 50
_DONE_BY_NAME: Final = ("min_confidence", "soft_labels", "reasons", "abstained", "splits", "seed")


def verify(out: str, *, sample: int, seed: int, trusted: bool, repair: bool, as_json: bool) -> int:
    """Hold a dataset to what it says; return 0, or 1 where something is not so.

    repair: whether what was published is written again from what the job keeps, if something is not so.
    """
    with jobs_needed():
        from manyeyes.service.jobs.datasets import verify as verifying
        from manyeyes.service.jobs.datasets.provenance import settle
        from manyeyes.service.jobs.places.storage import Storage
    console = screen.err()
    with console.status("verifying") as status:

        def show(what: str, done: int, total: int) -> None:
            status.update(f"verifying {what}: {done:,} of {total:,}")

        storage = Storage.open(absolute(out))
        found = verifying.verify(storage, sample=sample, seed=seed, trusted=trusted, progress=show)
        repaired = repair and not found.ok
        if repaired:
            settle(storage)
            found = verifying.verify(storage, sample=sample, seed=seed, trusted=trusted, progress=show)
    if as_json:
        print(json.dumps(asdict(found) | {"ok": found.ok}, indent=2))  # noqa: T201
        return 0 if found.ok else 1
    if repaired:
        screen.say("What was published was written again from what the job keeps.")
    if found.findings:
        rows = [(one.where, one.kind, one.message) for one in found.findings[:_SHOWN]]
        more = f" (the first {_SHOWN})" if len(found.findings) > _SHOWN else ""
        screen.out().print(
            screen.table(
                f"Not as it should be: {len(found.findings):,}{more}",
                ("where", "kind", "what is wrong"),
                rows,
                words=("kind", "what is wrong"),
            )
        )
    told = f"{found.files:,} files and {found.rows:,} rows of job {found.job} were checked"
    if found.sampled:
        told += f"; {found.same:,} of {found.sampled:,} labels that were made again came out the same, bit for bit"
    screen.out().print(
        Text(told + ("." if found.findings else ": everything is as it says.")), soft_wrap=True
    )
    return 0 if found.ok else 1


def export(
    out: str,
    *,
    to: str,
    format: str,
    options: Mapping[str, Any],
    splits: Sequence[str] = (),
    more: Sequence[str] = (),
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Write a dataset in another format; return 0, or 1 where nothing was left to write."""
    with jobs_needed():
        from manyeyes.service.jobs.datasets.dataset import Dataset
        from manyeyes.service.jobs.sinks.base import ExportOptions
        from manyeyes.service.jobs.sinks.export import export as write
        from manyeyes.service.jobs.sinks.export import sink_of
    sink_of(format)
    told = dict(options)
    if splits:
        told["splits"] = dict(_split(one) for one in splits)
    allowed = sorted(set(ExportOptions.model_fields) - set(_DONE_BY_NAME))
    for one in more:
        name, separator, value = one.partition("=")
        if not separator or name not in allowed:
            raise InvalidRequest(
                f"--option says NAME=VALUE, got {one!r}; names: {', '.join(allowed)}{nearest(name, allowed)}"
            )
        told[name] = value.split(",") if name == "columns" else value
    with checked():
        chosen = ExportOptions.model_validate(told)
    with screen.err().status(f"exporting {format}"):
        report = write(Dataset.open(absolute(out)), absolute(to), format=format, options=chosen)
    if as_json:
        print(json.dumps(report.to_dict(), indent=2))  # noqa: T201
    elif not quiet:
        if report.left_out:
            rows = [
                (reason, f"{n:,}", ", ".join(report.examples.get(reason, ())))
                for reason, n in report.left_out.items()
            ]
            screen.out().print(screen.table("Left out", ("why", "rows", "such as"), rows, words=("such as",)))
            screen.out().print()
        if len(report.splits) > 1:
            screen.out().print(
                screen.table(
                    "Splits", ("split", "rows"), [(name, f"{n:,}") for name, n in report.splits.items()]
                )
            )
            screen.out().print()
        screen.say(f"Wrote {report.rows:,} rows in {report.files:,} files to {to}")
    return 0 if report.rows else 1


def _split(told: str) -> tuple[str, float]:
    name, separator, part = told.partition("=")
    try:
        if not separator:
            raise ValueError
        return name, float(part)
    except ValueError:
        raise InvalidRequest(f"--split says NAME=PART, as train=0.8, got {told!r}") from None
