"""Image towers on a GPU: bfloat16, channels last, pixels copied from pinned memory while the pass before computes.

Each calling thread has a stream and buffers of its own: with two threads, one copies while the other's pass runs.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.primitives.devices import fitting_pack, gpu_of, n_gpus
from manyeyes.primitives.runtime_torch import alone
from manyeyes.primitives.runtimes import Runner
from manyeyes.primitives.towers import Pixels, Tower, network_of

_TRIAL: Final = 4


class CudaRunner:
    """A module from pixels to vectors on one GPU."""

    def __init__(self, network: Any, device: Any, size: tuple[int, int], *, pack: int) -> None:
        self.pack = pack
        self._network = network
        self._device = device
        self._size = size
        self._own = threading.local()

    def __call__(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        import torch

        if not hasattr(self._own, "stream"):
            self._own.stream = torch.cuda.Stream(self._device)
            self._own.pixels = torch.empty((self.pack, *self._size, 3), dtype=torch.uint8, pin_memory=True)
        with (
            torch.inference_mode(),
            torch.cuda.stream(self._own.stream),
            torch.autocast("cuda", dtype=torch.bfloat16),
        ):
            self._own.pixels.copy_(torch.from_numpy(pixels))
            vectors = self._network(self._own.pixels.to(self._device, non_blocking=True)).float()
            # Waits for this stream alone, and so for the buffer to be free again.
            answer: npt.NDArray[np.float32] = vectors.cpu().numpy()
        return answer


def half(tower: Tower, _folder: Path) -> Runner:
    """Return the tower on this process's GPU. Raises RuntimeError if torch cannot use one."""
    import torch

    if not torch.cuda.is_available():
        raise RuntimeError("torch was built without CUDA, or finds no GPU")
    worker = int(os.environ.get("MANYEYES_GPU_WORKER", "0") or 0)
    device = torch.device(gpu_of(worker, min(n_gpus(), torch.cuda.device_count())))
    visual = alone(tower).to(device=device, memory_format=torch.channels_last)
    network = network_of(tower, visual, channels_last=True).to(device)
    # How much one image needs, seen on a few.
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    trial = CudaRunner(network, device, tower.size, pack=_TRIAL)
    trial(np.zeros((_TRIAL, *tower.size, 3), dtype=np.uint8))
    each = max(1, (torch.cuda.max_memory_allocated(device) - before) // _TRIAL)
    free, _ = torch.cuda.mem_get_info(device)
    return CudaRunner(network, device, tower.size, pack=fitting_pack(int(free), int(each)))
