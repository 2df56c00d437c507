"""Where in an image a CLIP sees what: ``clip.map``, an embedding for each cell of a coarse grid over the whole image.

A CLIP is trained on whole images, and its embedding of one says nothing of places. What comes before its last pooling
still does, if it is led past the pooling into the space of the texts:

- a convolutional tower with average pooling (the starter): the cells go through the head one by one, at twice the usual
  resolution, each as long as the tower made it relative to the others, then 2 × 2 of them are averaged. Choices made on
  photographs that `benchmarks/grounding.py` does not report by themselves.
- a vision transformer: the values of the last attention, projected, without attention, residual and MLP. Source: Zhou,
  Loy and Dai 2022, "Extract free dense labels from CLIP" (MaskCLIP); without the residual as in Lan et al. 2024,
  "ClearCLIP".
- OpenAI's ResNets: the values of the attention pooling, projected, as in MaskCLIP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRecipe
from manyeyes.primitives.base import DecodedImage, Modality, PrimitiveSpec, Rows
from manyeyes.primitives.clip_models import LoadedClip, clip_identity, load_clip
from manyeyes.primitives.workers import ModelWorkers, shared_workers

if TYPE_CHECKING:
    import torch

_PREPROCESSING: Final = 1
_MOST_CELLS: Final = 16
"""How many cells a side is cut into at most; finer ones are averaged, so that a map stays small enough to keep."""
_STARTER: Final = (7, 7, 384)

Floats = npt.NDArray[np.float32]


class _Spatial(NamedTuple):
    """How a tower gives cells. side: pixels it sees, squared. pool: cells averaged along each axis."""

    side: int
    grid: int
    pool: int


class ClipMap:
    """Embeddings of the cells of an image: float16, shape (rows, columns, dim); about of length 1.

    The whole image is seen, squeezed into a square, where ``clip`` sees its centre. spec: that of the clip.
    """

    modality: Modality = "image"
    ragged = False

    def __init__(self, name: str, spec: PrimitiveSpec, arch: str | None) -> None:
        self.name = name
        self.spec = spec
        self._arch = arch

    @cached_property
    def version(self) -> str:
        identity = clip_identity(self.spec.model, self._arch, self.spec.sha256)
        return f"clip/{identity}/map {_PREPROCESSING}"

    @property
    def dtype(self) -> np.dtype[Any]:
        shape = _STARTER
        if self.spec.model != "starter":
            clip = self._workers.ask(lambda clip: clip)
            cells = self._spatial.grid // self._spatial.pool
            shape = (cells, cells, clip.dim)
        return np.dtype([("map", "<f2", shape)])

    @property
    def info(self) -> Mapping[str, Any]:
        clip = self._workers.ask(lambda clip: clip)
        return {"dim": clip.dim, "logit_scale": clip.logit_scale, "model": self.spec.model}

    def setup(self) -> None:
        """Load the model. Raises ModelNotFound, WeightsMismatch, MissingDependency, or InvalidRecipe if its tower
        gives nothing of places."""
        _ = self._spatial

    def least_side(self) -> int | None:
        """Return the shorter side, in pixels, to which an image may be reduced on decoding."""
        return self._spatial.side

    def prepare(self, decoded: DecodedImage) -> npt.NDArray[np.uint8]:
        """Return pixels: uint8, shape (side, side, 3)."""
        from PIL import Image

        side = self._spatial.side
        squeezed = decoded.pixels.resize((side, side), Image.Resampling.BICUBIC, reducing_gap=3.0)
        return np.asarray(squeezed)

    def compute(self, batch: Sequence[DecodedImage | npt.NDArray[np.uint8]]) -> list[Rows]:
        ready = [self.prepare(value) if isinstance(value, DecodedImage) else value for value in batch]
        spatial, dtype = self._spatial, self.dtype
        rows = []
        for cells in self._workers.run(lambda clip, pixels: _see(clip, pixels, spatial), ready):
            row = np.zeros(1, dtype=dtype)
            row["map"] = cells
            rows.append(row)
        return rows

    @property
    def _spatial(self) -> _Spatial:
        return self._workers.recall("spatial", _spatial_of)

    @property
    def _workers(self) -> ModelWorkers[LoadedClip]:
        spec, arch = self.spec, self._arch

        def load() -> LoadedClip:
            clip_identity(spec.model, arch, spec.sha256)
            return load_clip(spec.model, arch)

        return shared_workers(("clip", spec.model_dump_json()), load)


def _spatial_of(clip: LoadedClip) -> _Spatial:
    """Return how a CLIP's tower gives cells. Raises InvalidRecipe if it does not."""
    visual = clip.model.visual
    side = _side(visual)
    if _is_transformer(visual):
        grid = int(visual.grid_size[0])
        return _Spatial(side, grid, math.ceil(grid / _MOST_CELLS))
    if hasattr(visual, "attnpool"):
        grid = side // 32
        return _Spatial(side, grid, math.ceil(grid / _MOST_CELLS))
    if _is_convolutional(visual):
        reduction = int(visual.trunk.feature_info[-1]["reduction"])
        grid = 2 * side // reduction
        return _Spatial(2 * side, grid, 2 * math.ceil(grid / 2 / _MOST_CELLS))
    raise InvalidRecipe(
        f"the image tower {type(visual).__name__} of this CLIP gives no map: it is no vision transformer of"
        " open_clip's own, no ResNet of OpenAI's, and no convolutional network with average pooling; use another CLIP,"
        " or a detector"
    )


def _see(clip: LoadedClip, pixels: npt.NDArray[np.uint8], spatial: _Spatial) -> Floats:
    """Return embeddings of cells: float32, shape (rows, columns, dim)."""
    import torch
    from torch.nn.functional import avg_pool2d

    mean, std = _normalisation(clip)
    with torch.inference_mode():
        image = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)
        image = ((image - mean) / std)[None]
        visual = clip.model.visual
        if _is_transformer(visual):
            cells = _of_transformer(visual, image, spatial.grid)
            cells = cells / cells.norm(dim=-1, keepdim=True)
        elif hasattr(visual, "attnpool"):
            cells = _of_resnet(visual, image)
            cells = cells / cells.norm(dim=-1, keepdim=True)
        else:
            cells = _of_convolutions(visual, image)
            # A cell in which little is seen stays short, relative to the image.
            cells = cells / cells.norm(dim=-1).mean()
        pooled = avg_pool2d(cells.permute(2, 0, 1)[None], spatial.pool)[0].permute(1, 2, 0)
    seen: Floats = pooled.numpy()
    if not np.isfinite(seen).all():
        raise ValueError("the model answered with cells that have no direction")
    return seen


def _of_transformer(visual: Any, image: torch.Tensor, grid: int) -> torch.Tensor:
    """Return shape (grid, grid, dim)."""
    from torch.nn.functional import linear

    tokens = visual._embeds(image)
    *before, last = visual.transformer.resblocks
    for block in before:
        tokens = block(tokens)
    attention, width = last.attn, tokens.shape[-1]
    values = linear(
        last.ln_1(tokens), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :]
    )
    seen = visual.ln_post(last.ls_1(attention.out_proj(values)))[0, -grid * grid :]
    if visual.proj is not None:
        seen = seen @ visual.proj
    cells: torch.Tensor = seen.reshape(grid, grid, -1)
    return cells


def _of_resnet(visual: Any, image: torch.Tensor) -> torch.Tensor:
    """Return shape (rows, columns, dim)."""
    seen = visual.stem(image)
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        seen = stage(seen)
    projected: torch.Tensor = visual.attnpool.c_proj(visual.attnpool.v_proj(seen[0].permute(1, 2, 0)))
    return projected


def _of_convolutions(visual: Any, image: torch.Tensor) -> torch.Tensor:
    """Return shape (rows, columns, dim)."""
    seen = visual.trunk.forward_features(image)[0].permute(1, 2, 0)
    rows, columns, width = seen.shape
    cells: torch.Tensor = visual.head(seen.reshape(-1, width)).reshape(rows, columns, -1)
    return cells


def _is_transformer(visual: Any) -> bool:
    blocks: Any = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is None or not hasattr(visual, "_embeds") or getattr(visual, "attn_pool", None) is not None:
        return False
    last = blocks[-1]
    return hasattr(last, "ls_1") and getattr(last.attn, "in_proj_weight", None) is not None


def _is_convolutional(visual: Any) -> bool:
    trunk = getattr(visual, "trunk", None)
    pooled = getattr(trunk, "global_pool", None)
    return hasattr(visual, "head") and getattr(pooled, "pool_type", None) in ("avg", "fast", "fastavg")


def _side(visual: Any) -> int:
    size = visual.image_size
    return int(size if isinstance(size, int) else size[0])


def _normalisation(clip: LoadedClip) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation of the channels, shape (3, 1, 1), as the model's own preprocessing has them."""
    import torch

    steps: Sequence[Any] = getattr(clip.preprocess, "transforms", ())
    last = next(step for step in reversed(steps) if hasattr(step, "mean") and hasattr(step, "std"))
    return torch.tensor(last.mean)[:, None, None], torch.tensor(last.std)[:, None, None]
