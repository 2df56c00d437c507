"""Which rows are exported, where each goes and what it is called: one pass over the labels, before anything is written.

What is kept in memory of a row is some 40 bytes: numbers, no text.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRequest, ItemError
from manyeyes.primitives.duplicates import duplicate_groups
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.sinks.base import WHOLE, Dataset, ExportOptions, Wants, has_image
from manyeyes.service.jobs.sinks.lookalikes import joined, rows_alike
from manyeyes.service.jobs.sinks.names import needs_digest, stem_key, stem_of
from manyeyes.service.jobs.sinks.splits import split_key, split_rows
from manyeyes.service.jobs.sinks.stored import image_features, stored
from manyeyes.types import Label

_EXAMPLES: Final = 10
_AT_ONCE: Final = 4096
_SPACES: Final = re.compile(r"[\W_]+")


@dataclass
class Chosen:
    """The rows of an export.

    split: int8, shape (n_rows,), index of ``splits``; -1 for what stays out. renamed: bool, shape (n_rows,); whose own
    name another row has, too. counts: rows by split and class index, -1 for none. left_out, examples: reason → how
    many rows, and some ids. groups: what ``ExportReport`` tells of them.
    """

    splits: tuple[str, ...]
    split: npt.NDArray[np.int8]
    renamed: npt.NDArray[np.bool_]
    counts: dict[str, Counter[int]]
    texts: bool
    images: bool
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    groups: dict[str, int] | None = None

    def leave_out(self, reason: str, row_id: str) -> None:
        """Count a row that is not exported."""
        self.left_out[reason] += 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < _EXAMPLES:
            shown.append(row_id)


def choose(dataset: Dataset, wants: Wants, options: ExportOptions) -> Chosen:
    """Decide on every row. Raises InvalidRequest if none is left."""
    classes = {name: i for i, name in enumerate(dataset.recipe.classes)}
    splits = tuple(options.splits) or (WHOLE,)
    chosen = Chosen(splits, np.empty(0, np.int8), np.empty(0, np.bool_), {}, texts=False, images=False)
    kept, strata, keys, stems = array("b"), array("h"), array("q"), array("q")
    texts, given = array("q"), array("q")
    for row, label in dataset.rows():
        reason = _why_not(row, label, wants, options)
        kept.append(reason is None)
        if reason is not None:
            chosen.leave_out(reason, row.id)
            continue
        strata.append(-1 if label.label is None else classes[label.label])
        keys.append(split_key(options.seed, row.id))
        stem = stem_of(row.id)
        stems.append(-1 if needs_digest(stem) else stem_key(stem))
        chosen.texts |= row.text is not None
        chosen.images |= row.uri is not None
        if options.splits:
            texts.append(_text_key(row))
            given.append(_given_key(row, options.group_by))
    mask = np.frombuffer(kept, dtype=np.int8).astype(np.bool_)
    if not mask.any():
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(chosen.left_out.items()))
        raise InvalidRequest(
            f"nothing of {len(mask)} rows is left to export: {reasons or 'there are none'}; lower min_confidence, set"
            " abstained, or choose a format for what the rows have"
        )
    whole = np.zeros(len(mask), dtype=np.bool_)
    whole[mask] = _repeated(_numbers(stems))
    chosen.renamed = whole
    chosen.split = np.full(len(mask), -1, dtype=np.int8)
    classes_of = np.frombuffer(strata, dtype=np.int16)
    own = np.zeros(len(classes_of), dtype=np.int8)
    if options.splits:
        most = max(50, len(classes_of) // 100)
        groups = joined(
            _grouped(_numbers(texts)),
            _grouped(_numbers(given)),
            _looks(dataset, mask, options, most=most),
        )
        sizes = np.bincount(groups)
        chosen.groups = {
            "groups": int((sizes > 1).sum()),
            "rows": int(sizes[sizes > 1].sum()),
            "largest": int(sizes.max()),
        }
        levels = classes_of.astype(np.int64) + 1 if options.stratify else np.zeros(len(own), np.int64)
        own = split_rows(groups, levels, _numbers(keys), tuple(options.splits.values()))
    chosen.split[mask] = own
    for i, name in enumerate(splits):
        values, times = np.unique(classes_of[own == i], return_counts=True)
        chosen.counts[name] = Counter(dict(zip(values.tolist(), times.tolist(), strict=True)))
    return chosen


def fetched(
    dataset: Dataset,
    rows: Iterator[tuple[Any, Row]],
    *,
    attempts: int,
    wanted: Callable[[Row], bool] = has_image,
) -> Iterator[tuple[Any, Row, bytes | ItemError | None]]:
    """Yield rows with their bytes, or what is wrong with them, in order; None for those that are not wanted.

    rows: whatever belongs to a row, and the row.
    """
    with dataset.fetcher() as fetcher:
        while chunk := list(islice(rows, _AT_ONCE)):
            of = [position for position, (_, row) in enumerate(chunk) if wanted(row)]
            done = 0
            for n, data, _ in fetcher.fetch([chunk[position][1] for position in of], attempts=attempts):
                for position in range(done, of[n]):
                    yield *chunk[position], None
                yield *chunk[of[n]], data
                done = of[n] + 1
            for position in range(done, len(chunk)):
                yield *chunk[position], None


def _why_not(row: Row, label: Label, wants: Wants, options: ExportOptions) -> str | None:
    if label.status == "error":
        return "error"
    if label.label is None:
        if wants.class_folders or not options.abstained:
            return "abstained"
    elif (label.confidence or 0.0) < options.min_confidence:
        return "low_confidence"
    return "no_image" if wants.image and row.uri is None else None


def _looks(
    dataset: Dataset, mask: npt.NDArray[np.bool_], options: ExportOptions, *, most: int
) -> npt.NDArray[np.int64]:
    n = int(mask.sum())
    if options.near_duplicates == "off":
        return np.arange(n)
    if options.near_duplicates == "features":
        return _stored_looks(dataset, mask)

    def images() -> Iterator[tuple[int, bytes]]:
        chosen = (row for (row, _), keep in zip(dataset.rows(), mask, strict=True) if keep)
        numbered = ((i, row) for i, row in enumerate(chosen) if row.uri is not None)
        for i, _, data in fetched(dataset, numbered, attempts=options.attempts):
            if isinstance(data, bytes):
                yield i, data

    return rows_alike(images(), n, most=most)


def _stored_looks(dataset: Dataset, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return groups by what the job stored: perceptual hashes, embeddings of images, or both."""
    hashes: npt.NDArray[np.uint64] | None = None
    embeddings: npt.NDArray[np.float32] | None = None
    present = np.ones(len(mask), dtype=np.bool_)
    for name in image_features(dataset):
        first = stored(dataset, name)
        if first is None:
            continue
        blocks = list(first)
        columns = blocks[0].rows.dtype.names or ()
        if "phash" in columns and hashes is None:
            hashes = np.concatenate([block["phash"] for block in blocks]).astype(np.uint64)
        elif "embedding" in columns and embeddings is None and blocks[0].offsets is None:
            embeddings = np.concatenate([block["embedding"] for block in blocks]).astype(np.float32)
        else:
            continue
        present &= np.concatenate([block.present for block in blocks])
    if hashes is None and embeddings is None:
        raise InvalidRequest(
            "near_duplicates: features needs perceptual hashes or embeddings of images, and the job stored neither"
            " (the primitives `image` and `clip` give them); use near_duplicates: pixels"
        )
    unit = None
    if embeddings is not None:
        unit = embeddings[mask]
        unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    return duplicate_groups(unit, None if hashes is None else hashes[mask], present=present[mask])


def _text_key(row: Row) -> int:
    """Return what texts have in common that differ in case, spaces and punctuation alone; 0 of a row with an image."""
    if row.text is None or row.uri is not None:
        return 0
    plain = _SPACES.sub(" ", unicodedata.normalize("NFKC", row.text).casefold()).strip()
    return _key(plain or row.text)


def _given_key(row: Row, name: str | None) -> int:
    if name is None:
        return 0
    value = json.loads(row.metadata).get(name)
    return 0 if value is None else _key(json.dumps(value))


def _key(text: str) -> int:
    return (int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1) | 1


def _numbers(values: array[int]) -> npt.NDArray[np.int64]:
    return np.frombuffer(values, dtype=np.int64) if len(values) else np.empty(0, dtype=np.int64)


def _repeated(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return whose key another has, too, or who has none (-1)."""
    _, member, times = np.unique(keys, return_inverse=True, return_counts=True)
    return np.asarray((times[member] > 1) | (keys < 0))


def _grouped(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the first index that has the same key; the own one where there is none (0)."""
    _, first, member = np.unique(keys, return_index=True, return_inverse=True)
    return np.asarray(np.where(keys == 0, np.arange(len(keys)), first[member]), dtype=np.int64)


def selected(dataset: Dataset, chosen: Chosen) -> Iterator[tuple[int, Row, Label]]:
    """Yield the rows of an export with their positions."""
    for position, (row, label) in enumerate(dataset.rows()):
        if chosen.split[position] >= 0:
            yield position, row, label
