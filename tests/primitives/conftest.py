"""Inputs that several tests of primitives share."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyeyes.primitives.base import DecodedImage
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.images import decode_image


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Cache]:
    """A cache of its own, closed at the end."""
    cache = Cache(tmp_path / "feature-cache")
    yield cache
    cache.close()


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray]:
    """Make random pixels: uint8, shape (height, width, 3)."""

    def make(width: int = 64, height: int = 48, seed: int = 0) -> np.ndarray:
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture(scope="session")
def png(noise: Callable[..., np.ndarray]) -> Callable[..., bytes]:
    """Make the bytes of a PNG: a plain colour, or noise from a seed."""

    def make(content: str | int = 0, width: int = 64, height: int = 48) -> bytes:
        image = (
            Image.new("RGB", (width, height), content)
            if isinstance(content, str)
            else Image.fromarray(noise(width, height, seed=content))
        )
        stream = io.BytesIO()
        image.save(stream, "PNG")
        return stream.getvalue()

    return make


@pytest.fixture(scope="session")
def astronaut() -> DecodedImage:
    """A real photograph: a woman in an orange space suit, 512 × 512."""
    from skimage import data

    return decode_image(Image.fromarray(data.astronaut()))


@pytest.fixture(scope="session")
def photos(astronaut: DecodedImage, noise: Callable[..., np.ndarray]) -> list[DecodedImage]:
    """Images of many sizes: a photo, parts of it, noise, a line, a dot."""
    crops = [astronaut.pixels.crop((0, 0, 100 + 40 * i, 180)) for i in range(8)]
    others = [Image.fromarray(noise(200, 150, seed=i)) for i in range(3)]
    odd = [Image.new("RGB", (300, 2), "red"), Image.new("RGB", (1, 1), "white"), Image.new("L", (40, 90))]
    return [astronaut, *(decode_image(image) for image in [*crops, *others, *odd])]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Texts of many lengths and scripts."""
    return [
        "red", "a photo of a cat", "Ein Hut, rot und blau.", "猫の写真", "x", "!!!", "🙂", "tab\tand\nline",
        "the quick brown fox jumps over the lazy dog " * 2, "word " * 400, "é" * 100, "a" * 3000, "one two three",
    ]  # fmt: skip
