"""Calibrate the prompt LFs of a recipe on the user's own items; what is found becomes numbers in the recipe.

    calibrated = calibrate(Recipe.load("garments.yaml"), items)

What the numbers are is told in :mod:`manyeyes.lfs.prompt_calibration`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from manyeyes.errors import InvalidRequest, nearest
from manyeyes.labeler import Labeler, gold_indices
from manyeyes.lfs.prompt import PromptLF
from manyeyes.lfs.prompt_calibration import MIN_ITEMS, fit_calibration
from manyeyes.lfs.prompt_spec import Modality
from manyeyes.primitives.extractor import Extractor
from manyeyes.prompting import Progress, in_chunks
from manyeyes.recipe import Recipe
from manyeyes.types import ABSTAIN, Item


def calibrate(
    recipe: Recipe,
    items: Iterable[Item],
    *,
    gold: Mapping[str, str] | None = None,
    lfs: Sequence[str] = (),
    folder: str | os.PathLike[str] | None = None,
    extractor: Extractor | None = None,
    progress: Progress | None = None,
) -> Recipe:
    """Return a recipe whose prompt LFs are calibrated on some items.

    gold: item id → class name, of items whose label is known. lfs: names of those to calibrate; all prompt LFs without.
    folder: where the paths in the recipe begin. extractor: computes features; by default the recipe's own.
    Items that cannot be read are left out. An earlier calibration is forgotten.
    Raises InvalidRequest if there are too few items, an LF is not a prompt LF, or gold is of other items or classes.
    """
    recipe = _uncalibrated(recipe, lfs, folder)
    labeler = Labeler(recipe, extractor=extractor)
    prompting = [lf for lf in labeler.lfs if isinstance(lf, PromptLF)]
    named = [lf.name for lf in prompting]
    for name in lfs:
        if name not in named:
            raise InvalidRequest(
                f"{name!r} is no prompt LF of this recipe; there are: {', '.join(named)}{nearest(name, named)}"
            )
    if not named:
        raise InvalidRequest(f"recipe {recipe.name!r} has no prompt LF to calibrate")
    chosen = [lf for lf in prompting if not lfs or lf.name in lfs]
    for lf in chosen:
        lf.prepare(labeler.extractor)
    needs = sorted({feature for lf in chosen for feature in lf.reads})
    seen: dict[tuple[str, Modality], list[tuple[Any, Any, Any]]] = {}
    ids: list[str] = []
    for chunk in in_chunks(items):
        features = labeler.extractor.extract(chunk, needs)
        known = [(gold or {}).get(item.id) for item in chunk]
        for lf in chosen:
            place = {name: index for index, name in enumerate(lf.prompted)}
            truth = np.array([ABSTAIN if name is None else place.get(name, ABSTAIN) for name in known])
            for modality in lf.spec.modalities:
                present = features[lf.spec.feature(modality)].present
                logits, background = lf.uncalibrated(features, modality)
                seen.setdefault((lf.name, modality), []).append((logits, background, truth[present]))
        ids += [item.id for item in chunk]
        if progress is not None:
            progress(len(ids))
    gold_indices(gold, ids, recipe.classes)  # says what is wrong with gold
    document = recipe.document()
    for lf in chosen:
        told = next(told for told in document["lfs"] if told["name"] == lf.name)
        told["calibrated"] = {}
        for modality in lf.spec.modalities:
            logits, background, truth = _joined(seen.get((lf.name, modality), []))
            if len(lf.spec.modalities) > 1 and len(logits) < MIN_ITEMS and modality == "text":
                continue  # the image carries it alone
            found = fit_calibration(
                logits,
                background,
                names=lf.prompted,
                scale=lf.scale(modality),
                gold=None if gold is None else truth,
            )
            told["calibrated"][modality] = found.model_dump(exclude_none=True)
    return Recipe.parse(document, source=recipe.name, folder=folder)


def _uncalibrated(recipe: Recipe, lfs: Sequence[str], folder: str | os.PathLike[str] | None) -> Recipe:
    document = recipe.document()
    for told in document["lfs"]:
        if not lfs or told["name"] in lfs:
            told.pop("calibrated", None)
    return Recipe.parse(document, source=recipe.name, folder=folder)


def _joined(parts: Sequence[tuple[Any, Any, Any]]) -> tuple[Any, Any, Any]:
    if not parts:
        raise InvalidRequest(
            "there are no items to calibrate on; name images or texts of the kind to be labeled"
        )
    logits, backgrounds, truth = zip(*parts, strict=True)
    together = None if backgrounds[0] is None else np.concatenate(backgrounds)
    return np.concatenate(logits), together, np.concatenate(truth)
