"""The image half of a CLIP, cut where runtimes take over: photographs become 8-bit pixels here, vectors there.

A decoding thread crops and resizes once, to the size that the model sees; what travels is a quarter of the floats that
it would be, and the scaling to the model's numbers is the first step of its graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

from manyeyes.primitives.base import DecodedImage
from manyeyes.primitives.clip_models import LoadedClip

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as PILImage

Pixels = npt.NDArray[np.uint8]

# A JPEG is reduced on decoding by 2, 4 or 8, to no less than so many times what the model sees: what is left to
# resample is then enough that the embedding stays (cosine at least 0.99, on photographs of 12 megapixels too).
SPARE: Final = 2.0

# What a tower is asked to tell apart when a faster way to run it is checked: everyday words, far from each other.
GATE_PROMPTS: Final = (
    "an animal", "a car", "a person", "a house", "food on a plate", "a tree", "the sea", "a piece of furniture",
    "clothes", "a bird", "a machine", "a page of text", "a toy", "the night sky", "a flower", "a street",
    "a mountain", "a tool", "a musical instrument", "a pattern of colours",
)  # fmt: skip


@dataclass(frozen=True)
class Tower:
    """An image tower that any runtime can run.

    embed: float32 tensor (n, 3, height, width) → (n, dim), as open_clip runs it: the reference. visual: the module
    behind it, or None where there is none that can be run alone. mean, std: of the three channels, of values 0 to 1.
    size: (height, width) in pixels. pack: images a forward pass of the reference. prompts: float32, shape
    (n_prompts, dim), of length 1: what embeddings are compared with when another runtime is checked.
    """

    embed: Callable[[torch.Tensor], torch.Tensor]
    visual: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    pack: int
    prompts: Callable[[], npt.NDArray[np.float32]]


def cropper(clip: LoadedClip) -> Callable[[DecodedImage], Pixels]:
    """Return what turns a decoded image into the pixels that a model sees: uint8, shape (height, width, 3).

    An image that was reduced on decoding is resized and cropped as the whole one would have been, to the same pixel.
    """
    # open_clip's own steps, less the last two, which make floats of it and normalise them.
    first, *others = _steps(clip)[:-2]
    centre = _centre(first, others)

    def crop(decoded: DecodedImage) -> Pixels:
        image = decoded.pixels
        whole = (decoded.width, decoded.height)
        if centre is not None and image.mode == "RGB" and image.size == whole and min(whole) >= centre:
            return np.asarray(_resize_centre(image, centre, first), dtype=np.uint8)
        image = first(image) if image.size == whole else _resize_reduced(image, whole, first)
        for step in others:
            image = step(image)
        return np.asarray(image, dtype=np.uint8)

    return crop


def least_side(clip: LoadedClip) -> int | None:
    """Return the shorter side, in pixels, down to which an image may be reduced on decoding; None for not at all."""
    from torchvision.transforms import Resize

    # Only the usual way of resizing, of the shorter side to one length, is known to be repeated exactly.
    first = _steps(clip)[0]
    if type(first) is not Resize or not isinstance(first.size, int) or first.max_size is not None:
        return None
    return round(SPARE * first.size)


def _centre(first: Any, others: Sequence[Any]) -> int | None:
    """Return the side of the central square that is all that is left of an image, None where the steps are others."""
    from torchvision.transforms import CenterCrop, Resize

    usual = type(first) is Resize and isinstance(first.size, int) and first.max_size is None
    crops = [tuple(step.size) for step in others if type(step) is CenterCrop]
    return first.size if usual and crops == [(first.size, first.size)] else None


def _resize_centre(image: PILImage, side: int, resize: Any) -> PILImage:
    """Return the central square of an image resized to a shorter side, without making the pixels that are cut away.

    Each pixel is made of the same pixels by the same weights as in the whole; only what is rounded between rows and
    columns may differ.
    """
    from PIL.Image import Resampling

    size = _size_of(image.size, side)
    left, top = (round((length - side) / 2.0) for length in size)
    across, down = (length / made for length, made in zip(image.size, size, strict=True))
    box = (left * across, top * down, (left + side) * across, (top + side) * down)
    return image.resize((side, side), Resampling[resize.interpolation.name], box=box)


def _size_of(whole: tuple[int, int], side: int) -> tuple[int, int]:
    """Return width and height when the shorter side is resized to ``side``, as torchvision rounds them."""
    shorter, longer = sorted(whole)
    size = (side, int(side * longer / shorter))
    return size if whole[0] <= whole[1] else size[::-1]


def _resize_reduced(image: PILImage, whole: tuple[int, int], resize: Any) -> PILImage:
    from PIL.Image import Resampling

    # The decoder rounds sides up; what lies beyond the image's true edge is not looked at.
    factor = max(1, round(max(whole) / max(image.size)))
    box = (0.0, 0.0, min(image.width, whole[0] / factor), min(image.height, whole[1] / factor))
    resampling = Resampling[resize.interpolation.name]
    return image.resize(_size_of(whole, resize.size), resampling, box=box)


def tower_of(clip: LoadedClip) -> Tower:
    """Return the image tower of a loaded CLIP."""
    from PIL import Image

    normalize = _steps(clip)[-1]
    blank = DecodedImage(Image.new("RGB", (64, 64)), 64, 64, "")
    height, width, _ = cropper(clip)(blank).shape

    def prompts() -> npt.NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            said = clip.model.encode_text(clip.tokenizer(list(GATE_PROMPTS))).float()
            vectors: npt.NDArray[np.float32] = torch.nn.functional.normalize(said, dim=-1).numpy()
        return vectors

    return Tower(
        embed=clip.model.encode_image,
        visual=getattr(clip.model, "visual", None),
        mean=tuple(float(value) for value in normalize.mean),
        std=tuple(float(value) for value in normalize.std),
        size=(height, width),
        pack=clip.pack,
        prompts=prompts,
    )


def _steps(clip: LoadedClip) -> list[Any]:
    return list(getattr(clip.preprocess, "transforms"))  # noqa: B009  # a torchvision Compose, which has no types


def network_of(
    tower: Tower, embed: Any, dtype: torch.dtype | None = None, *, channels_last: bool = False
) -> torch.nn.Module:
    """Return a module from pixels to vectors: uint8 (n, height, width, 3) → (n, dim).

    embed: from normalised floats to vectors; it is run in `dtype`, by default float32. channels_last: leave floats in
    the order in which the pixels came, as GPUs like it.
    """
    import torch

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = embed
            self.register_buffer("mean", torch.tensor(tower.mean, dtype=torch.float32).view(-1, 1, 1))
            self.register_buffer("std", torch.tensor(tower.std, dtype=torch.float32).view(-1, 1, 1))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            first = pixels.permute(0, 3, 1, 2)
            # In the order in which torchvision does it, so that every bit is the same.
            scaled = (first if channels_last else first.contiguous()).float().div(255)
            values = scaled.sub(cast("torch.Tensor", self.mean)).div(cast("torch.Tensor", self.std))
            vectors: torch.Tensor = self.embed(values if dtype is None else values.to(dtype))
            return vectors

    return Network().eval()
