"""Finding and loading RapidOCR's models: a detector of text lines, one that turns them upright, and a recogniser.

They lie in RapidOCR's wheel and are named to it as files, so that it has nothing to download.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from manyeyes.errors import MissingDependency, ModelNotFound, WeightsMismatch
from manyeyes.models.weights import file_sha256

_PARTS: Final = {"Det": "_det_", "Cls": "_cls_", "Rec": "_rec_"}
_INSTALL: Final = "pip install 'manyeyes[ocr]'"


class RecognisedLine(NamedTuple):
    """A line of text. box: x0, y0, x1, y1 around it, in pixels of what was looked at."""

    text: str
    score: float
    box: tuple[float, float, float, float]


Reader: TypeAlias = Callable[[npt.NDArray[np.uint8]], Sequence[RecognisedLine]]
"""From BGR pixels, uint8 of shape (height, width, 3), to lines in reading order."""


@lru_cache(maxsize=1)
def model_files() -> Mapping[str, Path]:
    """Return where the carried models are: "Det", "Cls" and "Rec" → file.

    Raises MissingDependency if RapidOCR is not installed, ModelNotFound if this version carries no models.
    """
    try:
        files = metadata.files("rapidocr") or []
    except metadata.PackageNotFoundError:
        raise MissingDependency(f"recognising text needs RapidOCR: {_INSTALL}") from None
    found = {
        part: Path(str(file.locate()))
        for part, mark in _PARTS.items()
        for file in files
        if file.suffix == ".onnx" and mark in file.name
    }
    missing = [part for part in _PARTS if part not in found or not found[part].is_file()]
    if missing:
        raise ModelNotFound(
            f"RapidOCR {metadata.version('rapidocr')} carries no models for {' and '.join(missing)}, and nothing is"
            f" downloaded; {_INSTALL}"
        )
    return found


@lru_cache(maxsize=8)
def reader_identity(sha256: str | None) -> str:
    """Return what names the models and the code around them; imports nothing of RapidOCR.

    sha256: the digest that the recogniser must have. Raises WeightsMismatch if it has another.
    """
    digests = {part: file_sha256(file) for part, file in model_files().items()}
    if sha256 is not None and digests["Rec"] != sha256:
        raise WeightsMismatch(
            f"the recogniser of RapidOCR {metadata.version('rapidocr')} has sha256 {digests['Rec']}, but the recipe"
            f" pins {sha256}; install the version that was meant"
        )
    together = hashlib.sha256("".join(digests[part] for part in _PARTS).encode()).hexdigest()
    return f"rapidocr {metadata.version('rapidocr')}/{together[:32]}"


def load_reader(*, min_side: int) -> Reader:
    """Load the models; images whose shorter side has fewer pixels than `min_side` are enlarged to find text.

    What is returned may be called from several threads; each call takes one core.

    Raises MissingDependency or ModelNotFound.
    """
    files = model_files()
    try:
        from rapidocr import RapidOCR
    except ImportError as error:
        raise MissingDependency(
            f"recognising text needs RapidOCR and ONNX Runtime: {_INSTALL} ({error})"
        ) from error
    options: dict[str, Any] = {f"{part}.model_path": str(file) for part, file in files.items()}
    engine: Any = RapidOCR(
        params={
            **options,
            "Global.log_level": "critical",
            "Global.text_score": 0.0,
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Det.limit_side_len": min_side,
        }
    )

    def read(pixels: npt.NDArray[np.uint8]) -> list[RecognisedLine]:
        found = engine(pixels)
        if found.txts is None or found.boxes is None:
            return []
        return [
            RecognisedLine(text, float(score), (*corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()))
            for text, score, corners in zip(found.txts, found.scores, np.asarray(found.boxes), strict=True)
            if text.strip()
        ]

    return read
