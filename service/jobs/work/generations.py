"""Trying failed rows again: each time is a generation, named by an object that says which shards it does again.

Generation 0 does all shards. Readers take, of each shard, the newest generation that is committed, so a generation that
is never finished takes nothing away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from manyeyes.errors import InvalidRequest, NotFound
from manyeyes.service.jobs.layout import generation_file
from manyeyes.service.jobs.places.storage import Storage

MAY_PASS: Final = (
    "deadline_exceeded",
    "endpoint_failed",
    "fetch_failed",
    "overloaded",
    "primitive_failed",
    "rate_limited",
    "service_unavailable",
    "storage_failed",
    "unreadable_item",
)
"""Codes of failures that another try may not have. What is not there, or is no image, stays so until it is replaced,
and what was replaced is found by running the job again."""
_NAME: Final = re.compile(r"(\d{4})\.json")


@dataclass(frozen=True, slots=True)
class Generation:
    """What a generation does. shards: their places in the job; None for all. again: the codes of the failures whose
    rows are tried again; none for every failure."""

    index: int
    shards: tuple[int, ...] | None = None
    again: tuple[str, ...] = ()


def latest_generation(storage: Storage, job: str) -> int:
    """Return the newest generation of a job; 0 before the first retry."""
    folder = generation_file(job, 0).rpartition("/")[0] + "/"
    names = (meta.path.rpartition("/")[2] for meta in storage.list(folder))
    return max((int(matched[1]) for name in names if (matched := _NAME.fullmatch(name))), default=0)


def read_generation(storage: Storage, job: str, index: int) -> Generation:
    """Return what a generation does. Raises NotFound if there is none of that number."""
    if index == 0:
        return Generation(0)
    try:
        told = json.loads(storage.get(generation_file(job, index)))
    except NotFound as error:
        raise NotFound(
            f"job {job} has no generation {index}: its failed rows were not retried so often"
        ) from error
    return Generation(index, tuple(told["shards"]), tuple(told["again"]))


def add_generation(storage: Storage, job: str, shards: Collection[int], again: Sequence[str]) -> Generation:
    """Add a generation that does some shards again; return it.

    Raises InvalidRequest if somebody else adds another at the same time.
    """
    index = latest_generation(storage, job) + 1
    told: dict[str, Any] = {"shards": sorted(shards), "again": sorted(again)}
    data = json.dumps(told, sort_keys=True).encode()
    path = generation_file(job, index)
    if not storage.create(path, data) and storage.get(path) != data:
        raise InvalidRequest(
            f"somebody else retries job {job} just now; see how far it is, and try again then"
        )
    return Generation(index, tuple(told["shards"]), tuple(told["again"]))
