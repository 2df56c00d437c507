"""Plain facts about an image: its size, light, sharpness, colour, EXIF and perceptual hash. No model is involved.

Every column is a variable in the expressions of ``metadata`` LFs; ``info["columns"]`` lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from manyeyes.primitives.base import DecodedImage, Modality, Primitive, PrimitiveKind, PrimitiveSpec, Rows

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

DTYPE: Final = np.dtype(
    [
        ("width", "<i4"),  # pixels, upright
        ("height", "<i4"),
        ("aspect", "<f4"),  # width / height
        ("brightness", "<f4"),  # mean luma, 0 (black) to 1 (white)
        (
            "sharpness",
            "<f4",
        ),  # variance of the Laplacian of the luma (0 to 1), longer side reduced to 512 pixels
        ("color", "<U8"),  # the most frequent of the names in PALETTE
        ("red", "u1"),  # the mean colour of the pixels that have that name
        ("green", "u1"),
        ("blue", "u1"),
        ("phash", "<u8"),  # perceptual hash: similar images differ in few of the 64 bits
        ("format", "<U8"),  # JPEG, PNG, WEBP, GIF, BMP, TIFF, or empty for pixels without a file
        ("camera_make", "<U64"),  # EXIF from here on: empty text or NaN where the file does not say
        ("camera_model", "<U64"),
        ("taken_at", "<U19"),  # YYYY-MM-DDTHH:MM:SS
        ("orientation", "<f4"),  # as stored, 1 to 8; the pixels are upright already
        ("latitude", "<f8"),  # degrees, north positive
        ("longitude", "<f8"),  # degrees, east positive
        ("focal_length", "<f4"),  # mm
        ("exposure", "<f4"),  # seconds
        ("iso", "<f4"),
    ]
)
_EXIF_TEXTS: Final = ("camera_make", "camera_model", "taken_at")
_EXIF_NUMBERS: Final = ("orientation", "latitude", "longitude", "focal_length", "exposure", "iso")

PALETTE: Final[dict[str, tuple[int, int, int]]] = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "gray": (128, 128, 128),
    "red": (220, 30, 30),
    "orange": (250, 140, 20),
    "yellow": (250, 225, 50),
    "green": (50, 150, 50),
    "cyan": (60, 205, 205),
    "blue": (40, 70, 200),
    "purple": (130, 50, 160),
    "pink": (245, 150, 180),
    "brown": (120, 75, 40),
}
_VERSION: Final = "image/facts 1"
_SHARPNESS_SIDE: Final = 512
_COLOR_SIDE: Final = 32


class ImageSpec(PrimitiveSpec):
    """Facts about images; there is nothing to choose."""

    model: Literal["facts"] = "facts"


class ImageFacts:
    """One row of DTYPE an image."""

    version = _VERSION
    modality: Modality = "image"
    dtype = DTYPE
    ragged = False

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def info(self) -> Mapping[str, Any]:
        return {"columns": list(DTYPE.names or ()), "colors": list(PALETTE)}

    def setup(self) -> None:
        """There is nothing to load."""

    def prepare(self, decoded: DecodedImage) -> Rows:
        """Return the facts; on the decoding thread, where the pixels are."""
        return describe(decoded)

    def compute(self, batch: Sequence[DecodedImage | Rows]) -> list[Rows]:
        return [describe(image) if isinstance(image, DecodedImage) else image for image in batch]


def describe(image: DecodedImage) -> Rows:
    """Return the facts about one image: DTYPE, shape (1,)."""
    row = np.zeros(1, dtype=DTYPE)
    luma = image.pixels.convert("L")
    name, mean = dominant_color(image.pixels)
    row["width"], row["height"] = image.width, image.height
    row["aspect"] = image.width / image.height
    row["brightness"] = np.asarray(luma).mean(dtype=np.float64) / 255
    row["sharpness"] = sharpness(luma)
    row["color"] = name
    row["red"], row["green"], row["blue"] = mean
    row["phash"] = perceptual_hash(luma)
    row["format"] = image.format
    for column in _EXIF_TEXTS:
        row[column] = image.exif.get(column, "")
    for column in _EXIF_NUMBERS:
        row[column] = image.exif.get(column, np.nan)
    return row


def sharpness(luma: PILImage) -> float:
    """Return the variance of the 4-neighbour Laplacian of an 8-bit image, as fractions of white.

    The longer side is first reduced to 512 pixels, so that one threshold serves photos of all sizes. About 0.001 and
    below is blurred, 0.01 and above is sharp. 0 for an image with a side below 3.
    """
    from PIL import Image

    scale = _SHARPNESS_SIDE / max(luma.size)
    if scale < 1:
        size = (max(1, round(luma.width * scale)), max(1, round(luma.height * scale)))
        luma = luma.resize(size, Image.Resampling.BOX)
    if min(luma.size) < 3:
        return 0.0
    values = np.asarray(luma, dtype=np.float64) / 255
    centre = values[1:-1, 1:-1]
    laplacian = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:] - 4 * centre
    return float(laplacian.var())


def dominant_color(pixels: PILImage) -> tuple[str, tuple[int, int, int]]:
    """Return the name in PALETTE that most pixels are nearest to, and the mean colour of these pixels.

    Nearest is meant as the eye sees it: by distance in CIELAB, on the image reduced to 32 × 32 pixels.
    """
    from PIL import Image

    small = np.asarray(pixels.resize((_COLOR_SIDE, _COLOR_SIDE), Image.Resampling.BOX)).reshape(-1, 3)
    distances = ((_to_lab(small)[:, None, :] - _palette_lab()[None, :, :]) ** 2).sum(axis=2)
    nearest = distances.argmin(axis=1)
    winner = int(np.bincount(nearest, minlength=len(PALETTE)).argmax())
    red, green, blue = np.rint(small[nearest == winner].mean(axis=0)).astype(int).tolist()
    return list(PALETTE)[winner], (red, green, blue)


def perceptual_hash(luma: PILImage) -> int:
    """Return 64 bits, most significant first: is each of the 8 × 8 lowest frequencies above their median?

    The frequencies are the two-dimensional DCT-II of the image at 32 × 32 pixels, row by row.
    Source: the "pHash" of Zauner, Implementation and benchmarking of perceptual image hash functions, 2010.
    """
    from PIL import Image

    values = np.asarray(luma.resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    low = _dct_rows() @ values @ _dct_rows().T
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


@lru_cache(maxsize=1)
def _dct_rows() -> npt.NDArray[np.float64]:
    """Return the first 8 basis vectors of the DCT-II of length 32: float64, shape (8, 32)."""
    frequency, position = np.arange(8)[:, None], np.arange(32)[None, :]
    return np.asarray(2 * np.cos(np.pi * frequency * (2 * position + 1) / 64))


@lru_cache(maxsize=1)
def _palette_lab() -> npt.NDArray[np.float64]:
    return _to_lab(np.array(list(PALETTE.values()), dtype=np.uint8))


def _to_lab(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return sRGB colours in CIELAB under D65: float64, shape (n, 3). Source: IEC 61966-2-1 and CIE 15."""
    linear = rgb / 255.0
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / to_xyz.sum(axis=1)
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f[:, 0], f[:, 1], f[:, 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def build(name: str, _spec: ImageSpec) -> Mapping[str, Primitive]:
    """Return ``{name: facts}``."""
    return {name: ImageFacts(name)}


KIND: Final = PrimitiveKind(Spec=ImageSpec, build=build)
