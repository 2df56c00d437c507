"""Where in a photograph is it? Heat maps and boxes for prompts, by a CLIP alone.

::

    from manyeyes.lfs.grounding import ground

    [found] = ground(["street.jpg"], "a red car")
    found.heat        # float32, shape (28, 28): 0 to 1
    found.x, found.y  # the hottest point, as fractions of the image
    found.boxes       # float32, shape (n_boxes, 4): x0, y0, x1, y1 as fractions, the hottest first

How good that is depends on the CLIP; `benchmarks/grounding.py` measures the starter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manyeyes.lfs.heat import BACKGROUND, SHARE, finer, heat_maps, hot_boxes, peaks
from manyeyes.lfs.where import photo_of, scale_of
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.clip import ClipSpec
from manyeyes.primitives.extractor import Extractor
from manyeyes.types import ImageSource, Item


@dataclass(frozen=True)
class Grounding:
    """Where a prompt is seen in one image.

    heat: float32, shape (rows, columns), 0 to 1: how surely that place shows the prompt rather than the background. It
    covers the whole image, whatever its shape. score: of the hottest point. x, y: where it is, as fractions.
    boxes: float32, shape (n_boxes, 4), x0, y0, x1, y1 as fractions, around connected hot regions, the hottest first.
    scores: float32, shape (n_boxes,), the heat of each one's hottest point.
    """

    heat: npt.NDArray[np.float32]
    score: float
    x: float
    y: float
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]


def ground(
    images: Sequence[ImageSource],
    prompt: str | Sequence[str],
    *,
    model: str = "starter",
    against: Sequence[str] = BACKGROUND,
    min_score: float = 0.5,
    share: float = SHARE,
    cache: Cache | None = None,
    extractor: Extractor | None = None,
) -> list[Grounding]:
    """Return where some images show a prompt, one Grounding an image.

    images: bytes, paths or PIL images. prompt: a name or a sentence, or several wordings of one thing. model: a CLIP,
    as in ``kind: clip``. against: prompts of the background. min_score, share: as in ``kind: where``. cache: where maps
    are kept. extractor: one that has a primitive ``clip``, in place of model and cache.
    Raises the first image's ItemError, InvalidRecipe if the CLIP gives no map, ModelNotFound or MissingDependency.
    """
    extractor = extractor or Extractor.for_specs({"clip": ClipSpec(kind="clip", model=model)}, cache=cache)
    features = extractor.extract([Item(str(i), image=image) for i, image in enumerate(images)], ["clip.map"])
    for error in features.errors.values():
        raise error
    wordings = [photo_of(prompt)] if isinstance(prompt, str) else list(prompt)
    heat = heat_maps(
        features["clip.map"]["map"],
        extractor.encode("clip", wordings),
        extractor.encode("clip", list(against)),
        scale=scale_of(extractor.info("clip.map")),
    )
    heat = finer(heat)
    hot, points = hot_boxes(heat, least=min_score, share=share), peaks(heat)
    return [
        Grounding(
            heat=heat[i].astype(np.float32),
            score=float(heat[i].max()),
            x=float(points[i, 0]),
            y=float(points[i, 1]),
            boxes=hot.corners[hot.items == i].astype(np.float32),
            scores=hot.scores[hot.items == i].astype(np.float32),
        )
        for i in range(len(images))
    ]
