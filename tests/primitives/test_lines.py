"""Texts of any length in rows of a fixed width: what goes in comes out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.primitives.base import Features
from manyeyes.primitives.lines import (
    LINE_COLUMN,
    MAX_LINES,
    TEXT_COLUMN,
    WIDTH,
    joined,
    pieces,
    rows_of_lines,
    texts_in,
)

DTYPE = np.dtype([LINE_COLUMN, TEXT_COLUMN, ("score", "<f4")])
LINES = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200))


@given(LINES)
def test_lines_survive_the_rows_and_their_bytes(lines: list[str]) -> None:
    rows, owner = rows_of_lines(lines, DTYPE)
    assert joined(np.frombuffer(rows.tobytes(), dtype=DTYPE)) == lines
    assert (np.diff(owner) >= 0).all() and set(owner.tolist()) == set(range(len(lines)))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_every_piece_is_short_and_whole(text: str) -> None:
    cut = pieces(text)
    assert all(0 < len(piece) <= WIDTH for piece in cut)
    assert "".join(piece.decode() for piece in cut) == text.replace("\0", " ")


def test_half_a_surrogate_pair_does_not_stop_a_page() -> None:
    assert joined(rows_of_lines(["a\ud800b"], DTYPE)[0]) == ["a?b"]


def test_too_many_lines_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 65535"):
        rows_of_lines([""] * (MAX_LINES + 1), DTYPE)


def test_texts_of_items() -> None:
    pages = [["one", "two" * 40], [], ["three"]]
    parts = [rows_of_lines(page, DTYPE)[0] for page in pages]
    block = Features(
        rows=np.concatenate([*parts[:2], parts[2]]),
        present=np.array([True, True, False, True]),
        offsets=np.cumsum([0, len(parts[0]), len(parts[1]), 0, len(parts[2])]),
    )
    assert texts_in(block) == ["one\n" + "two" * 40, "", None, "three"]
