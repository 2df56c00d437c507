"""Objects in images, found by any ultralytics detector: YOLO ``.pt`` and ``.onnx`` files, and the starter.

Detection and segmentation checkpoints, closed and open vocabularies (YOLO-World, YOLOE), whole images and tiles.

This is the only module that imports ultralytics, and only when a detector is loaded: its licence is AGPL-3.0, which
asks of those who offer a service with it that they offer their source too, unless they bought another licence.

Ultralytics by itself installs packages, downloads weights, reports usage and keeps settings in the user's folder, and
ONNX Runtime reports too; here they do none of that. A ``.pt`` is a pickle: unless its sha256 is pinned, only what
ultralytics' list of known classes allows is loaded.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from manyeyes.errors import InvalidRecipe, ManyeyesError, MissingDependency, ModelNotFound, WeightsMismatch
from manyeyes.models import starter as starter_models
from manyeyes.models.weights import file_sha256
from manyeyes.primitives.base import DecodedImage, Modality, Primitive, PrimitiveKind, Rows
from manyeyes.primitives.clip_models import clip_identity
from manyeyes.primitives.detection import DTYPE, DetectorSpec, LoadedDetector, Pixels, detect, reduce
from manyeyes.primitives.open_vocabulary import needs_words, only_known, speaks, tell_classes
from manyeyes.primitives.workers import ModelWorkers, shared_workers
from manyeyes.settings import downloads_allowed, home

STARTER_FILE: Final = Path(starter_models.__file__).with_name("detector.pt")
_PREPROCESSING: Final = 3
_MOST_COPIES: Final = 4  # of a model, one a thread
_SUFFIXES: Final = (".pt", ".onnx")

logger = logging.getLogger(__name__)


class Detector:
    """Boxes, best first: any number of rows of DTYPE an image."""

    modality: Modality = "image"
    dtype = DTYPE
    ragged = True
    side_by_side = 1

    def __init__(self, name: str, spec: DetectorSpec) -> None:
        self.name = name
        self.spec = spec

    @cached_property
    def version(self) -> str:
        digest = _checked_digest(_locate(self.spec.model), self.spec)
        spec = self.spec
        options = [f"{spec.confidence}/{spec.iou}/{spec.image_size or 'own'}"]
        if spec.classes:
            options.append(hashlib.sha256(json.dumps(spec.classes).encode()).hexdigest()[:16])
        if spec.text_encoder is not None:
            options.append(clip_identity(spec.text_encoder, None, None))
        if spec.tile is not None:
            options.append(f"tile {spec.tile.size}/{spec.tile.overlap}")
        return f"detector/{digest}/{'/'.join(options)} {_PREPROCESSING}"

    @property
    def info(self) -> Mapping[str, Any]:
        if self.spec.model == "starter":
            names = _starter_card()["classes"]
            only_known(self.spec.classes, names)
            names = self.spec.classes or names
        else:
            names = self._workers.recall("names", lambda detector: detector.names)
        return {"names": list(names), "model": self.spec.model}

    @property
    def _workers(self) -> ModelWorkers[LoadedDetector]:
        spec = self.spec
        # ONNX Runtime has threads of its own.
        n_threads = 1 if spec.model.endswith(".onnx") else _MOST_COPIES
        # What is said with each look is no reason to load the model once more.
        key = ("detector", spec.model_dump_json(exclude={"confidence", "iou", "tile"}))
        return shared_workers(key, lambda: load_detector(spec), per_thread=True, n_threads=n_threads)

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._workers.is_loaded

    def setup(self) -> None:
        """Load the model, once a process and spec. Raises ModelNotFound, WeightsMismatch or MissingDependency."""
        self._side()

    def least_side(self) -> int | None:
        """Return the shorter side, in pixels, to which an image may be reduced on decoding; None for not at all."""
        return None if self.spec.tile is not None else self._side()

    def prepare(self, decoded: DecodedImage) -> Pixels:
        """Return the image as large as the detector sees it; small ones as they are."""
        return reduce(decoded, self._side(), self.spec.tile)

    def compute(self, batch: Sequence[DecodedImage | Pixels]) -> list[Rows]:
        side = self._side()
        tile = self.spec.tile
        ready = [reduce(value, side, tile) if isinstance(value, DecodedImage) else value for value in batch]
        # One by one, because images of one shape in one call are filled up otherwise than a mixture is.
        return self._workers.run(lambda detector, pixels: detect(detector, pixels, self.spec), ready)

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
        yolo = yolo_class(str(file), task=_task(file))
        network = yolo.model if file.suffix == ".pt" else None
        if network is not None and needs_words(network) and not spec.classes:
            raise InvalidRecipe(
                f"{file.name} finds what it is told to: name what to look for, as in"
                f" {{model: {spec.model}, classes: [person, red car]}}"
            )
        if network is not None and spec.classes and speaks(network):
            tell_classes(network, spec.classes, text_encoder=spec.text_encoder)
        options = {} if spec.image_size is None else {"imgsz": spec.image_size}
        blank = np.zeros((64, 64, 3), dtype=np.uint8)
        result = yolo.predict([blank], device="cpu", verbose=False, **options)[0]
    except ManyeyesError:
        raise
    except Exception as error:  # ultralytics raises many kinds for files that are damaged or not detectors
        hint = "" if spec.sha256 or file.suffix != ".pt" else "; if you trust the file, pin its sha256"
        raise WeightsMismatch(
            f"{file} cannot be loaded as a detector: {type(error).__name__}: {error}{hint}"
        ) from error
    if result.boxes is None:
        raise WeightsMismatch(
            f"{file} is a model for {yolo.task}, which gives no boxes; use a detection or segmentation checkpoint"
        )
    names = tuple(str(result.names.get(i, "")) for i in range(max(result.names, default=-1) + 1))
    keep = None
    if spec.classes and names != spec.classes:
        only_known(spec.classes, names)
        keep = np.array([spec.classes.index(name) if name in spec.classes else -1 for name in names])
        names = spec.classes
    height, width = yolo.predictor.imgsz
    return LoadedDetector(yolo, names, side=int(height) if height == width else None, keep=keep)


def _task(file: Path) -> str | None:
    """Return what a file does, where ultralytics would guess by its name; None for a ``.pt``, which tells it."""
    if file.suffix == ".pt":
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    told: str = session.get_modelmeta().custom_metadata_map.get("task", "detect")
    return told


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
