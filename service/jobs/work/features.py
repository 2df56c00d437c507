"""The features of a shard, row by row: what is known already, what was computed now, and what nobody knows yet.

A job keeps them so that an edited recipe needs neither the images nor the models again. All of it is arrays: a shard of
some thousand rows is merged and handed on without a loop over its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from manyeyes.errors import EmptyItem, ItemError, UndecodableImage, UnsupportedFormat, by_code
from manyeyes.primitives.base import Features, FeatureSet
from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.features import Layout
from manyeyes.primitives.naming import parts, source_feature, split
from manyeyes.primitives.texts import texts_of

UNKNOWN: Final = 0
"""Nobody looked at the row yet, or what went wrong may go right the next time."""
PRESENT: Final = 1
ABSENT: Final = 2
"""The row has nothing that the primitive reads."""
BROKEN: Final = 3
"""The bytes of the row cannot be read, however often one tries."""

_LASTING: Final = (EmptyItem, UndecodableImage, UnsupportedFormat)

Positions = npt.NDArray[np.int64]


def error_of(code: str, message: str) -> ItemError:
    """Return the error of a row from what a file says of it."""
    kind = by_code().get(code, ItemError)
    return kind(message) if issubclass(kind, ItemError) else ItemError(message)


def feature_key(feature: str, versions: Mapping[str, str]) -> str:
    """Return what stored features go by: the primitive's version, and which text it reads where that is not the item's.

    >>> feature_key("text@filename", {"text@filename": "minilm 1"})
    'minilm 1 of filename'
    """
    _, source = split(feature)
    told = "" if source is None or source_feature(source) is not None else f" of {source}"
    return versions[feature] + told


def reads_images(feature: str, extractor: Extractor) -> bool:
    """Return whether a feature takes the pixels of an item."""
    return any(extractor.primitives[part].modality != "text" for part in parts(feature))


def readable_in(feature: str, found: FeatureSet, extractor: Extractor) -> npt.NDArray[np.bool_]:
    """Return which items have what a feature reads: an image, a text, or both. Bool, shape (n_items,)."""
    name, source = split(feature)
    modality = extractor.primitives[name].modality
    texts = (
        [item.text for item in found.items] if source is None else texts_of(found.items, source, found.blocks)
    )
    has_text = np.array(
        [text is not None and not text.isspace() and text != "" for text in texts], dtype=np.bool_
    )
    has_image = np.array([item.image is not None for item in found.items], dtype=np.bool_)
    return {"image": has_image, "text": has_text, "pair": has_image & has_text}[modality]


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """One feature of a shard. layout: how its rows look.

    state: int8, shape (n_rows,); UNKNOWN, PRESENT, ABSENT or BROKEN. counts: int64, shape (n_rows,); rows of values
    that each owns: 1 where present, any number where the feature is ragged, else 0. values: structured, shape
    (counts.sum(),), in the order of the rows. errors: row → what is wrong with it, of every BROKEN one.
    """

    layout: Layout
    state: npt.NDArray[np.int8]
    counts: npt.NDArray[np.int64]
    values: npt.NDArray[np.void]
    errors: Mapping[int, ItemError] = field(default_factory=dict)

    @classmethod
    def empty(cls, layout: Layout, n_rows: int) -> FeatureRows:
        """Return a feature of which nothing is known."""
        return cls(
            layout,
            np.zeros(n_rows, dtype=np.int8),
            np.zeros(n_rows, dtype=np.int64),
            np.zeros(0, dtype=layout.dtype),
        )

    def with_seen(self, seen: Sequence[Seen]) -> FeatureRows:
        """Return the same with what was computed now; of a row that is known twice, the later counts."""
        if not seen:
            return self
        state, errors = self.state.copy(), dict(self.errors)
        # Every row's values lie somewhere in one long array; where they begin is all that has to be merged.
        pieces: list[npt.NDArray[np.void]] = [self.values]
        starts, counts, held = _starts(self.counts), self.counts.copy(), len(self.values)
        for one in seen:
            sizes = _sizes(one.block)
            values = one.block.rows if one.block.offsets is not None else one.block.rows[one.block.present]
            state[one.positions] = np.where(
                one.block.present, PRESENT, np.where(one.readable, UNKNOWN, ABSENT)
            )
            starts[one.positions], counts[one.positions] = held + _starts(sizes), sizes
            pieces.append(values)
            held += len(values)
            for row, error in one.errors.items():
                position = int(one.positions[row])
                lasting = one.of_images and isinstance(error, _LASTING)
                state[position], counts[position] = BROKEN if lasting else UNKNOWN, 0
                errors[position] = error
        values = np.concatenate(pieces)[_flat(starts, counts)]
        known = {row: error for row, error in sorted(errors.items()) if state[row] == BROKEN}
        return FeatureRows(self.layout, state, counts, values, known)

    def features(self, positions: Positions, absent: npt.NDArray[np.bool_]) -> Features:
        """Return the feature of some rows as labeling functions read it, the same as an extractor gives.

        absent: bool, shape (len(positions),); rows that shall have none, since something is wrong with them.
        """
        present = (self.state[positions] == PRESENT) & ~absent
        counts = np.where(present, self.counts[positions], 0)
        whole = len(positions) == len(self.state) and bool((counts == self.counts).all())
        in_order = whole and bool((positions == np.arange(len(positions))).all())
        values = self.values
        if not in_order:
            values = values[_flat(_starts(self.counts)[positions], counts)]
        offsets: npt.NDArray[np.int64] | None = None
        if self.layout.ragged:
            offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            offsets.flags.writeable = False
        elif not present.all():
            dense = np.zeros(len(positions), dtype=self.layout.dtype)
            dense[present] = values
            values = dense
        values.flags.writeable = present.flags.writeable = False
        return Features(rows=values, present=present, offsets=offsets, info=self.layout.info)


@dataclass(frozen=True, eq=False)
class Seen:
    """What an extractor gave for some rows. positions: where they stand in the shard. errors: as it told them.

    readable: bool, shape (len(positions),); whether there is what the feature reads: where it is absent all the same,
    nobody could look this time. of_images: whether it takes an image's pixels, so that it is the image's fault if these
    cannot be had.
    """

    positions: Positions
    block: Features
    errors: Mapping[int, ItemError]
    readable: npt.NDArray[np.bool_]
    of_images: bool


def layout_of(block: Features) -> Layout:
    """Return how the rows of a block look."""
    return Layout(block.rows.dtype, block.offsets is not None, dict(block.info))


def _sizes(block: Features) -> npt.NDArray[np.int64]:
    return block.present.astype(np.int64) if block.offsets is None else np.diff(block.offsets)


def _starts(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where each row's values begin: the counts of those before it."""
    ends = np.cumsum(counts)
    return np.asarray(ends - counts, dtype=np.int64)


def _flat(starts: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the indices of runs, one after the other.

    >>> _flat(np.array([4, 0]), np.array([2, 3])).tolist()
    [4, 5, 0, 1, 2]
    """
    offsets = np.repeat(starts - _starts(counts), counts)
    return np.asarray(offsets + np.arange(len(offsets)), dtype=np.int64)
