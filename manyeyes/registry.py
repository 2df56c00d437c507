"""Every extension point of manyeyes, visible on one page.

A built-in is one line in a dict below: ``name: "module:attribute"``, imported only when it is asked for. Other people's
packages add theirs through the entry point groups of the same names.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Literal, TypeAlias

from manyeyes.errors import InvalidRecipe, nearest

Group: TypeAlias = Literal["manyeyes.primitives", "manyeyes.lfs", "manyeyes.label_models"]

BUILT_IN: dict[Group, dict[str, str]] = {
    # kind: a manyeyes.primitives.base.PrimitiveKind, which is a pydantic `Spec` and a `build`
    "manyeyes.primitives": {
        "clip": "manyeyes.primitives.clip:KIND",
        "detector": "manyeyes.primitives.detector:KIND",
        "regions": "manyeyes.primitives.regions:KIND",
        "text": "manyeyes.primitives.text:KIND",
        "image": "manyeyes.primitives.image:KIND",
        "ocr": "manyeyes.primitives.ocr:KIND",
        "text_facts": "manyeyes.primitives.text_facts:KIND",
        "fields": "manyeyes.primitives.fields:KIND",
        "toy": "manyeyes.primitives.toy:KIND",
    },
    # kind: a class (spec, classes) with a pydantic `Spec`; see manyeyes.lfs.base
    "manyeyes.lfs": {
        "prompt": "manyeyes.lfs.prompt:PromptLF",
        "detect": "manyeyes.lfs.detect:DetectLF",
        "where": "manyeyes.lfs.where:WhereLF",
        "region_prompt": "manyeyes.lfs.region_prompt:RegionPromptLF",
        "keyword": "manyeyes.lfs.keyword:KeywordLF",
        "regex": "manyeyes.lfs.keyword:RegexLF",
        "dictionary": "manyeyes.lfs.dictionary:DictionaryLF",
        "metadata": "manyeyes.lfs.metadata:MetadataLF",
        "nli": "manyeyes.lfs.nli:NliLF",
        "neighbors": "manyeyes.lfs.neighbors:NeighborsLF",
        "chat": "manyeyes.lfs.chat:ChatLF",
        "python": "manyeyes.lfs.python:PythonLF",
    },
    # name: a class of manyeyes.models.base.LabelModel
    "manyeyes.label_models": {
        "auto": "manyeyes.models.auto:Auto",
        "majority": "manyeyes.models.majority:MajorityVote",
        "dawid_skene": "manyeyes.models.pooled:DawidSkene",
        "one_coin": "manyeyes.models.pooled:OneCoin",
        "score_aware": "manyeyes.models.pooled:ScoreAware",
        "dependency_aware": "manyeyes.models.pooled:DependencyAware",
        "triplet": "manyeyes.models.triplet:Triplet",
        "embedding_aware": "manyeyes.models.neighbors:EmbeddingAware",
    },
}


def names(group: Group) -> list[str]:
    """Return the names that can be loaded from a group: the built-ins, then what other packages add."""
    others = sorted({entry.name for entry in entry_points(group=group)} - set(BUILT_IN[group]))
    return [*BUILT_IN[group], *others]


def load(group: Group, name: str) -> Any:
    """Import and return what a group knows under a name.

    Raises InvalidRecipe if nothing has that name; the message lists what is allowed and the nearest word.
    """
    target = BUILT_IN[group].get(name)
    if target is not None:
        module, _, attribute = target.partition(":")
        return getattr(import_module(module), attribute)
    for entry in entry_points(group=group):
        if entry.name == name:
            return entry.load()
    what = {
        "manyeyes.primitives": "primitive",
        "manyeyes.lfs": "LF kind",
        "manyeyes.label_models": "label model",
    }
    allowed = names(group)
    raise InvalidRecipe(
        f"unknown {what[group]} {name!r}; allowed: {', '.join(allowed)}{nearest(name, allowed)}"
    )
