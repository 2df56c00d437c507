"""Holding a dataset to what it says of itself: digests, counts, and labels made again from the bytes at the source."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from manyeyes.service.jobs.storage import Storage

if TYPE_CHECKING:
    from manyeyes.service.fetching.buckets import Buckets

Kind: TypeAlias = Literal["damaged", "missing", "counts", "provenance", "source", "version", "different"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. where: a file or a row's id. kind: what sort of thing.

    damaged, missing: a file. counts: rows do not add up. provenance: what says how it was made contradicts itself.
    source: an object is gone or has changed since. version: a model of that version is not on this machine.
    different: a label, probability or reason comes out otherwise, though everything is the same.
    """

    kind: Kind
    where: str
    message: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What ``verify`` found. files, rows: checked. sampled, same: rows made again, and those of them that came out bit
    for bit the same. findings: the rest. ok: whether there is none."""

    job: str
    files: int
    rows: int
    sampled: int
    same: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool: ...


def verify(
    out: str | os.PathLike[str] | Storage,
    *,
    sample: int = 200,
    seed: int = 0,
    buckets: Buckets | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Verification:
    """Hold a dataset to what it says of itself; see ``Verification``.

    sample: rows that are made again, drawn with ``seed``; 0 makes none. progress: what, how many done, of how many.
    Raises NotFound where no job has finished.
    """
    raise NotImplementedError
