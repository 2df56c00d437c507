"""How good a detector is on scenes it never saw: average precision at IoU 0.5, and presence per photograph."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from manyeyes.models.starter.scene_sources import Boxes, Image, LabeledPhoto, Sources
from manyeyes.models.starter.scenes import Scene, collage, degrade, solo

SEED = 20_000  # held-out scenes have seeds that no training run uses


@dataclass(frozen=True)
class Detections:
    """What a detector found in one image. boxes: float32 (n, 4) pixels; scores: float32 (n,); classes: int64 (n,)."""

    boxes: Boxes
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]


Detect = Callable[[Sequence[Image]], list[Detections]]  # RGB images of any sizes


def held_out_collages(sources: Sources, *, n_scenes: int, size: int) -> list[Scene]:
    """Return collages made as in training, of the given sources; the first n are the same whatever n is."""
    scenes = []
    for i in range(n_scenes):
        rng = np.random.default_rng((SEED, i))
        scenes.append(degrade(collage(sources, rng, size), rng))
    return scenes


def held_out_solos(sources: Sources, *, n_scenes: int, size: int) -> list[Scene]:
    """Return single photographs of single things, each filling its scene, untouched otherwise."""
    return [solo(sources, np.random.default_rng((SEED + 1, i)), size) for i in range(n_scenes)]


def overlap(a: Boxes, b: Boxes) -> NDArray[np.float32]:
    """Return the intersection over union of every box in a (n, 4) with every box in b (m, 4): float32 (n, m)."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (a, b)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-9), np.float32)


def average_precisions(
    truth: Sequence[Scene | LabeledPhoto], found: Sequence[Detections], *, iou: float = 0.5
) -> dict[int, tuple[float, int]]:
    """Return for every class in the truth its average precision and how many boxes it has.

    A detection is right if it overlaps a box of its class, that no better detection took, by at least `iou`;
    precision is interpolated at 101 recalls, as COCO does it.
    Raises ValueError when truth and found are not of the same length.
    """
    scores: dict[int, list[tuple[float, bool]]] = {}
    counts: dict[int, int] = {}
    for scene, detections in zip(truth, found, strict=True):
        for class_id in np.union1d(scene.classes, detections.classes).tolist():
            boxes = scene.boxes[scene.classes == class_id]
            mine = detections.classes == class_id
            order = np.argsort(-detections.scores[mine], kind="stable")
            overlaps = overlap(detections.boxes[mine][order], boxes)
            taken = np.zeros(len(boxes), bool)
            counts[class_id] = counts.get(class_id, 0) + len(boxes)
            for score, row in zip(detections.scores[mine][order].tolist(), overlaps, strict=True):
                free = np.where(taken, -1.0, row)
                best = int(free.argmax()) if len(free) else -1
                right = best >= 0 and bool(free[best] >= iou)
                if right:
                    taken[best] = True
                scores.setdefault(class_id, []).append((score, right))
    return {
        class_id: (_interpolated(scores.get(class_id, []), count), count)
        for class_id, count in sorted(counts.items())
        if count
    }


def _interpolated(scored: list[tuple[float, bool]], count: int) -> float:
    if not scored:
        return 0.0
    hits = np.array([right for _, right in sorted(scored, key=lambda pair: -pair[0])], bool)
    recall = hits.cumsum() / count
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.where(at < len(hits), envelope[np.minimum(at, len(hits) - 1)], 0.0).mean())


def mean_average_precision(precisions: dict[int, tuple[float, int]]) -> float:
    """Return the mean over the classes that occur; NaN when none does."""
    return float(np.mean([value for value, _ in precisions.values()])) if precisions else float("nan")


def presence(
    truth: Sequence[Scene | LabeledPhoto], found: Sequence[Detections], *, class_id: int, score: float
) -> tuple[float, float, float]:
    """Return (precision, recall, accuracy) of "is there one at all", what `count(x) >= 1` asks, one vote an image.

    score: from which score on a detection counts.
    """
    there = np.array([bool((scene.classes == class_id).any()) for scene in truth])
    said = np.array([bool(((d.classes == class_id) & (d.scores >= score)).any()) for d in found])
    both = float((there & said).sum())
    precision = both / max(float(said.sum()), 1.0)
    return precision, both / max(float(there.sum()), 1.0), float((there == said).mean())
