"""WebDataset: tars in which the files of one sample stand together and share a name up to its first dot.

``000017.jpg``, ``000017.txt``, ``000017.json`` and ``000017.cls`` are one row: an image, its text, its metadata, and a
number or word that becomes the metadata ``cls``. Source of the rule: webdataset's ``base_plus_ext``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from manyeyes.errors import EmptyItem, InvalidItem, ItemError
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.sources.beside import MAX_SIDECAR_BYTES, as_json, hidden, reason
from manyeyes.service.jobs.sources.entries import Entry
from manyeyes.service.jobs.sources.patterns import matching
from manyeyes.service.jobs.sources.places import Places
from manyeyes.service.jobs.sources.tars import TarShelf
from manyeyes.settings import Limits
from manyeyes.sources import IMAGE_SUFFIXES, checked_text, flat_metadata
from manyeyes.types import MetadataValue

_KEY: Final = re.compile(r"((?:.*/)?[^/.]+)\.([^/]*)", re.DOTALL)
_TEXTS: Final = ("txt", "text", "caption")
_TARS_AT_ONCE: Final = 8


def webdataset_rows(pattern: str, places: Places, *, limits: Limits, skipped: Counter[str]) -> Iterator[Row]:
    """Yield the samples of tars, in order; several tars are listed ahead of the one whose rows are asked for.

    An id is ``<tar's name>/<key>``. Raises InvalidSource if one is not there or is no tar, and StorageFailed.
    """
    uris = matching(pattern, places)
    with ThreadPoolExecutor(_TARS_AT_ONCE, thread_name_prefix="tars") as pool:
        while some := list(islice(uris, _TARS_AT_ONCE)):
            heads = list(pool.map(lambda uri: _Samples(uri, places, limits).begun(), some))
            for samples in heads:
                yield from samples.rows()
                skipped.update(samples.skipped)


@dataclass(slots=True)
class _Sample:
    key: str
    image: Entry | None = None
    text: str | None = None
    metadata: dict[str, MetadataValue] = field(default_factory=dict)
    problem: ItemError | None = None


class _Samples:
    """The samples of one tar."""

    def __init__(self, uri: str, places: Places, limits: Limits) -> None:
        self.skipped: Counter[str] = Counter()
        self._shelf = TarShelf(places.object(uri), skipped=self.skipped)
        self._name = uri.rpartition("/")[2].removesuffix(".tar")
        self._limits = limits
        self._ahead: list[Row] = []
        self._rest = self._list()

    def begun(self) -> _Samples:
        """List the first of them; return itself."""
        self._ahead = list(islice(self._rest, 4096))
        return self

    def rows(self) -> Iterator[Row]:
        yield from self._ahead
        self._ahead = []
        yield from self._rest

    def _list(self) -> Iterator[Row]:
        sample: _Sample | None = None
        for entry in self._shelf.entries():
            why = hidden(entry.key)
            if why:
                self.skipped[why] += 1
                continue
            matched = _KEY.fullmatch(entry.key)
            if matched is None and entry.problem is None:
                self.skipped["no extension"] += 1
                continue
            key, kind = (matched[1], matched[2].lower()) if matched else (entry.key, "")
            if sample is None or key != sample.key:
                yield from self._done(sample)
                sample = _Sample(key)
            self._take(sample, entry, kind)
        yield from self._done(sample)

    def _take(self, sample: _Sample, entry: Entry, kind: str) -> None:
        if entry.problem is not None:
            sample.problem = sample.problem or entry.problem
        elif "." + kind.rpartition(".")[2] in IMAGE_SUFFIXES:
            if sample.image is None:
                sample.image = entry
            else:
                self.skipped["second image of a sample"] += 1
        elif kind in (*_TEXTS, "json", "cls"):
            wrong = self._read(sample, entry, kind)
            sample.problem = sample.problem or wrong
        else:
            self.skipped[reason("." + kind)] += 1

    def _read(self, sample: _Sample, entry: Entry, kind: str) -> ItemError | None:
        most = 4 * self._limits.max_text if kind in _TEXTS else MAX_SIDECAR_BYTES
        if entry.size > most:
            return InvalidItem(f"{entry.key} holds {entry.size:,} bytes; at most {most:,} are read")
        data = self._shelf.read_near(entry)
        if kind in _TEXTS:
            text = checked_text(data, where=entry.key, limits=self._limits)
            if isinstance(text, ItemError):
                return text
            sample.text = text
        elif kind == "cls":
            told = data.decode("utf-8", "replace").strip()
            sample.metadata["cls"] = int(told) if re.fullmatch(r"-?\d{1,18}", told) else told
        else:
            try:
                found = flat_metadata(_scalars(json.loads(data)), where=entry.key)
            except (ValueError, RecursionError) as error:
                return InvalidItem(f"{entry.key} is not JSON ({error}); correct it or remove it")
            if isinstance(found, ItemError):
                return found
            sample.metadata.update(found)
        return None

    def _done(self, sample: _Sample | None) -> Iterator[Row]:
        if sample is None:
            return
        problem, image = sample.problem, sample.image
        if problem is None and image is None and sample.text is None:
            self.skipped["sample without image or text"] += 1
            return
        if problem is None and image is not None and image.size == 0:
            problem = EmptyItem(f"{image.key} has no bytes; make the archive anew")
        yield Row(
            id=f"{self._name}/{sample.key}",
            uri=image.uri if image else None,
            member=image.member if image else None,
            offset=image.offset if image else None,
            length=image.length if image else None,
            size=image.size if image else None,
            etag=image.etag if image else None,
            text=sample.text if problem is None else None,
            metadata=as_json(sample.metadata),
            error=None if problem is None else (problem.code, str(problem)),
        )


def _scalars(told: object) -> object:
    """Return the flat part of metadata: what crawlers write beside captions holds lists as well, such as EXIF."""
    if not isinstance(told, dict):
        return told
    return {key: value for key, value in told.items() if isinstance(value, str | int | float | bool | None)}
