"""The recipe of a command, and ``manyeyes recipe check``: whether one can be used, and what its version is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from manyeyes.commands import screen
from manyeyes.errors import InvalidRecipe, InvalidRequest

if TYPE_CHECKING:
    from manyeyes.recipe import Recipe


def check(path: Path) -> int:
    """Validate a recipe, build its labeling functions and print its version; return exit code 0.

    Raises InvalidRecipe if it cannot be used as written.
    """
    from manyeyes.lfs.build import build_lfs
    from manyeyes.recipe import Recipe

    recipe = Recipe.load(path)
    lfs = build_lfs(recipe)
    console = screen.out()
    console.print(
        Text(f"{recipe.name}: {len(recipe.classes)} classes, {len(lfs)} labeling functions; it can be used.")
    )
    rows = [(lf.name, lf.kind, ", ".join(lf.reads) or "–") for lf in lfs]
    console.print(screen.table("", ("function", "kind", "reads"), rows, words=("kind", "reads")))
    console.print(Text(f"version {recipe.version}"))
    return 0


def chosen_recipe(
    *, file: Path | None, classes: str | None, models: Mapping[str, str | None] | None = None
) -> Recipe:
    """Return the recipe of a file, or a warm start from class names, with other models put in.

    classes: names with commas between them. models: kind of primitive → the model to use instead, or None.
    Raises InvalidRequest unless exactly one of recipe and classes is given, InvalidRecipe if it cannot be used.
    """
    from manyeyes.recipe import Recipe

    if (file is None) == (classes is None):
        came = "neither" if file is None else "both"
        raise InvalidRequest(
            f"{came} of --recipe and --classes were given; name a recipe file with --recipe recipe.yaml, or only the"
            ' classes with --classes "cat, dog, bird"'
        )
    if file is not None:
        recipe = Recipe.load(file)
    else:
        recipe = Recipe.warm_start([name.strip() for name in (classes or "").split(",") if name.strip()])
    for kind, model in (models or {}).items():
        if model is not None:
            recipe = _with_model(recipe, kind=kind, model=model)
    return recipe


def _with_model(recipe: Recipe, *, kind: str, model: str) -> Recipe:
    named = [name for name, spec in recipe.primitives.items() if spec.kind == kind]
    if not named:
        raise InvalidRecipe(
            f"--{kind} {model}: recipe {recipe.name!r} has no primitive of kind {kind!r}; it has"
            f" {', '.join(sorted(recipe.primitives)) or 'none'}. Leave the option out or add one"
        )
    document = recipe.document()
    for name in named:
        # The digest that the recipe pins is that of the model it names.
        kept = {field: value for field, value in document["primitives"][name].items() if field != "sha256"}
        document["primitives"][name] = kept | {"model": model}
    return type(recipe).parse(document, source=recipe.name)
