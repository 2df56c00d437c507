"""Which feature of an encoder an LF reads: the one that sees images, or the one that sees texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from manyeyes.errors import InvalidRecipe

ENCODERS: Final = {"image": "clip", "text": "text"}
"""The encoder that an LF uses which names none, by what it is on."""


def feature_of(using: str, on: str, modalities: Callable[[str], Mapping[str, str]]) -> str:
    """Return the feature of an encoder that reads what an LF is on: "clip.text" for texts in CLIP's space.

    modalities: from the name of a primitive to its features, each with what it reads; empty where that is not known.
    Raises InvalidRecipe if the encoder does not read that.
    """
    features = modalities(using.partition(".")[0])
    fitting = [feature for feature, modality in features.items() if modality == on]
    if not features or using in fitting:
        return using
    if not fitting or (using in features and "." in using):
        reads = ", ".join(sorted(set(features.values())))
        raise InvalidRecipe(
            f"{using!r} reads {reads}, not {on}; use another encoder, or write on: {features.get(using, reads)}"
        )
    return fitting[0]
