"""Primitives that read image and text together, and what a primitive may say in place of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manyeyes.errors import InvalidItem, PrimitiveFailed
from manyeyes.primitives.base import DecodedImage, Rows
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.toy import ToySpec, build
from manyeyes.types import Item

DTYPE = np.dtype([("red", "<i4"), ("length", "<i4")])


class Both:
    """The first pixel's red and the text's length."""

    name = "both"
    version = "both 1"
    modality = "pair"
    dtype = DTYPE
    ragged = False
    batch_size = 3

    def __init__(self) -> None:
        self.batches: list[int] = []

    @property
    def info(self) -> Mapping[str, Any]:
        return {}

    def setup(self) -> None: ...

    def compute(self, batch: Sequence[tuple[DecodedImage, str]]) -> list[Any]:
        self.batches.append(len(batch))
        return [self._row(image, text) for image, text in batch]

    def _row(self, image: DecodedImage, text: str) -> Rows | InvalidItem | None:
        if text == "busy":
            return None
        if text == "wrong":
            return InvalidItem("this pair is wrong")
        red = image.pixels.getpixel((0, 0))[0]  # type: ignore[index]
        return np.array([(red, len(text))], dtype=DTYPE)


class Prepared(Both):
    """The same, reduced on the decoding threads."""

    def prepare(self, pair: tuple[DecodedImage, str]) -> tuple[DecodedImage, str]:
        if pair[1] == "cannot":
            raise ZeroDivisionError("by itself")
        return pair


@pytest.fixture(params=[Both, Prepared])
def both(request: pytest.FixtureRequest) -> Both:
    made: Both = request.param()
    return made


def items(png: Callable[..., bytes]) -> list[Item]:
    return [
        Item("0", image=png("red"), text="one"),
        Item("1", image=png("red")),
        Item("2", text="only text"),
        Item("3", image=png("red"), text="three"),
        Item("4", image=png("blue"), text="three"),
        Item("5", image=b"broken", text="three"),
        Item("6", image=png("red"), text="one"),
    ]


@pytest.mark.parametrize("with_cache", [True, False])
def test_a_pair_is_both_halves(
    both: Both, png: Callable[..., bytes], tmp_path: Path, with_cache: bool
) -> None:
    cache = Cache(tmp_path / "cache") if with_cache else None
    extractor = Extractor({"both": both}, cache=cache)
    found = extractor.extract(items(png), ["both"])
    assert found["both"].present.tolist() == [True, False, False, True, True, False, True]
    assert found["both"].rows[[0, 3, 4, 6]].tolist() == [(255, 3), (255, 5), (0, 5), (255, 3)]
    assert list(found.errors) == [5]
    assert sum(both.batches) == 3
    again = Extractor({"both": both}, cache=cache).extract(items(png), ["both"])
    assert again["both"].rows.tobytes() == found["both"].rows.tobytes()
    assert sum(both.batches) == (3 if with_cache else 6)


def test_pairs_stand_beside_halves(both: Both, png: Callable[..., bytes], cache: Cache) -> None:
    toys = build("toy", ToySpec(kind="toy"))
    extractor = Extractor({**toys, "both": both}, cache=cache)
    for _ in range(2):
        found = extractor.extract(items(png), ["toy", "both", "toy.text"])
        assert found["toy"].present.tolist() == [True, True, False, True, True, False, True]
        assert found["toy.text"].present.tolist() == [True, False, True, True, True, False, True]
        assert found["both"].present.tolist() == [True, False, False, True, True, False, True]
        assert list(found.errors) == [5]


def test_files_and_their_errors(both: Both, png: Callable[..., bytes], cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("red"))
    (tmp_path / "b.png").write_bytes(png("red")[:60])
    given = [Item(name, image=tmp_path / name, text="xy") for name in ("a.png", "b.png", "c.png")]
    for _ in range(2):
        found = Extractor({"both": both}, cache=cache).extract(given, ["both"])
        assert found["both"].rows[0].tolist() == (255, 2)
        assert {i: error.code for i, error in found.errors.items()} == {
            1: "undecodable_image",
            2: "unreadable_item",
        }
    assert sum(both.batches) == 1


def test_an_outcome_that_is_no_row_is_tried_again(
    both: Both, png: Callable[..., bytes], cache: Cache
) -> None:
    given = [Item(text, image=png("red"), text=text) for text in ("fine", "busy", "wrong", "fine too")]
    for n_tried in (4, 6):
        found = Extractor({"both": both}, cache=cache).extract(given, ["both"])
        assert found["both"].present.tolist() == [True, False, False, True]
        assert {i: str(error) for i, error in found.errors.items()} == {2: "this pair is wrong"}
        assert sum(both.batches) == n_tried


def test_what_fails_in_preparing_is_that_items_error(png: Callable[..., bytes]) -> None:
    given = [Item(text, image=png("red"), text=text) for text in ("fine", "cannot")]
    found = Extractor({"both": Prepared()}).extract(given, ["both"])
    assert isinstance(found.errors[1], PrimitiveFailed)
    assert found["both"].present.tolist() == [True, False]


def test_a_primitive_says_its_own_batch_size(png: Callable[..., bytes]) -> None:
    both = Both()
    given = [Item(str(i), image=png("red"), text="x" * (i + 1)) for i in range(7)]
    Extractor({"both": both}, batch_size=32).extract(given, ["both"])
    assert both.batches == [3, 3, 1]
