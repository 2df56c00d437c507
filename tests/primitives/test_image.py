"""Facts about images that one can check by looking."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from manyeyes.primitives.base import DecodedImage
from manyeyes.primitives.image import DTYPE, PALETTE, ImageFacts, describe, dominant_color, perceptual_hash
from manyeyes.primitives.images import decode_image


def facts(image: Image.Image | bytes) -> dict[str, object]:
    row = describe(decode_image(image))
    return {name: row[name][0].item() for name in row.dtype.names or ()}


def test_size_and_light() -> None:
    row = facts(Image.new("RGB", (300, 100), (128, 128, 128)))
    assert (row["width"], row["height"], row["aspect"]) == (300, 100, 3.0)
    assert row["brightness"] == pytest.approx(128 / 255, abs=1e-3)
    assert row["sharpness"] == 0
    assert row["format"] == ""
    assert facts(Image.new("RGB", (5, 5), "white"))["brightness"] == 1
    assert facts(Image.new("RGB", (5, 5), "black"))["brightness"] == 0


@pytest.mark.parametrize("name", PALETTE)
def test_a_color_is_its_own_name(name: str) -> None:
    row = facts(Image.new("RGB", (20, 20), PALETTE[name]))
    assert (row["color"], row["red"], row["green"], row["blue"]) == (name, *PALETTE[name])


def test_the_most_frequent_color_wins() -> None:
    image = Image.new("RGB", (90, 60), (230, 20, 40))
    image.paste((10, 10, 200), (0, 0, 30, 60))
    assert dominant_color(image) == ("red", (230, 20, 40))


def test_blur_lowers_sharpness(astronaut: DecodedImage) -> None:
    sharp = astronaut.pixels
    values = [
        facts(sharp.filter(ImageFilter.GaussianBlur(radius)))["sharpness"] for radius in (0, 1, 2, 4, 8)
    ]
    assert values == sorted(values, reverse=True)
    assert values[0] > 0.003 > 0.0005 > values[3]  # type: ignore[operator]


def test_sharpness_does_not_depend_on_the_cameras_pixels(astronaut: DecodedImage) -> None:
    large = astronaut.pixels.resize((2048, 2048), Image.Resampling.BICUBIC)
    assert facts(large)["sharpness"] == pytest.approx(facts(astronaut.pixels)["sharpness"], rel=0.5)


def test_the_hash_is_the_published_one() -> None:
    """By hand: left half white has positive horizontal frequencies where the cosine is positive on the left."""
    image = Image.new("L", (32, 32))
    image.paste(255, (0, 0, 16, 32))
    top_row = perceptual_hash(image) >> 56
    # cos(pi k (2x+1) / 64) summed over the left half has the sign of sin(pi k / 2): k = 1, 5 up, 3, 7 down, even 0.
    assert [top_row >> (7 - k) & 1 for k in (0, 1, 3, 5, 7)] == [1, 1, 0, 1, 0]


def test_similar_images_have_similar_hashes(
    astronaut: DecodedImage, noise: Callable[..., np.ndarray]
) -> None:
    def distance(left: Image.Image, right: Image.Image) -> int:
        return (perceptual_hash(left.convert("L")) ^ perceptual_hash(right.convert("L"))).bit_count()

    photo = astronaut.pixels
    stream = io.BytesIO()
    photo.resize((200, 200)).save(stream, "JPEG", quality=40)
    assert distance(photo, Image.open(stream)) <= 6
    assert distance(photo, photo.point(lambda value: min(255, int(value * 1.2)))) <= 8
    assert distance(photo, Image.fromarray(noise(512, 512))) > 16
    assert distance(photo, photo.transpose(Image.Transpose.ROTATE_90)) > 16


def test_what_the_file_says(png: Callable[..., bytes]) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    exif.get_ifd(0x8769)[0x8827] = 200
    stream = io.BytesIO()
    Image.new("RGB", (40, 20), "blue").save(stream, "JPEG", exif=exif)
    row = facts(stream.getvalue())
    assert (row["format"], row["width"], row["height"], row["orientation"]) == ("JPEG", 20, 40, 6)
    assert (row["camera_make"], row["camera_model"], row["taken_at"], row["iso"]) == ("Maker", "", "", 200)
    assert np.isnan(row["latitude"])  # type: ignore[call-overload]
    assert facts(png(0))["format"] == "PNG"


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (2, 2), (3000, 1)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    row = facts(Image.new("RGB", size, "green"))
    assert (row["width"], row["height"]) == size
    assert row["color"] == "green"


def test_columns_are_published() -> None:
    info = ImageFacts("image").info
    assert info["columns"] == list(DTYPE.names or ())
    # The names are variables in expressions.
    assert all(name.isidentifier() for name in info["columns"])
    assert all(DTYPE[name].shape == () for name in info["columns"])
