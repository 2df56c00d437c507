"""Make torchvision importable beside a torch build that its compiled operators were not made for.

The torchvision wheel on PyPI is linked against the CUDA build of torch. Beside the CPU build its library does not
load, and `import torchvision` stops with "operator torchvision::nms does not exist", which takes open_clip, timm,
transformers and ultralytics down with it. Only two operators are missed by that import. Call `ensure_torchvision()`
before importing any of them: where the compiled operators load it does nothing; where they do not, it defines the
two in Python, and non-maximum suppression works, only slower.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from pathlib import Path
from threading import Lock
from typing import Any

import torch

logger = logging.getLogger(__name__)

_lock = Lock()
# torch drops the operators of a Library when the object is collected, so it lives as long as the process.
_library: torch.library.Library | None = None


def ensure_torchvision() -> bool:
    """Import torchvision, with Python operators where its compiled ones do not load.

    Returns True if the compiled operators are in use (or torchvision is not installed, so that nothing is to be
    done), False if the Python ones are. Safe to call from several threads and as often as you like.
    """
    global _library
    with _lock:
        if _library is not None:
            return False
        if importlib.util.find_spec("torchvision") is None or _compiled_ops_load():
            return True
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for name, function in (("nms", nms), ("qnms", quantized_nms)):
            _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            # Not CompositeImplicit: torchvision registers its own shape function, which that would forbid.
            _library.impl(name, function, "CompositeExplicitAutograd")
        importlib.import_module("torchvision")
        extension: Any = importlib.import_module("torchvision.extension")
        # After the import, not before: its shape functions for the other operators must stay unregistered.
        extension._has_ops = _has_ops
        logger.warning(
            "torchvision's compiled operators do not load beside torch %s; non-maximum suppression runs in Python.",
            torch.__version__,
        )
        return False


def nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Return the boxes that survive greedy non-maximum suppression, best score first.

    dets: float, shape (n_boxes, 4), corners (x1, y1, x2, y2) in any unit. scores: float, shape (n_boxes,).
    A box is dropped if its intersection over union with a better, surviving box is above iou_threshold; equal
    scores keep the order they came in.
    Returns int64 indices, shape (n_kept,).
    Raises ValueError if the shapes do not fit.
    """
    if dets.ndim != 2 or dets.shape[1] != 4 or scores.shape != dets.shape[:1]:
        raise ValueError(
            f"nms takes boxes of shape (n, 4) and scores of shape (n,), not {tuple(dets.shape)} "
            f"and {tuple(scores.shape)}."
        )
    # Areas of large boxes overflow half precision.
    boxes = dets.float() if dets.dtype in (torch.float16, torch.bfloat16) else dets
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = torch.sort(scores, descending=True, stable=True).indices
    kept = []
    while order.numel() > 0:
        best, rest = order[0], order[1:]
        kept.append(best)
        corner_low = torch.maximum(boxes[best, :2], boxes[rest, :2])
        corner_high = torch.minimum(boxes[best, 2:], boxes[rest, 2:])
        intersection = (corner_high - corner_low).clamp(min=0).prod(dim=1)
        iou = intersection / (areas[best] + areas[rest] - intersection)
        # Two empty boxes give NaN, which is not above any threshold: both stay, as in the compiled operator.
        order = rest[~(iou > iou_threshold)]
    if not kept:
        return torch.empty(0, dtype=torch.int64, device=dets.device)
    return torch.stack(kept)


def quantized_nms(dets: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Return the same as `nms` for quantized boxes and scores, which are dequantized first."""
    return nms(dets.dequantize(), scores.dequantize(), iou_threshold)


def _compiled_ops_load() -> bool:
    """Say whether the compiled operators are registered, loading their library if it is not."""
    if hasattr(torch.ops.torchvision, "nms"):
        return True
    spec = importlib.util.find_spec("torchvision")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    for folder in folders:
        for library in sorted(Path(folder).glob("_C*")):
            if library.suffix not in (".so", ".pyd", ".dylib"):
                continue
            try:
                torch.ops.load_library(str(library))
            except OSError:
                continue
            return hasattr(torch.ops.torchvision, "nms")
    return False


def _has_ops() -> bool:
    return True
