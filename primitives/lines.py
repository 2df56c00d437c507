"""Texts as rows of numbers and bytes: lines of any length in columns of a fixed width, nothing cut off.

A text is written into as many rows as it takes, each holding up to 48 bytes of UTF-8 that end where a character ends.
Primitives that give text use these columns, so that labeling functions can read it: an item's text is its lines, joined
by line ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from manyeyes.primitives.base import Features, Rows

WIDTH: Final = 48
TEXT_COLUMN: Final = ("text", f"S{WIDTH}")
LINE_COLUMN: Final = ("line", "<u2")
MAX_LINES: Final = 65_535


def pieces(text: str) -> list[bytes]:
    """Return a text as UTF-8 in pieces of at most 48 bytes, of whole characters each; no piece where it is empty.

    NUL, which a column of bytes cannot end with, becomes a blank.

    >>> [len(piece) for piece in pieces("é" * 30)]
    [48, 12]
    """
    data = text.replace("\0", " ").encode("utf-8", "replace")
    cut = []
    start = 0
    while start < len(data):
        end = min(start + WIDTH, len(data))
        while end < len(data) and data[end] & 0b1100_0000 == 0b1000_0000:  # inside a character
            end -= 1
        cut.append(data[start:end])
        start = end
    return cut


def rows_of_lines(lines: Sequence[str], dtype: np.dtype[np.void]) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Return rows of a dtype with LINE_COLUMN and TEXT_COLUMN filled in, and the line that each row belongs to.

    Raises ValueError if there are more lines than the column can count.
    """
    if len(lines) > MAX_LINES:
        raise ValueError(f"{len(lines)} lines; at most {MAX_LINES} fit")
    cut = [pieces(line) or [b""] for line in lines]
    owner = np.repeat(np.arange(len(lines)), [len(some) for some in cut]).astype(np.int64)
    rows = np.zeros(len(owner), dtype=dtype)
    rows["line"] = owner
    rows["text"] = [piece for some in cut for piece in some]
    return rows, owner


def joined(rows: Rows) -> list[str]:
    """Return the lines that some rows of one item hold, in order."""
    lines: list[list[bytes]] = []
    last = -1
    for line, piece in zip(rows["line"].tolist(), rows["text"].tolist(), strict=True):
        if line != last:
            lines.append([])
            last = line
        lines[-1].append(piece)
    return [b"".join(line).decode("utf-8", "replace") for line in lines]


def texts_in(block: Features) -> list[str | None]:
    """Return the text of every item; "" where none was found, None where there was nothing to look at."""
    return [
        None if rows is None else "\n".join(joined(rows)) if len(rows) else "" for rows in _of_items(block)
    ]


def _of_items(block: Features) -> Iterator[Rows | None]:
    assert block.offsets is not None
    bounds = block.offsets.tolist()
    for i, present in enumerate(block.present.tolist()):
        yield block.rows[bounds[i] : bounds[i + 1]] if present else None
