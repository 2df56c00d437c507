"""Image towers in torch: the float32 reference, and bfloat16 where the processor multiplies it in hardware."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.primitives.runtimes import Runner
from manyeyes.primitives.towers import Pixels, Tower, network_of

if TYPE_CHECKING:
    import torch

_HALF_PACK: Final = 4


@dataclass(frozen=True)
class TorchRunner:
    """A module from pixels to vectors, on the CPU."""

    network: torch.nn.Module
    pack: int

    def __call__(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            vectors: npt.NDArray[np.float32] = self.network(torch.from_numpy(pixels)).float().numpy()
        return vectors


def float32(tower: Tower, _folder: Path) -> Runner:
    """Return the reference: what open_clip itself does, in packs of one size."""
    return TorchRunner(network_of(tower, tower.embed), tower.pack)


def bfloat16(tower: Tower, _folder: Path) -> Runner:
    """Return the tower with weights and products in bfloat16."""
    import torch

    return TorchRunner(network_of(tower, alone(tower).bfloat16(), torch.bfloat16), _HALF_PACK)


def alone(tower: Tower) -> Any:
    """Return a copy of the module behind a tower. Raises ValueError if it has none."""
    if tower.visual is None:
        raise ValueError("this architecture has no image tower that can be run alone")
    return copy.deepcopy(tower.visual).eval().requires_grad_(False)
