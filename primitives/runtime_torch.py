"""Image towers in torch: the float32 reference, and bfloat16 where the processor multiplies it in hardware."""

from __future__ import annotations

import copy
import logging
import warnings
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

logger = logging.getLogger(__name__)


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
    return TorchRunner(traced(network_of(tower, tower.embed), (tower.pack, *tower.size, 3)), tower.pack)


def bfloat16(tower: Tower, _folder: Path) -> Runner:
    """Return the tower with weights and products in bfloat16."""
    import torch

    return TorchRunner(network_of(tower, alone(tower).bfloat16(), torch.bfloat16), _HALF_PACK)


def traced(network: torch.nn.Module, shape: tuple[int, ...]) -> torch.nn.Module:
    """Return a network as one program without Python, where that gives the same bits; else the network itself.

    shape: of its input, uint8. A module takes Python's lock again after each of its hundreds of steps, where it waits
    for whatever else the process does. Measured with the starter on two cores: 73 images a second before and 110
    after; beside ten threads of Python that are busy now and then, 44 and 79.
    """
    import torch

    example = (torch.arange(int(np.prod(shape))) % 251).to(torch.uint8).reshape(shape)
    try:
        # Its successors compile, which needs a compiler and gives other bits, or interpret in Python.
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: torch.nn.Module = torch.jit.trace(network, example, check_trace=False)
            same = all(
                torch.equal(program(pixels), network(pixels)) for pixels in (example, 250 - example, example)
            )
    except Exception as error:  # whatever an architecture does that no tracer follows
        logger.info("this tower runs step by step in Python: it cannot be traced (%s)", error)
        return network
    if not same:
        logger.info("this tower runs step by step in Python: traced, it gives other bits")
        return network
    return program


def alone(tower: Tower) -> Any:
    """Return a copy of the module behind a tower. Raises ValueError if it has none."""
    if tower.visual is None:
        raise ValueError("this architecture has no image tower that can be run alone")
    return copy.deepcopy(tower.visual).eval().requires_grad_(False)
