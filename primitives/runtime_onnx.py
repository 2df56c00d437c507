"""Image towers in ONNX Runtime, in float32, or with 8-bit products where a network is mostly matrices.

The 8-bit one needs no photographs to be calibrated on: weights are quantised channel by channel, and the activations'
range is taken as they come. It is that of everything in a call, so that a call is one image.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.primitives.runtime_torch import alone
from manyeyes.primitives.runtimes import Runner, package_version
from manyeyes.primitives.towers import Pixels, Tower, network_of

_OPSET: Final = 17
_MATRICES: Final = ("MatMul", "Gemm")


class OnnxRunner:
    """A session; the calling thread does the work."""

    pack = 1

    def __init__(self, session: Any) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name

    def __call__(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        vectors: npt.NDArray[np.float32] = self._session.run(None, {self._input: pixels})[0]
        return vectors


def float32(tower: Tower, folder: Path) -> Runner:
    """Return the tower as torch exports it."""
    return _session(_exported(tower, folder))


def int8(tower: Tower, folder: Path) -> Runner:
    """Return the tower with 8-bit matrix products."""
    whole = _exported(tower, folder)
    kept = whole.with_suffix(".int8.onnx")
    if not kept.is_file():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        made = kept.with_name(f".{os.getpid()}.int8.onnx")
        quantize_dynamic(
            whole, made, op_types_to_quantize=list(_MATRICES), weight_type=QuantType.QInt8, per_channel=True
        )
        os.replace(made, kept)
    return _session(kept)


def _session(file: Path) -> Runner:
    # It keeps a device id and events of its use in the user's folder, and sends them.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return OnnxRunner(onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]))


def _exported(tower: Tower, folder: Path) -> Path:
    """Return the file in which the tower is kept, exported if it is not there yet."""
    kept = folder / f"torch-{package_version('torch')}.onnx"
    if kept.is_file():
        return kept
    import torch

    # Torch has a shortcut through attention that has no name in ONNX; it is not taken where gradients may be wanted.
    visual = alone(tower).requires_grad_(True)
    made = kept.with_name(f".{os.getpid()}.onnx")
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network_of(tower, visual),
            (torch.zeros((1, *tower.size, 3), dtype=torch.uint8),),
            str(made),
            dynamo=False,
            input_names=["pixels"],
            output_names=["vectors"],
            opset_version=_OPSET,
        )
    os.replace(made, kept)
    return kept
