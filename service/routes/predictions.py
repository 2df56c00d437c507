"""Labels and boxes as Label Studio's predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manyeyes.errors import InvalidRequest, ItemError
from manyeyes.primitives.base import PrimitiveSpec
from manyeyes.primitives.detection import DTYPE as BOXES
from manyeyes.recipe import Recipe
from manyeyes.recipe_parts import default_primitive
from manyeyes.service.intake.label_config import Control, LabelConfig, choices_for
from manyeyes.service.pipeline.engine import Seen
from manyeyes.service.pipeline.offered import built
from manyeyes.service.routes.features import boxes_of
from manyeyes.types import Label


@dataclass(frozen=True, slots=True)
class Plan:
    """What is predicted of a task.

    choices: where the label goes, and class → how a result has it. boxes: where boxes go. detector: what finds them.
    """

    choices: tuple[Control, Mapping[str, str]] | None
    boxes: Control | None
    detector: PrimitiveSpec | None


def plan(config: LabelConfig, recipe: Recipe) -> Plan:
    """Return what of a labeling config a recipe can fill in: Choices with its classes, RectangleLabels with boxes.

    Raises InvalidRequest, with what is missing, if that is nothing.
    """
    rectangles = [one for one in config.of("rectanglelabels") if config.halves[one.to_name] == "image"]
    detector = detector_of(recipe) if rectangles else None
    boxes = next((one for one in rectangles if detector is not None and _fits(one, detector)), None)
    if boxes is not None and not config.of("choices"):
        return Plan(None, boxes, detector)
    if rectangles and boxes is None and not config.of("choices"):
        names = _known_names(detector) if detector is not None else None
        raise InvalidRequest(
            "the labeling config does not fit the recipe: none of its RectangleLabels is something that the recipe's"
            f" detector finds{': ' + ', '.join(names[:40]) if names else ''}"
        )
    return Plan(choices_for(config, recipe.classes), boxes, detector if boxes is not None else None)


def detector_of(recipe: Recipe) -> PrimitiveSpec | None:
    """Return the recipe's detector: the first that it declares, else the usual one."""
    for spec in [*recipe.primitives.values(), default_primitive("detector")]:
        given = built(spec).get(spec.kind) if not spec.needs else None
        if given is not None and given.ragged and given.dtype == BOXES:
            return spec
    return None


def prediction(
    n: int,
    planned: Plan,
    *,
    label: Label | None,
    seen: Seen | None,
    error: ItemError | None,
    model_version: str,
) -> dict[str, Any]:
    """Return the prediction of the n-th task. label, seen: what was asked for, None where it was not."""
    error = error or (label.error if label is not None else None)
    if error is None and seen is not None:
        error = seen.features.errors.get(n)
    if error is not None:
        return {"error": {"code": error.code, "message": str(error)}}
    regions: list[dict[str, Any]] = []
    score = 0.0
    if label is not None and planned.choices is not None:
        control, told = planned.choices
        score = float(label.confidence or 0.0)
        if label.label is not None:
            regions.append(_region(control, {"choices": [told[label.label]]}, score))
    if seen is not None and planned.boxes is not None and planned.detector is not None:
        found = _boxes(n, seen, planned.boxes, planned.detector)
        if label is None and found:
            score = float(np.mean([box["score"] for box in found]))
        regions += found
    for i, region in enumerate(regions):
        region["id"] = f"manyeyes-{i}"
    return {"result": regions, "score": score, "model_version": model_version}


def _boxes(n: int, seen: Seen, control: Control, detector: PrimitiveSpec) -> list[dict[str, Any]]:
    block, sizes = seen.features[detector.kind], seen.features["image"]
    if not block.present[n] or block.offsets is None:
        return []
    names = list(block.info["names"])
    told = control.match(names)
    regions = []
    for box in boxes_of(block.rows[block.offsets[n] : block.offsets[n + 1]], names):
        if box["label"] not in told:
            continue
        left, top, right, bottom = (100 * value for value in box["relative"])
        value = {
            "x": left,
            "y": top,
            "width": right - left,
            "height": bottom - top,
            "rotation": 0,
            "rectanglelabels": [told[box["label"]]],
        }
        regions.append(
            {
                **_region(control, value, box["score"]),
                "original_width": int(sizes["width"][n]),
                "original_height": int(sizes["height"][n]),
                "image_rotation": 0,
            }
        )
    return regions


def _region(control: Control, value: Mapping[str, Any], score: float) -> dict[str, Any]:
    return {
        "from_name": control.name,
        "to_name": control.to_name,
        "type": control.kind,
        "value": dict(value),
        "score": score,
    }


def _fits(control: Control, detector: PrimitiveSpec) -> bool:
    names = _known_names(detector)
    # Else the detector would have to be loaded, and Label Studio waits three seconds for an answer.
    return bool(control.values) if names is None else bool(control.match(names))


def _known_names(detector: PrimitiveSpec) -> Sequence[str] | None:
    """Return what a detector finds, where that is known without loading it."""
    told: Sequence[str] = getattr(detector, "classes", ())
    if told:
        return told
    if detector.model != default_primitive("detector").model:
        return None
    names: Sequence[str] = built(detector)[detector.kind].info["names"]
    return names
