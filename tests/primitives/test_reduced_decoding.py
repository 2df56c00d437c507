"""JPEGs are decoded no further than their readers need, and what one reader gets depends on its own need alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from manyeyes.primitives import reading
from manyeyes.primitives.base import DecodedImage, Rows
from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.images import decode_image, reduction_of
from manyeyes.primitives.toy import ToyImage
from manyeyes.types import Item


def encoded(width: int, height: int, kind: str = "JPEG", mode: str = "RGB", **options: Any) -> bytes:
    """A smooth picture, which every reduction shows alike."""
    y, x = np.mgrid[:height, :width]
    channels = [x * 255 / max(1, width - 1), y * 255 / max(1, height - 1), np.full((height, width), 60.0)]
    stream = io.BytesIO()
    Image.fromarray(np.stack(channels, axis=2).astype(np.uint8)).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


@settings(max_examples=30, deadline=None)
@given(width=st.integers(1, 700), height=st.integers(1, 700), least=st.integers(1, 400))
def test_a_jpeg_is_reduced_as_far_as_it_may_be(width: int, height: int, least: int) -> None:
    decoded = decode_image(encoded(width, height), least_side=least)
    assert (decoded.width, decoded.height) == (width, height)
    shorter = min(decoded.pixels.size)
    factor = reduction_of(decoded, least)
    assert factor in (1, 2, 4, 8)
    assert decoded.pixels.size == (-(-width // factor), -(-height // factor))
    assert factor == 1 or shorter >= least
    assert factor == 8 or min(width, height) // (2 * factor) < least


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_it_shows_the_same(mode: str, options: dict[str, Any]) -> None:
    data = encoded(801, 603, mode=mode, quality=95, **options)
    whole, part = decode_image(data), decode_image(data, least_side=150)
    assert whole.pixels.size == (801, 603)
    assert part.pixels.size == (201, 151)
    assert part.pixels.mode == "RGB"
    small = np.asarray(whole.pixels.resize(part.pixels.size, Image.Resampling.BOX), dtype=float)
    assert np.abs(small - np.asarray(part.pixels, dtype=float)).mean() < 3


@pytest.mark.parametrize(("orientation", "wanted"), [(1, (640, 480)), (3, (640, 480)), (6, (480, 640))])
def test_it_stands_upright(orientation: int, wanted: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(640, 480, exif=exif)
    decoded = decode_image(data, least_side=100)
    assert (decoded.width, decoded.height) == wanted
    assert decoded.pixels.size == (wanted[0] // 4, wanted[1] // 4)
    assert decoded.exif == decode_image(data).exif


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_other_formats_are_decoded_whole(kind: str) -> None:
    data = encoded(400, 300, kind)
    whole, part = decode_image(data), decode_image(data, least_side=10)
    assert part.pixels.tobytes() == whole.pixels.tobytes()
    assert (part.width, part.height, part.format) == (400, 300, kind)


def test_a_cut_jpeg_is_an_error_all_the_same() -> None:
    from manyeyes.errors import UndecodableImage

    with pytest.raises(UndecodableImage):
        decode_image(encoded(800, 600)[:-300], least_side=50)


class Needing(ToyImage):
    """A toy that needs only so much of an image, and remembers what it got."""

    def __init__(self, name: str, side: int | None) -> None:
        super().__init__(name)
        self.side = side
        self.sizes: list[tuple[int, int]] = []

    @property
    def version(self) -> str:
        return f"needing/{self.side}"

    def least_side(self) -> int | None:
        return self.side

    def compute(self, batch: Sequence[DecodedImage]) -> list[Rows]:
        self.sizes += [image.pixels.size for image in batch]
        return super().compute(batch)


def test_company_changes_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    decodings: list[int | None] = []
    original = reading.decode_image

    def counting(*arguments: Any, least_side: int | None) -> DecodedImage:
        decodings.append(least_side)
        return original(*arguments, least_side=least_side)

    monkeypatch.setattr(reading, "decode_image", counting)
    data = encoded(800, 600)

    def extracted(
        *sides: int | None, content: bytes = data
    ) -> tuple[dict[str, bytes], list[tuple[int, int]]]:
        decodings.clear()
        needing = {f"side_{side}": Needing(f"side_{side}", side) for side in sides}
        blocks = Extractor(dict(needing)).extract([Item("a", image=content)], list(needing)).blocks
        return (
            {name: block.rows.tobytes() for name, block in blocks.items()},
            [size for primitive in needing.values() for size in primitive.sizes],
        )

    alone = {side: extracted(side) for side in (None, 60, 70, 140, 500)}
    assert [alone[side][1] for side in alone] == [
        [(800, 600)], [(100, 75)], [(100, 75)], [(200, 150)], [(800, 600)],
    ]  # fmt: skip
    together, sizes = extracted(60, 500, 140, None, 70)
    assert together == {f"side_{side}": alone[side][0][f"side_{side}"] for side in alone}
    assert sizes == [(100, 75), (800, 600), (200, 150), (800, 600), (100, 75)]
    assert len(decodings) == 3  # once for each size, however many need it
    # What is not reduced is decoded once, whatever the needs are.
    extracted(60, 500, 140, None, content=encoded(800, 600, "PNG"))
    assert len(decodings) == 1
    extracted(60, None, content=encoded(100, 80))
    assert len(decodings) == 1


@pytest.mark.slow
def test_image_facts_in_the_recipe_leave_embeddings_as_they_are(astronaut: DecodedImage) -> None:
    from manyeyes.primitives.clip import ClipSpec
    from manyeyes.primitives.image import ImageSpec

    stream = io.BytesIO()
    astronaut.pixels.resize((1500, 1000)).save(stream, "JPEG", quality=90)
    items = [Item("a", image=stream.getvalue())]
    specs = {"clip": ClipSpec(kind="clip"), "image": ImageSpec(kind="image")}
    rows = [
        Extractor.for_specs(specs).extract(items, needs)["clip"].rows.tobytes()
        for needs in (["clip"], ["image", "clip"], ["clip", "image"])
    ]
    assert len(set(rows)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4000, 3000), (2400, 1801), (1201, 900)])
def test_embeddings_of_reduced_photographs(
    shared_data: Path, size: tuple[int, int], noise: Callable[..., np.ndarray]
) -> None:
    """Real photographs, grain as a sensor leaves it on the large ones: the embedding stays."""
    from zipfile import ZipFile

    from manyeyes.primitives.clip import ClipImages, ClipSpec

    primitive = ClipImages("clip", ClipSpec(kind="clip"))
    primitive.setup()
    side = primitive.least_side()

    def photo(data: bytes, seed: int) -> bytes:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        large = image.resize(size if image.width > image.height else size[::-1], Image.Resampling.BICUBIC)
        grain = Image.fromarray(noise(*large.size, seed=seed))
        stream = io.BytesIO()
        Image.blend(large, grain, 0.05).save(stream, "JPEG", quality=90)
        return stream.getvalue()

    with ZipFile(shared_data / "coco128.zip") as source:
        names = [name for name in sorted(source.namelist()) if name.endswith(".jpg")][:12]
        photos = [photo(source.read(name), seed) for seed, name in enumerate(names)]
    vectors = []
    for least_side in (None, side):
        with ThreadPoolExecutor(2) as pool:
            decoded = list(
                pool.map(lambda data, least=least_side: decode_image(data, least_side=least), photos)
            )
        vectors.append(np.concatenate([row["embedding"] for row in primitive.compute(decoded)]))
    assert reduction_of(decoded[0], side) > 1
    assert (vectors[0] * vectors[1]).sum(axis=1).min() >= 0.99


@pytest.mark.parametrize("size", [(500, 375), (375, 500), (640, 480), (333, 333), (1200, 300), (230, 999)])
def test_the_centre_is_made_as_in_the_whole_but_for_rounding(size: tuple[int, int]) -> None:
    from manyeyes.models.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize

    from manyeyes.primitives.towers import _resize_centre

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    image = coarse.resize(size, Image.Resampling.BICUBIC)
    resize = Resize(224, interpolation=InterpolationMode.BICUBIC)
    whole = np.asarray(CenterCrop(224)(resize(image)), dtype=np.int16)
    difference = np.abs(whole - np.asarray(_resize_centre(image, 224, resize)))
    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.2
