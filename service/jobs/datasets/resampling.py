"""A sample of a dataset's labels, made again and compared bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from manyeyes.errors import ManyeyesError
from manyeyes.service.jobs import layout
from manyeyes.service.jobs.datasets.dataset import Dataset
from manyeyes.service.jobs.datasets.findings import Find, Tell
from manyeyes.service.jobs.datasets.replay import Replay
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.work.generations import MAY_PASS
from manyeyes.service.jobs.work.job import Job

if TYPE_CHECKING:
    from manyeyes.service.fetching.buckets import Buckets

_BATCH: Final = 256
_NOT_COMPARED: Final = ("attempts", "error_message")


def sample_again(
    dataset: Dataset,
    job: Job,
    *,
    sample: int,
    seed: int,
    buckets: Buckets | None,
    find: Find,
    tell: Tell,
) -> tuple[int, int]:
    """Make some labels again; return how many were compared, and how many of them are the same to the last bit.

    sample: at most as many as the dataset has rows. Rows whose failure may pass by itself are drawn, but not compared.
    """
    try:
        with Replay(job, dataset.storage, dataset.published.generation, buckets=buckets) as replay:
            differing = replay.differing()
            for name, (then, now) in sorted(differing.items()):
                why = f"was {then or 'not there'} when the job ran and is {now} here; install what it was to compare"
                find("version", name, why)
            return (0, 0) if differing else _compared(dataset, replay, sample, seed, find, tell)
    except ManyeyesError as error:
        find("version", "models", f"labels cannot be made again here: {error}")
        return 0, 0


def _compared(
    dataset: Dataset, replay: Replay, sample: int, seed: int, find: Find, tell: Tell
) -> tuple[int, int]:
    n_compared = n_same = 0
    rows: list[Row] = []
    told: list[dict[str, Any]] = []
    chosen = np.sort(np.random.default_rng(seed).choice(len(dataset), size=sample, replace=False))
    drawn = _rows_at(dataset, chosen)
    for n in range(1, sample + 1):
        try:
            row, label = next(drawn)
        except ManyeyesError as error:
            find("damaged", layout.LABELS, f"the sample ended early: {error}")
            break
        if label["error_code"] not in MAY_PASS:
            rows.append(row)
            told.append(label)
        if rows and (len(rows) == _BATCH or n == sample):
            n_compared += len(rows)
            n_same += _compare(replay, rows, told, find)
            rows, told = [], []
        tell("sample", n, sample)
    return n_compared, n_same


def _compare(replay: Replay, rows: Sequence[Row], told: Sequence[dict[str, Any]], find: Find) -> int:
    made = replay.label(rows)
    n_same = 0
    for i, (row, before, now) in enumerate(zip(rows, told, made.labels.to_pylist(), strict=True)):
        # repr tells every two floats apart that differ in any bit, such as 0.0 and -0.0.
        names = [
            name for name in before if name not in _NOT_COMPARED and repr(before[name]) != repr(now[name])
        ]
        if not names:
            n_same += 1
        elif i in made.unread:
            find("source", row.id, "{1} ({0})".format(*made.unread[i]))
        else:
            find("different", row.id, "; ".join(_told(name, before[name], now[name]) for name in names[:3]))
    return n_same


def _rows_at(dataset: Dataset, places: Any) -> Iterator[tuple[Row, dict[str, Any]]]:
    """Yield the rows at some places of the whole, in order, with their labels as one flat row each."""
    first = 0
    for file, shard in zip(dataset.published.files, dataset.manifest.shards, strict=True):
        here = places[(places >= first) & (places < first + file.rows)] - first
        first += file.rows
        if len(here):
            rows, table = dataset.shard(file, shard)
            yield from zip([rows[i] for i in here], table.take(here).to_pylist(), strict=True)


def _told(name: str, before: Any, now: Any) -> str:
    return f"{name} was {_short(before)} and comes out as {_short(now)}"


def _short(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 120 else told[:119] + "…"
