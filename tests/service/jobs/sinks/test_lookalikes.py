"""Copies of photographs are found: other sizes, qualities and light, cropped by a little, and all of it at once."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from manyeyes.primitives.duplicates import _united
from manyeyes.service.jobs.sinks import lookalikes as module
from manyeyes.service.jobs.sinks.lookalikes import components, joined, rows_alike
from tests.service.jobs.sinks.conftest import jpeg


def cropped(image: Image.Image, by: float, x: float = 0.5, y: float = 0.5) -> Image.Image:
    width, height = image.size
    w, h = round(width * (1 - by)), round(height * (1 - by))
    left, top = round((width - w) * x), round((height - h) * y)
    return image.crop((left, top, left + w, top + h))


def copies(image: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Yield an image as others would have it."""
    width, height = image.size
    yield "half", jpeg(image.resize((max(1, width // 2), max(1, height // 2))))
    yield "larger", jpeg(image.resize((width * 3 // 2, height * 3 // 2)))
    yield "squeezed", jpeg(image.resize((width, max(1, height * 9 // 10))))
    yield "worse", jpeg(image, quality=30)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    yield "png", stream.getvalue()
    yield "lighter", jpeg(ImageEnhance.Brightness(image).enhance(1.3))
    yield "darker", jpeg(ImageEnhance.Brightness(image).enhance(0.7))
    yield "contrast", jpeg(ImageEnhance.Contrast(image).enhance(1.2))
    for by in (0.03, 0.05, 0.08, 0.10):
        yield f"cropped {by}", jpeg(cropped(image, by))
    yield "cropped in a corner", jpeg(cropped(image, 0.05, 0, 1))
    small = cropped(image, 0.05).resize((width * 2 // 3, height * 2 // 3))
    yield "all at once", jpeg(ImageEnhance.Brightness(small).enhance(1.15), quality=60)


def photographs(folder: Path, n: int) -> list[bytes]:
    paths = sorted(folder.rglob("*.jpg"))[:: max(1, 256 // n)][:n]
    return [path.read_bytes() for path in paths]


@pytest.fixture(scope="module")
def planted(coco128: Path) -> tuple[list[bytes], list[int], list[str]]:
    """Return photographs with copies behind them, whose each is, and how it was made."""
    data = photographs(coco128, 64)
    owner, how = list(range(len(data))), [""] * len(data)
    for i, original in enumerate(data[:24]):
        for told, copy in copies(Image.open(io.BytesIO(original)).convert("RGB")):
            data.append(copy)
            owner.append(i)
            how.append(told)
    return data, owner, how


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_every_copy_is_found_and_nothing_else(
    planted: Any, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exact:
        monkeypatch.setattr(module, "_EXACT_UP_TO", 100)
    data, owner, how = planted
    groups = rows_alike(iter(enumerate(data)), len(data), most=1000)
    lost = [how[i] for i in range(len(data)) if groups[i] != owner[i]]
    assert lost == []


def test_plain_surfaces_and_what_is_no_image_stand_alone_but_equal_bytes_do_not() -> None:
    plain = [jpeg(Image.new("RGB", (60, 40), colour)) for colour in ("white", "gray", "black", "white")]
    data = [*plain, b"no image", b"no image either"]
    assert rows_alike(iter(enumerate(data)), len(data) + 1, most=10).tolist() == [0, 1, 2, 0, 4, 5, 6]
    assert rows_alike(iter(()), 0, most=10).tolist() == []


def test_in_a_group_that_is_too_large_only_what_agrees_very_well_counts(
    coco128: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = photographs(coco128, 8)
    data += [jpeg(Image.open(io.BytesIO(one)).convert("RGB"), 60) for one in data]
    monkeypatch.setattr(module, "CORRELATION", -1.0)
    monkeypatch.setattr(module, "HASH_BITS", 64)
    everything = rows_alike(iter(enumerate(data)), 16, most=16)
    assert everything.tolist() == [0] * 16
    assert rows_alike(iter(enumerate(data)), 16, most=15).tolist() == [*range(8), *range(8)]


def test_thumbnails_of_many_rows_are_not_held_in_memory() -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with module.Thumbnails(2_000_000) as thumbnails:
        assert thumbnails.pixels.shape == (2_000_000, 40, 40)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_groups_are_connected_components(pairs: list[tuple[int, int]]) -> None:
    told = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    assert components(told, 30).tolist() == _united(told, 30).tolist()
    halves = components(told[::2], 30), components(told[1::2], 30)
    assert joined(*halves).tolist() == _united(told, 30).tolist()
