"""What a job stored of its primitives, as exports read it: the detector's boxes, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np

from manyeyes.errors import InvalidRequest, NotFound, nearest
from manyeyes.primitives.base import Features
from manyeyes.primitives.detection import DTYPE as BOXES
from manyeyes.recipe_parts import modalities
from manyeyes.service.jobs.sinks.base import Boxes, Dataset, ExportOptions


def stored(dataset: Dataset, feature: str) -> Iterator[Features] | None:
    """Return the blocks of a feature, or None where the job stored none."""
    try:
        blocks = dataset.features(feature)
        first = None if blocks is None else next(blocks, None)
    except NotFound:
        return None
    return None if first is None or blocks is None else chain([first], blocks)


def image_features(dataset: Dataset) -> list[str]:
    """Return the names of the features that the recipe has of images, sorted."""
    declared = dataset.recipe.primitives
    found = []
    for feature in sorted(dataset.versions.primitives):
        if "@" in feature:
            continue
        # Empty where the checkpoint is not on this machine; then what is stored tells.
        known = modalities(feature.partition(".")[0], declared)
        if known.get(feature) == "image" or (not known and "." not in feature):
            found.append(feature)
    return found


def find_detector(dataset: Dataset, options: ExportOptions) -> tuple[str, tuple[str, ...]] | None:
    """Return the feature that shows boxes, and what its labels are called; None where the job has no detector.

    Raises InvalidRequest if there are several and none was chosen, or the chosen one is none.
    """
    found = {}
    for feature in image_features(dataset):
        if options.detector not in (None, feature):
            continue
        blocks = stored(dataset, feature)
        block = None if blocks is None else next(blocks)
        if block is not None and block.offsets is not None and block.rows.dtype == BOXES:
            found[feature] = tuple(block.info["names"])
    if options.detector is not None and not found:
        known = image_features(dataset)
        raise InvalidRequest(
            f"detector: {options.detector!r} gave no boxes in this job, or they were not stored; features of images:"
            f" {', '.join(known) or 'none'}{nearest(options.detector, known)}"
        )
    if len(found) > 1:
        raise InvalidRequest(f"the recipe has several detectors: {', '.join(found)}; say which as detector")
    return next(iter(found.items()), None)


def boxes_of(dataset: Dataset, feature: str, options: ExportOptions) -> Iterator[Boxes]:
    """Yield what a detector found in every row, in the order of ``rows()``; nothing where a row has no image."""
    blocks = stored(dataset, feature)
    for block in blocks if blocks is not None else ():
        assert block.offsets is not None
        for start, end in zip(block.offsets[:-1].tolist(), block.offsets[1:].tolist(), strict=True):
            rows = block.rows[start:end]
            rows = rows[rows["score"] >= options.min_score]
            relative = rows["fraction"].astype(np.float32)
            # A box without an area is none to any reader.
            wide = (relative[:, 2:] > relative[:, :2]).all(axis=1)
            yield Boxes(relative[wide], rows["label"][wide].astype(np.int64), rows["score"][wide])
