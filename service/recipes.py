"""The recipes that callers may use: those in the operator's folder, by name, and those that come with a call.

A stored recipe is a file ``<name>.yaml`` (or ``.yml``, ``.json``); a folder ``<name>.label_model`` beside it, as
``Labeler.save_label_model`` writes one, holds its fitted label model. Files are read again when they change. What comes
with a call is not trusted: it may name only the models that the operator allows, and nothing that runs code or reads
files.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from manyeyes.errors import InvalidRecipe, ManyeyesError, RecipeNotFound, RequestTooLarge, nearest
from manyeyes.recipe import Recipe
from manyeyes.service.settings import ServiceSettings

SUFFIXES: Final = (".yaml", ".yml", ".json")
LABEL_MODEL_SUFFIX: Final = ".label_model"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")


@dataclass(frozen=True, slots=True)
class ServedRecipe:
    """A recipe that a call is labeled with.

    label_model: the folder of the fitted one, or None. fitted_ns: when it was written. stored: by the operator, under
    this name.
    """

    name: str
    recipe: Recipe
    label_model: Path | None = None
    fitted_ns: int = 0
    stored: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        """Equal keys label alike: the recipe's version, and which label model was fitted when."""
        return self.recipe.version, str(self.label_model or ""), self.fitted_ns


class RecipeStore:
    """The operator's folder of recipes, read-only. folder: None where there is none.

    Reads from disk, so that its methods belong on a worker thread, not on the event loop.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = None if folder is None else folder.resolve()
        self._parsed: dict[Path, tuple[tuple[int, int], Recipe]] = {}

    def names(self) -> list[str]:
        """Return the names of all recipe files, sorted."""
        if self.folder is None:
            return []
        found = {path.stem for path in self.folder.iterdir() if path.suffix in SUFFIXES and path.is_file()}
        return sorted(name for name in found if _NAME.fullmatch(name))

    def get(self, name: str) -> ServedRecipe:
        """Return a stored recipe.

        Raises RecipeNotFound, with the nearest name, if there is none; InvalidRecipe if the file cannot be used.
        """
        path = self._path(name)
        if path is None or self.folder is None:
            known = self.names()
            told = f"stored are {', '.join(known[:20])}" if known else "this service stores none"
            raise RecipeNotFound(
                f"no recipe {name!r} is stored; {told}, and a whole recipe may come with the call{nearest(name, known)}"
            )
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        parsed = self._parsed.get(path)
        if parsed is None or parsed[0] != stamp:
            # Not Recipe.load: its errors name the path, and callers are to see names only.
            recipe = Recipe.parse(path.read_bytes(), source=f"stored recipe {name!r}", folder=path.parent)
            parsed = (stamp, recipe)
            self._parsed[path] = parsed
        label_model, fitted_ns = self._label_model(name)
        return ServedRecipe(
            name=name, recipe=parsed[1], label_model=label_model, fitted_ns=fitted_ns, stored=True
        )

    def survey(self) -> tuple[list[ServedRecipe], dict[str, ManyeyesError]]:
        """Return every recipe that can be used, and what is wrong with the others by name."""
        sound: list[ServedRecipe] = []
        broken: dict[str, ManyeyesError] = {}
        for name in self.names():
            try:
                sound.append(self.get(name))
            except ManyeyesError as error:
                broken[name] = error
        return sound, broken

    def _path(self, name: str) -> Path | None:
        if self.folder is None or not _NAME.fullmatch(name):
            return None
        for suffix in SUFFIXES:
            path = self.folder / f"{name}{suffix}"
            # A link may lead elsewhere inside the folder, as mounted volumes do, but not out of it.
            if path.is_file() and path.resolve().is_relative_to(self.folder):
                return path
        return None

    def _label_model(self, name: str) -> tuple[Path | None, int]:
        assert self.folder is not None
        folder = self.folder / f"{name}{LABEL_MODEL_SUFFIX}"
        try:
            return folder, (folder / "label_model.json").stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None, 0


def resolve(asked: str | Mapping[str, Any], *, store: RecipeStore, settings: ServiceSettings) -> ServedRecipe:
    """Return the recipe that a call asks for: a stored one by name, or the one that came with it.

    Raises RecipeNotFound, InvalidRecipe, UntrustedRecipe if it asks for what only the operator may ask for, and
    RequestTooLarge if it is longer than a recipe may be.
    """
    if isinstance(asked, str) and not _is_text_of_recipe(asked):
        return store.get(asked)
    text = asked if isinstance(asked, str) else json.dumps(asked)
    n_bytes, limit = len(text.encode("utf-8", "surrogatepass")), int(settings.max_recipe_bytes)
    if n_bytes > limit:
        raise RequestTooLarge(
            f"the recipe holds {n_bytes:,} bytes; one that comes with a call may hold {limit:,}. Ask the operator to"
            " store it, and name it"
        )
    try:
        recipe = Recipe.parse(asked, source="recipe")
    except RecursionError as error:
        raise InvalidRecipe(
            "the recipe is nested too deeply; a recipe is a few levels of lists and names"
        ) from error
    recipe.check_untrusted(settings.allowed_models)
    return ServedRecipe(name=recipe.name, recipe=recipe)


def _is_text_of_recipe(text: str) -> bool:
    # A name holds neither a colon nor a line break, and every recipe holds both or at least a colon.
    return ":" in text or "\n" in text
