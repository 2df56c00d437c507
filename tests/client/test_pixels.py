"""Arrays of pixels, bit for bit."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from manyeyes import Item
from manyeyes.client.items import fill_form
from manyeyes.client.pixels import png_bytes
from manyeyes.errors import EmptyItem, ImageTooLarge, InvalidItem, ManyeyesError

_SHAPES = st.tuples(st.integers(1, 20), st.integers(1, 20)).flatmap(
    lambda side: st.sampled_from([side, (*side, 1), (*side, 2), (*side, 3), (*side, 4)])
)


@given(hnp.arrays(np.uint8, _SHAPES), st.booleans(), st.booleans())
def test_every_pixel_arrives(pixels: Any, flip: bool, transpose: bool) -> None:
    pixels = pixels[:, ::-1] if flip else pixels  # no copy: the memory runs backwards
    pixels = pixels.swapaxes(0, 1) if transpose else pixels
    with Image.open(io.BytesIO(png_bytes(pixels))) as back:
        assert back.format == "PNG"
        back.load()
        told = np.asarray(back)
    assert np.array_equal(told, pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


@pytest.mark.parametrize(
    ("wrong", "error", "hint"),
    [
        (np.zeros((2, 2, 3), np.float32), InvalidItem, r"\(array \* 255\)"),
        (np.zeros((2, 2), bool), InvalidItem, "uint8, got bool"),
        (np.zeros((3, 20, 20), np.uint8), InvalidItem, "transpose"),
        (np.zeros((5, 20, 20, 3), np.uint8), InvalidItem, "one by one"),
        (np.zeros(4, np.uint8), InvalidItem, "shape"),
        (np.zeros((0, 4, 3), np.uint8), EmptyItem, "none"),
        (np.broadcast_to(np.uint8(0), (100_000, 100_000)), ImageTooLarge, "smaller"),
    ],
)
def test_what_is_no_image_is_one_error_row(wrong: Any, error: type[ManyeyesError], hint: str) -> None:
    form = fill_form([wrong, np.zeros((2, 2), np.uint8)])
    assert len(form.files) == 1
    assert type(form.unsent[0].error) is error
    with pytest.raises(error, match=hint):
        raise form.unsent[0].error  # type: ignore[misc]


def test_arrays_stand_wherever_an_image_does() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    form = fill_form([pixels, Item("i", image=pixels, text="t"), {"id": "m", "image": pixels}])
    assert form.files == [png_bytes(pixels)] * 3
