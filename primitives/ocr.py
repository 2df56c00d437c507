"""Text in images, recognised by RapidOCR, whose models are in its wheel.

::

    primitives: {ocr: {kind: ocr, min_score: 0.6}}
    lfs:
      - {name: says_sale, kind: keyword, on: ocr, any: [sale, discount], vote: offer}

An image has any number of lines, each with its text, a box and a score. Every LF that reads texts can read them with
``on: ocr``: the lines from top to bottom, joined by line ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from manyeyes.primitives.base import (
    DecodedImage,
    Modality,
    Primitive,
    PrimitiveKind,
    PrimitiveSpec,
    Rows,
)
from manyeyes.primitives.lines import LINE_COLUMN, TEXT_COLUMN, rows_of_lines
from manyeyes.primitives.ocr_models import RecognisedLine, load_reader, reader_identity
from manyeyes.primitives.workers import ModelWorkers, shared_workers

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

DTYPE: Final = np.dtype(
    [
        LINE_COLUMN,  # rows of one line follow one another
        TEXT_COLUMN,
        ("score", "<f4"),  # mean confidence over the line's characters, 0 to 1
        ("box", "<f4", (4,)),  # x0, y0, x1, y1 around the line: pixels of the upright image
        ("fraction", "<f4", (4,)),  # the same as fractions of width and height
    ]
)
_PREPROCESSING: Final = 1
_FLATTEST: Final = 12
"""No image is given to the detector longer than so many times its height; blank is added."""
_SMALLEST: Final = 64


class OcrSpec(PrimitiveSpec):
    """How text is looked for.

    model: ``rapidocr``, the PP-OCR models that RapidOCR's wheel carries. min_score: lines that the recogniser is less
    sure of are left out. max_side: an image whose longer side has more pixels is reduced to it first. min_side: one
    whose shorter side has fewer is enlarged to it where lines are looked for: less is faster, more finds smaller and
    fainter ones.
    """

    model: Literal["rapidocr"] = "rapidocr"
    min_score: float = Field(default=0.5, ge=0.0, le=1.0)
    max_side: int = Field(default=2_000, ge=64, le=8_000)
    min_side: int = Field(default=512, ge=64, le=2_000)


class Ocr:
    """Lines of text in images: rows of DTYPE, one line after the other, each as many rows as its text takes."""

    modality: Modality = "image"
    dtype = DTYPE
    ragged = True
    gives_text = True
    side_by_side = 1

    def __init__(self, name: str, spec: OcrSpec) -> None:
        self.name = name
        self.spec = spec

    @cached_property
    def version(self) -> str:
        return (
            f"ocr/{reader_identity(self.spec.sha256)}/{self.spec.min_side}-{self.spec.max_side}"
            f"/{self.spec.min_score} {_PREPROCESSING}"
        )

    @property
    def info(self) -> Mapping[str, Any]:
        return {"model": self.spec.model, "gives": "text"}

    @property
    def _workers(self) -> ModelWorkers[Any]:
        def load() -> Any:
            reader_identity(self.spec.sha256)
            return load_reader(min_side=self.spec.min_side)

        return shared_workers(("ocr", self.spec.min_side, self.spec.sha256), load)

    def setup(self) -> None:
        """Load the models, once a process. Raises ModelNotFound, WeightsMismatch or MissingDependency."""
        self._workers.ask(lambda reader: None)

    def prepare(self, decoded: DecodedImage) -> _Page:
        """Return the pixels that are looked at; on the decoding thread, so that larger ones need not be kept."""
        return _Page.of(decoded, self.spec.max_side)

    def compute(self, batch: Sequence[DecodedImage | _Page]) -> list[Rows]:
        pages = [self.prepare(image) if isinstance(image, DecodedImage) else image for image in batch]

        def look(reader: Any, page: _Page) -> Rows:
            return page.rows([line for line in reader(page.pixels) if line.score >= self.spec.min_score])

        return self._workers.run(look, pages)


class _Page:
    """An image as the detector gets it.

    pixels: uint8, BGR, shape (height, width, 3). scale: pixels of the upright image for one of these, by axis.
    """

    def __init__(
        self, pixels: npt.NDArray[np.uint8], size: tuple[int, int], scale: tuple[float, float]
    ) -> None:
        self.pixels = pixels
        self._size = size
        self._scale = scale

    @classmethod
    def of(cls, decoded: DecodedImage, max_side: int) -> _Page:
        from PIL import Image

        image: PILImage = decoded.pixels.convert("RGB")
        reduction = max_side / max(image.size)
        if reduction < 1:
            size = (max(1, round(image.width * reduction)), max(1, round(image.height * reduction)))
            image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
        scale = (decoded.width / image.width, decoded.height / image.height)
        pixels = np.asarray(image)[:, :, ::-1]
        # The detector enlarges what is small: a thin strip would become enormous, so that blank is put beside it.
        least = max(_SMALLEST, -(-max(image.size) // _FLATTEST))
        missing = (max(0, least - image.height), max(0, least - image.width))
        if any(missing):
            pixels = np.pad(pixels, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
        return cls(np.ascontiguousarray(pixels), (decoded.width, decoded.height), scale)

    def rows(self, lines: Sequence[RecognisedLine]) -> Rows:
        rows, owner = rows_of_lines([line.text for line in lines], DTYPE)
        if not lines:
            return rows
        size = np.array([*self._size, *self._size], dtype=np.float32)
        corners = np.array([line.box for line in lines], dtype=np.float32) * np.array([*self._scale] * 2)
        boxes = np.clip(corners, 0, size).astype(np.float32)
        rows["score"] = np.array([line.score for line in lines], dtype=np.float32)[owner]
        rows["box"] = boxes[owner]
        rows["fraction"] = (boxes / size)[owner]
        return rows


def build(name: str, spec: OcrSpec) -> Mapping[str, Primitive]:
    """Return ``{name: lines of text}``."""
    return {name: Ocr(name, spec)}


KIND: Final = PrimitiveKind(Spec=OcrSpec, build=build)
