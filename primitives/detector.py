"""Objects in images, found by any ultralytics detector: YOLO ``.pt`` and ``.onnx`` files, and the starter.

This is the only module that imports ultralytics, and only when a detector is loaded: its licence is AGPL-3.0, which
asks of those who offer a service with it that they offer their source too, unless they bought another licence.

Ultralytics by itself installs packages, downloads weights, reports usage and keeps settings in the user's folder, and
ONNX Runtime reports too; here they do none of that. A ``.pt`` is a pickle: unless its sha256 is pinned, only what
ultralytics' list of known classes allows is loaded.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from manyeyes.errors import MissingDependency, ModelNotFound, WeightsMismatch
from manyeyes.models import starter as starter_models
from manyeyes.models.weights import file_sha256
from manyeyes.primitives.base import DecodedImage, Modality, Primitive, PrimitiveKind, PrimitiveSpec, Rows
from manyeyes.primitives.workers import ModelWorkers, shared_workers
from manyeyes.settings import downloads_allowed, home

DTYPE: Final = np.dtype(
    [
        ("box", "<f4", (4,)),  # x0, y0, x1, y1 in pixels of the upright image
        ("fraction", "<f4", (4,)),  # the same, as fractions of width and height
        ("label", "<i2"),  # index into info["names"]
        ("score", "<f4"),
    ]
)
STARTER_FILE: Final = Path(starter_models.__file__).with_name("detector.pt")
_PREPROCESSING: Final = 1
_MOST_COPIES: Final = 4  # of a model, one a thread
_SUFFIXES: Final = (".pt", ".onnx")

logger = logging.getLogger(__name__)


class DetectorSpec(PrimitiveSpec):
    """Which detector, and what it reports.

    model: ``starter``, a name such as ``yolo11n``, or the path of a ``.pt`` or ``.onnx`` file. confidence: the least
    score of a box. iou: of two boxes of one label that overlap more, the better one is kept. image_size: the longer
    side that the model sees, in pixels; by default what it was trained or exported with.
    """

    confidence: float = Field(default=0.25, ge=0.001, le=1)
    iou: float = Field(default=0.5, gt=0, le=1)
    image_size: int | None = Field(default=None, ge=32, le=4096)


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image reduced to what the detector sees. bgr: uint8, shape (height, width, 3). size: width, height before."""

    bgr: npt.NDArray[np.uint8]
    size: tuple[int, int]


@dataclass(frozen=True)
class LoadedDetector:
    """A YOLO, to be used on the one thread that loaded it. side: the longer side that it sees, if it sees squares."""

    yolo: Any
    names: tuple[str, ...]
    side: int | None


class Detector:
    """Boxes, best first: any number of rows of DTYPE an image."""

    modality: Modality = "image"
    dtype = DTYPE
    ragged = True

    def __init__(self, name: str, spec: DetectorSpec) -> None:
        self.name = name
        self.spec = spec

    @cached_property
    def version(self) -> str:
        digest = _checked_digest(_locate(self.spec.model), self.spec)
        options = f"{self.spec.confidence}/{self.spec.iou}/{self.spec.image_size or 'own'}"
        return f"detector/{digest}/{options} {_PREPROCESSING}"

    @property
    def info(self) -> Mapping[str, Any]:
        if self.spec.model == "starter":
            names = _starter_card()["classes"]
        else:
            names = self._workers.recall("names", lambda detector: detector.names)
        return {"names": list(names), "model": self.spec.model}

    @property
    def _workers(self) -> ModelWorkers[LoadedDetector]:
        spec = self.spec
        # ONNX Runtime has threads of its own.
        n_threads = 1 if spec.model.endswith(".onnx") else _MOST_COPIES
        key = ("detector", spec.model_dump_json())
        return shared_workers(key, lambda: load_detector(spec), per_thread=True, n_threads=n_threads)

    def setup(self) -> None:
        """Load the model, once a process and spec. Raises ModelNotFound, WeightsMismatch or MissingDependency."""
        self._side()

    def prepare(self, decoded: DecodedImage) -> Pixels:
        """Return the image as large as the detector sees it; small ones as they are."""
        return _reduce(decoded, self._side())

    def compute(self, batch: Sequence[DecodedImage | Pixels]) -> list[Rows]:
        side = self._side()
        ready = [_reduce(value, side) if isinstance(value, DecodedImage) else value for value in batch]
        # One by one, because images of one shape in one call are filled up otherwise than a mixture is.
        return self._workers.run(lambda detector, pixels: _detect(detector, pixels, self.spec), ready)

    def _side(self) -> int | None:
        return self._workers.recall("side", lambda detector: detector.side)


def load_detector(spec: DetectorSpec) -> LoadedDetector:
    """Load a YOLO, on the thread that will use it. Raises ModelNotFound, WeightsMismatch or MissingDependency."""
    file = _locate(spec.model)
    _checked_digest(file, spec)
    yolo_class, safe_load = _ultralytics()
    try:
        if file.suffix == ".pt" and spec.sha256 is None and spec.model != "starter":
            safe_load(str(file), safe_only=True)
        yolo = yolo_class(str(file), task="detect")
        options = {} if spec.image_size is None else {"imgsz": spec.image_size}
        blank = np.zeros((64, 64, 3), dtype=np.uint8)
        result = yolo.predict([blank], device="cpu", verbose=False, **options)[0]
    except Exception as error:  # ultralytics raises many kinds for files that are damaged or not detectors
        hint = "" if spec.sha256 or file.suffix != ".pt" else "; if you trust the file, pin its sha256"
        raise WeightsMismatch(
            f"{file} cannot be loaded as a detector: {type(error).__name__}: {error}{hint}"
        ) from error
    if result.boxes is None:
        raise WeightsMismatch(
            f"{file} is a model for {yolo.task}, which gives no boxes; use a detection checkpoint"
        )
    names = tuple(str(result.names.get(i, "")) for i in range(max(result.names, default=-1) + 1))
    height, width = yolo.predictor.imgsz
    return LoadedDetector(yolo, names, side=int(height) if height == width else None)


def _detect(detector: LoadedDetector, pixels: Pixels, spec: DetectorSpec) -> Rows:
    options = {} if spec.image_size is None else {"imgsz": spec.image_size}
    result = detector.yolo.predict(
        [pixels.bgr], conf=spec.confidence, iou=spec.iou, device="cpu", verbose=False, **options
    )[0]
    height, width = pixels.bgr.shape[:2]
    corners = result.boxes.xyxy.numpy().astype(np.float64).reshape(-1, 4)
    rows = np.zeros(len(corners), dtype=DTYPE)
    fractions = np.clip(corners / (width, height, width, height), 0, 1)
    rows["fraction"] = fractions
    rows["box"] = fractions * (pixels.size * 2)
    rows["label"] = result.boxes.cls.numpy()
    rows["score"] = result.boxes.conf.numpy()
    # Equal scores have an order too, so that equal images have equal rows.
    return rows[np.lexsort((*rows["fraction"].T, rows["label"], -rows["score"]))]


def _reduce(image: DecodedImage, side: int | None) -> Pixels:
    """Return BGR pixels no larger than the detector sees them, reduced just as ultralytics itself would."""
    bgr: npt.NDArray[np.uint8] = np.asarray(image.pixels)[..., ::-1]
    scale = 1.0 if side is None else min(side / image.pixels.height, side / image.pixels.width)
    if scale < 1:
        import cv2

        width, height = (max(1, round(length * scale)) for length in image.pixels.size)
        bgr = cv2.resize(bgr, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    return Pixels(np.ascontiguousarray(bgr), (image.width, image.height))


def _ultralytics() -> tuple[Any, Any]:
    """Return the class YOLO and the loader of checkpoints, from a library that neither installs nor sends anything."""
    private = home() / "ultralytics"
    private.mkdir(parents=True, exist_ok=True)
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ.setdefault("YOLO_CONFIG_DIR", str(private))
    os.environ.setdefault("YOLO_VERBOSE", "false")
    # ONNX Runtime keeps a device id and events of its use in the user's folder, and sends them.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    if not downloads_allowed():
        os.environ.setdefault("YOLO_OFFLINE", "true")
    try:
        from manyeyes.models.torchvision_ops import ensure_torchvision

        ensure_torchvision()
        from PIL import Image

        opened = Image.open
        import ultralytics
        from ultralytics.nn.tasks import torch_safe_load
        from ultralytics.utils import patches

        # Ultralytics puts its own `Image.open` in place for the whole process, which wants to install a package
        # when a file is no image, and raises something else than Pillow does. Where somebody imported it before us,
        # `opened` is already its own, and Pillow's is where it keeps it.
        Image.open = getattr(patches, "_image_open", opened)
    except ImportError as error:
        raise MissingDependency(
            f"detectors need ultralytics (AGPL-3.0): pip install 'manyeyes[detect]' ({error})"
        ) from error
    if ultralytics.settings.get("sync"):
        ultralytics.settings.update({"sync": False})
    return ultralytics.YOLO, torch_safe_load


def _locate(model: str) -> Path:
    """Return a detector's file. Raises ModelNotFound."""
    if model == "starter":
        if not STARTER_FILE.is_file():
            raise ModelNotFound(f"the starter detector is not installed: there is no {STARTER_FILE}")
        return STARTER_FILE
    path = Path(model).expanduser()
    if path.suffix in _SUFFIXES:
        if path.is_file():
            return path
        if path.name != model:
            raise ModelNotFound(f"there is no detector {path}")
    elif path.name != model:
        raise ModelNotFound(f"a detector is a {' or '.join(_SUFFIXES)} file, got {model!r}")
    kept = home() / "weights" / (path.name if path.suffix else f"{model}.pt")
    if not kept.is_file() and downloads_allowed():
        _fetch(kept)
    if not kept.is_file():
        raise ModelNotFound(
            f"the detector {model!r} is not on this machine; put {kept.name} into {kept.parent}, set"
            " MANYEYES_ALLOW_DOWNLOADS=1 to fetch it, or use model: starter"
        )
    return kept


def _fetch(file: Path) -> None:
    _ultralytics()
    from ultralytics.utils.downloads import attempt_download_asset

    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        attempt_download_asset(str(file))
    except Exception as error:  # no network, no such asset, a broken transfer
        logger.warning("the detector %s cannot be fetched: %s", file.name, error)


def _checked_digest(file: Path, spec: DetectorSpec) -> str:
    """Return a file's sha256, compared with what pins it; always before the file is loaded."""
    digest = file_sha256(file)
    pins = [spec.sha256] if spec.sha256 is not None else []
    if spec.model == "starter":
        pins.append(_starter_card()["sha256"])
    for pin in pins:
        if digest != pin:
            raise WeightsMismatch(
                f"{file} has sha256 {digest}, but {pin} is pinned; use the file that was meant"
            )
    return digest


def _starter_card() -> dict[str, Any]:
    card = STARTER_FILE.with_suffix(".json")
    if not card.is_file():
        raise ModelNotFound(f"the starter detector is not installed: there is no {card}")
    described: dict[str, Any] = json.loads(card.read_text(encoding="utf-8"))
    return described


def build(name: str, spec: DetectorSpec) -> Mapping[str, Primitive]:
    """Return ``{name: boxes}``."""
    return {name: Detector(name, spec)}


KIND: Final = PrimitiveKind(Spec=DetectorSpec, build=build)
