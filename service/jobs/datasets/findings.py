"""What holding a dataset to its word finds, in words that other modules share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["damaged", "missing", "counts", "provenance", "source", "version", "different"]
Find: TypeAlias = Callable[[Kind, str, str], None]
"""Called with the kind, where it is, and what is wrong."""
Tell: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is, and of how much."""


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
    def ok(self) -> bool:
        """Whether everything is as it says."""
        return not self.findings
