"""Suggested labeling functions for a recipe and some items, and a recipe that has taken some of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from manyeyes.errors import InvalidRequest, ManyeyesError, MissingDependency, ModelNotFound, nearest
from manyeyes.labeler import gold_indices
from manyeyes.lfs.build import build_lfs
from manyeyes.lfs.nouns import EVERYDAY
from manyeyes.lfs.suggest import FAMILIES, Suggestion, suggest
from manyeyes.lfs.suggest_prompts import propose_examples
from manyeyes.lfs.suggest_view import Known, View
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.extractor import Extractor
from manyeyes.recipe import Recipe
from manyeyes.recipe_parts import default_primitive
from manyeyes.settings import home
from manyeyes.types import ABSTAIN, Item

_READS: Final = {"clip": "image", "image": "image", "detector": "image", "text": "text"}
"""Primitives that suggestions look at, and what an item needs for them."""
_CHUNK: Final = 512


def suggest_lfs(
    recipe: Recipe,
    items: Sequence[Item],
    gold: Mapping[str, str] | None = None,
    *,
    words: Sequence[str] = (),
    families: Sequence[str] = tuple(FAMILIES),
    without: Sequence[str] = (),
    extractor: Extractor | None = None,
    count_existing: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[Suggestion]:
    """Return candidates for a recipe, those worth taking first.

    gold: item id → class, for the items whose label is known. words: nouns to make prompts of, beside everyday ones.
    families: what candidates are made of. without: primitives that are not to be asked, such as "detector".
    extractor: what computes features; by default one with the cache in ``settings.home()``. count_existing: whether
    what the recipe's own LFs cover counts for less.
    Raises InvalidRequest if a gold label does not fit, or too few are known.
    """
    unknown = [name for name in families if name not in FAMILIES]
    if unknown:
        allowed = list(FAMILIES)
        raise InvalidRequest(
            f"no suggestions are made of {unknown[0]!r}; allowed: {', '.join(allowed)}{nearest(unknown[0], allowed)}"
        )
    items = list(items)
    there = build_lfs(recipe) if count_existing else []
    asked = _asked(items, without)
    extractor = extractor or _extractor(recipe, asked)
    needs = {feature for lf in there for feature in lf.reads} | {
        n for n in asked if n in extractor.primitives
    }
    view = View(recipe.classes, _features(extractor, items, needs, progress), extractor, (*EVERYDAY, *words))
    for lf in there:
        lf.prepare(extractor)
    known = None
    if gold is not None:
        labels = gold_indices(gold, [item.id for item in items], recipe.classes)
        assert labels is not None
        labels[sorted(view.features.errors)] = ABSTAIN
        rows = np.flatnonzero(labels != ABSTAIN)
        known = Known(rows.astype(np.int64), labels[rows].astype(np.int64))
    return [_with_paths(s, view, known) for s in suggest(view, known, there=there, families=families)]


def accept(
    recipe: Recipe,
    suggestions: Sequence[Suggestion],
    names: Sequence[str] | None = None,
    *,
    keep: bool = True,
    folder: str | os.PathLike[str] = ".",
) -> Recipe:
    """Return a recipe with some suggestions in it. names: which; by default those that were chosen.

    keep: whether the recipe's own LFs stay. folder: where the recipe will lie, since paths of examples begin there.
    Raises InvalidRequest if no suggestion has one of the names, or nothing would be left.
    """
    by_name = {suggestion.name: suggestion for suggestion in suggestions}
    if names is None:
        names = [suggestion.name for suggestion in suggestions if suggestion.chosen]
    for name in names:
        if name not in by_name:
            raise InvalidRequest(
                f"nothing called {name!r} was suggested; there are: {', '.join(by_name)}{nearest(name, by_name)}"
            )
    document = recipe.document()
    document["lfs"] = [
        *(document["lfs"] if keep else []),
        *(_relative(by_name[n].document, folder) for n in names),
    ]
    if not document["lfs"]:
        raise InvalidRequest("no suggestion was taken, so there is no labeling function; accept some by name")
    return Recipe.parse(document, source=recipe.name, folder=folder)


def _asked(items: Sequence[Item], without: Sequence[str]) -> list[str]:
    there = {
        "image": any(item.image is not None for item in items),
        "text": any(item.text for item in items),
    }
    return [name for name, half in _READS.items() if there[half] and name not in without]


def _extractor(recipe: Recipe, asked: Sequence[str]) -> Extractor:
    specs = dict(recipe.primitives)
    for name in asked:
        specs.setdefault(name, default_primitive(name))
    usable = {}
    for name, spec in specs.items():
        try:
            Extractor.for_specs({name: spec}).versions([name])
            usable[name] = spec
        except (MissingDependency, ModelNotFound):
            if name in recipe.primitives:
                raise
        except ManyeyesError:
            usable[name] = spec
    return Extractor.for_specs(usable, cache=Cache.shared(home() / "cache"))


def _features(
    extractor: Extractor, items: Sequence[Item], needs: set[str], progress: Callable[[int], None] | None
) -> Any:
    from manyeyes.collection import Collection

    return Collection(tuple(items)).features(extractor, sorted(needs), chunk_size=_CHUNK, progress=progress)


def _with_paths(suggestion: Suggestion, view: View, known: Known | None) -> Suggestion:
    """Return a suggestion whose examples are named by the files that they lie in, where they do."""
    if suggestion.family != "examples" or known is None:
        return suggestion
    images = {
        row: os.path.abspath(os.fspath(image))
        for row in known.rows.tolist()
        if isinstance(image := view.features.items[row].image, (str, os.PathLike))
    }
    for document in propose_examples(replace(view, images=images), known):
        if document["on"] == suggestion.document["on"]:
            return replace(suggestion, document={**document, "name": suggestion.name})
    return suggestion


def _relative(document: dict[str, Any], folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return an LF whose paths begin in a folder."""
    if "examples" not in document:
        return document
    base = Path(folder).absolute()

    def told(example: Any) -> Any:
        if isinstance(example, Mapping) and "path" in example:
            return {"path": os.path.relpath(example["path"], base)}
        return example

    examples = {name: [told(one) for one in given] for name, given in document["examples"].items()}
    return {**document, "examples": examples}
