"""A primitive whose vectors one can check by hand: colours of words and of pixels, in one space of red, green, blue.

For tests, and for trying labeling functions where nothing should have to be loaded. It behaves like a CLIP: ``toy``
sees images, ``toy.text`` sees texts, prompts are encoded as texts, and every vector has length 1.

* A text is the sum of the colours it names: "red" is (1, 0, 0), "red and blue" is (1, 0, 1) / √2.
* An image is its mean colour: a plain red one is (1, 0, 0), a grey one (1, 1, 1) / √3.
* What has no colour — no colour word, or a black image — is (1, 1, 1) / √3.

>>> toy = build("toy", ToySpec(kind="toy"))["toy.text"]
>>> toy.compute(["A red, red and green thing", "nothing"])[0]["embedding"].round(3).tolist()
[[0.894, 0.447, 0.0]]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, Literal

import numpy as np
import numpy.typing as npt

from manyeyes.primitives.base import DecodedImage, Modality, Primitive, PrimitiveKind, PrimitiveSpec, Rows

COLORS: Final[dict[str, tuple[int, int, int]]] = {
    "red": (1, 0, 0),
    "green": (0, 1, 0),
    "blue": (0, 0, 1),
    "yellow": (1, 1, 0),
    "cyan": (0, 1, 1),
    "magenta": (1, 0, 1),
    "white": (1, 1, 1),
}
"""Every word that the toy knows, and what it adds to a text's vector."""

DTYPE: Final = np.dtype([("embedding", "<f4", (3,))])
LOGIT_SCALE: Final = 10.0


class ToySpec(PrimitiveSpec):
    """A toy; there is one model, "colors"."""

    model: Literal["colors"] = "colors"


class _Toy:
    """What both halves share. batches: how many times `compute` was called."""

    modality: ClassVar[Modality]
    dtype = DTYPE
    ragged = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.batches = 0

    @property
    def version(self) -> str:
        return f"toy/colors/{self.modality} 1"

    @property
    def info(self) -> Mapping[str, Any]:
        return {"dim": 3, "logit_scale": LOGIT_SCALE}

    def setup(self) -> None:
        """There is nothing to load."""

    def _row(self, vector: npt.NDArray[np.float64]) -> Rows:
        if not vector.any():
            vector = np.ones(3)
        row = np.zeros(1, dtype=DTYPE)
        row["embedding"] = vector / np.linalg.norm(vector)
        return row


class ToyText(_Toy):
    """Colour words, counted: float32, shape (3,), of length 1."""

    modality = "text"

    def compute(self, batch: Sequence[str]) -> list[Rows]:
        self.batches += 1
        return [self._row(self._count(text)) for text in batch]

    def _count(self, text: str) -> npt.NDArray[np.float64]:
        vector = np.zeros(3)
        for word in re.findall(r"[a-z]+", text.lower()):
            vector += COLORS.get(word, (0, 0, 0))
        return vector


class ToyImage(_Toy):
    """The mean colour: float32, shape (3,), of length 1."""

    modality = "image"

    def compute(self, batch: Sequence[DecodedImage]) -> list[Rows]:
        self.batches += 1
        return [self._row(np.asarray(image.pixels).mean(axis=(0, 1), dtype=np.float64)) for image in batch]


def build(name: str, _spec: ToySpec) -> Mapping[str, Primitive]:
    """Return ``{name: images, f"{name}.text": texts}``."""
    return {name: ToyImage(name), f"{name}.text": ToyText(f"{name}.text")}


KIND: Final = PrimitiveKind(Spec=ToySpec, build=build)
