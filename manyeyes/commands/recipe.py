"""``manyeyes recipe check``: whether a recipe can be used, and what its version is."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from manyeyes.commands import screen


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
