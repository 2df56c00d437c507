"""Image towers in OpenVINO, in float32 or bfloat16. The converted network is kept, so that it is converted once.

Torch's own graph is handed to OpenVINO's reader directly: the converter around it would also report its use.
"""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.primitives.runtime_torch import alone
from manyeyes.primitives.runtimes import Runner, package_version
from manyeyes.primitives.towers import Pixels, Tower, network_of

_PACK: Final = 4


class OpenVinoRunner:
    """A compiled network; each thread has a request of its own, on one core."""

    pack = _PACK

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._own = threading.local()

    def __call__(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        answer = self._own.request.infer({0: pixels}, share_inputs=True)
        return np.array(answer[0], dtype=np.float32)


def float32(tower: Tower, folder: Path) -> Runner:
    """Return the tower with everything in float32."""
    return _compile(tower, folder, "f32")


def bfloat16(tower: Tower, folder: Path) -> Runner:
    """Return the tower with products in bfloat16 and what needs more in float32, as OpenVINO sees fit."""
    return _compile(tower, folder, "bf16")


def _compile(tower: Tower, folder: Path, precision: str) -> Runner:
    import openvino

    n_threads = len(os.sched_getaffinity(0))
    core = openvino.Core()
    model = _converted(core, tower, folder / f"openvino-{package_version('openvino')}.xml")
    model.reshape([_PACK, *tower.size, 3])
    options = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": n_threads,
        "NUM_STREAMS": n_threads,  # one core each: bits must not depend on how many there are
        "ENABLE_CPU_PINNING": False,  # decoding threads need these cores too
    }
    return OpenVinoRunner(core.compile_model(model, "CPU", options))


def _converted(core: Any, tower: Tower, kept: Path) -> Any:
    """Return the network as OpenVINO has it, from the file where it was kept."""
    if kept.is_file():
        try:
            return core.read_model(kept)
        except RuntimeError:  # cut or damaged: it is made again
            pass
    import openvino
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros((2, *tower.size, 3), dtype=torch.uint8)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about shapes that are constants here
        decoder = TorchScriptPythonDecoder(network_of(tower, alone(tower)), example_input=(example,))
        reader = FrontEndManager().load_by_framework("pytorch")
        model = reader.convert(reader.load(decoder))
    # The weights first: the .xml says that all is there.
    made = kept.with_name(f".{os.getpid()}.xml")
    openvino.save_model(model, made, compress_to_fp16=False)
    os.replace(made.with_suffix(".bin"), kept.with_suffix(".bin"))
    os.replace(made, kept)
    return model
