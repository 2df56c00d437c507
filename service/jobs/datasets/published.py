"""``manyeyes.json``: what a finished dataset is and what made it. Readers follow it alone.

It is the commit of the whole: it names every file of the dataset with its digest, so whoever reads what it names reads
one job, whatever is being written beside it. The same job gives the same bytes: it holds no time, host or attempt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self
from urllib.parse import urlsplit, urlunsplit

from manyeyes.errors import InvalidRequest
from manyeyes.service.jobs.shapes import Counts
from manyeyes.types import Versions

FORMAT: Final = 1
N_BINS: Final = 20
"""Bins of a histogram of confidences, each as wide: the first is [0, 0.05), the last [0.95, 1]."""


@dataclass(frozen=True, slots=True)
class File:
    """A file below the dataset's place. size: bytes. sha256: of all of them."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class LabelsFile:
    """The labels of a shard. generation: which try of the job wrote it; the first, unless failed rows were retried."""

    path: str
    size: int
    sha256: str
    shard: int
    rows: int
    generation: int = 0


@dataclass(frozen=True, slots=True)
class LFCounts:
    """One labeling function on the rows without an error, in rows.

    values: what it voted for → how often. overlaps: where another votes, too. conflicts: where another votes for
    something else, with no class in common. right, judged: of its votes where the label is known; 0 without gold.
    """

    name: str
    kind: str
    votes: int
    overlaps: int
    conflicts: int
    values: Mapping[str, int] = field(default_factory=dict)
    right: int = 0
    judged: int = 0


@dataclass(frozen=True, slots=True)
class AllLFs:
    """All labeling functions together, in rows. rows: without an error. covered: where any votes; overlapped: where
    two or more do; mixed: where two disagree."""

    rows: int = 0
    covered: int = 0
    overlapped: int = 0
    mixed: int = 0


@dataclass(frozen=True, slots=True)
class GoldCounts:
    """What known labels say. digest: sha256 of their table, as the job took it. known: of them in the job.

    labeled, right: of these got a label, and the right one. Where the label model was fitted by the job, it saw them.
    """

    digest: str
    known: int
    labeled: int
    right: int


@dataclass(frozen=True, slots=True)
class Published:
    """All that ``manyeyes.json`` says.

    job, generation, manifest: which job, which of its tries, which rows. source: where they came from, without secrets.
    recipe: its document. versions: what made the labels. given_label_model: whether it was not fitted by this job.
    label_model_files: the fitted one. software: package → version. counts, by_class, by_default: rows. confidence:
    of labeled and of abstained rows, ``N_BINS`` each. files: the labels, in the order of the rows.
    """

    job: str
    generation: int
    manifest: str
    source: Mapping[str, Any]
    recipe: Mapping[str, Any]
    versions: Versions
    given_label_model: bool
    label_model_files: tuple[File, ...]
    software: Mapping[str, str]
    counts: Counts
    by_class: Mapping[str, int]
    by_default: int
    confidence: Mapping[str, tuple[int, ...]]
    lfs: tuple[LFCounts, ...]
    all_lfs: AllLFs
    gold: GoldCounts | None
    files: tuple[LabelsFile, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The recipe's classes, in its order."""
        return tuple(self.recipe["classes"])

    def to_bytes(self) -> bytes:
        """Return the bytes of ``manyeyes.json``, the same for the same content."""
        told = asdict(self)
        for name, value in told.items():
            if isinstance(value, tuple):
                told[name] = list(value)
        document = {"format": FORMAT, **told}
        document["digest"] = _digest(document)
        return _dump(document)

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str) -> Self:
        """Return what the bytes of ``manyeyes.json`` say.

        where: whose they are, for errors. Raises InvalidRequest if they are damaged or of a later version.
        """
        try:
            told = json.loads(data)
            version = told.pop("format")
            if version != FORMAT:
                raise InvalidRequest(
                    f"{where} has format {version!r}; this version of manyeyes reads {FORMAT}: install a newer one"
                )
            digest = told.pop("digest")
            if digest != _digest({"format": version, **told}) or data != _dump(
                {"format": version, **told, "digest": digest}
            ):
                raise ValueError("its digest does not fit")
            return cls(**{part.name: _read(part.name, told[part.name]) for part in fields(cls)})
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, InvalidRequest):
                raise
            raise InvalidRequest(
                f"{where} is damaged ({type(error).__name__}: {error}); run the job again, which writes it anew"
            ) from error


def _read(name: str, value: Any) -> Any:
    if name == "versions":
        return Versions(**value)
    if name == "counts":
        return Counts(**value)
    if name == "all_lfs":
        return AllLFs(**value)
    if name == "gold":
        return None if value is None else GoldCounts(**value)
    if name == "confidence":
        return {status: tuple(bins) for status, bins in value.items()}
    many = {"label_model_files": File, "lfs": LFCounts, "files": LabelsFile}
    return tuple(many[name](**one) for one in value) if name in many else value


def _dump(document: Mapping[str, Any]) -> bytes:
    return (
        json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    )


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump({key: document[key] for key in document if key != "digest"})).hexdigest()


def without_secrets(address: str) -> str:
    """Return an address without what may open it: no user, password, query or fragment. A plain path stays.

    >>> without_secrets("https://me:secret@example.org/photos/list.csv?X-Amz-Signature=abc#top")
    'https://example.org/photos/list.csv'
    >>> without_secrets("photos/what?.jpg")
    'photos/what?.jpg'
    """
    scheme, separator, _ = address.partition("://")
    if not separator or not scheme.isalnum():
        return address
    told = urlsplit(address)
    return urlunsplit((told.scheme, told.netloc.rpartition("@")[2], told.path, "", ""))
