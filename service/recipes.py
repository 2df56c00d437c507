"""The recipes that callers may use: the operator's folder and the store, by name, and those that come with a call.

In the folder, a recipe is a file ``<name>.yaml`` (or ``.yml``, ``.json``); a folder ``<name>.label_model`` beside it,
as ``Labeler.save_label_model`` writes one, holds its fitted label model. Files are read again when they change. In the
store, a recipe has versions, one of which is active, and each version may have an active label model. A name in the
folder goes before the same name in the store; ``name@version`` names a version.
What comes with a call is not trusted, nor is what came over HTTP into the store: it may name only the models that the
operator allows, and nothing that runs code or reads files.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from manyeyes.errors import (
    InvalidRecipe,
    ManyeyesError,
    RecipeNotFound,
    RequestTooLarge,
    StoreUnavailable,
    WeightsMismatch,
    nearest,
)
from manyeyes.recipe import Recipe
from manyeyes.service.settings import ServiceSettings
from manyeyes.service.store.records import LabelModelRecord, RecipeVersion
from manyeyes.service.store.store import Store
from manyeyes.settings import home

SUFFIXES: Final = (".yaml", ".yml", ".json")
LABEL_MODEL_SUFFIX: Final = ".label_model"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")
_LABEL_MODEL_FILE: Final = "label_model.json"
_FOUND_S: Final = 2.0
_LATELY_S: Final = 0.25
_MAX_FOUND: Final = 1024

Stamp = tuple[int, ...] | None
"""When a file was written, how long it is and which one it is; None where it is not there."""


@dataclass(frozen=True, slots=True)
class ServedRecipe:
    """A recipe that a call is labeled with.

    label_model: the folder of the fitted one, or None. fitted_ns: when it was written. stored: under this name, by the
    operator or in the store. version: as the store keeps it, with its number; None for any other recipe.
    """

    name: str
    recipe: Recipe
    label_model: Path | None = None
    fitted_ns: int = 0
    stored: bool = False
    version: RecipeVersion | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """Equal keys label alike: the recipe's version, and which label model was fitted when."""
        return self.recipe.version, str(self.label_model or ""), self.fitted_ns


class RecipeStore:
    """The recipes that have names. folder: the operator's, read-only; None where there is none.

    store: of the service; None where there is none. allowed_models: that recipes of the store may name beside the
    defaults. What was found in the store is believed for some seconds, so that a call costs no query, and a version
    that another replica makes active is soon used here.
    Reads from disk and from the database, so that its methods belong on a worker thread, not on the event loop.
    """

    def __init__(
        self,
        folder: Path | None,
        store: Store | None = None,
        *,
        allowed_models: Collection[str] = (),
        label_models_dir: Path | None = None,
    ) -> None:
        self.folder = None if folder is None else folder.resolve()
        self.store = store
        self.allowed_models = tuple(allowed_models)
        self.label_models_dir = label_models_dir or home() / "served-label-models"
        self._parsed: dict[Path, tuple[tuple[int, int], Recipe]] = {}
        self._found: OrderedDict[tuple[str, str], tuple[float, ServedRecipe]] = OrderedDict()
        self._lately: dict[str, tuple[float, ServedRecipe, dict[Path, Stamp]]] = {}

    def names(self) -> list[str]:
        """Return the names of all recipe files, sorted."""
        if self.folder is None:
            return []
        found = {path.stem for path in self.folder.iterdir() if path.suffix in SUFFIXES and path.is_file()}
        return sorted(name for name in found if _NAME.fullmatch(name))

    def in_folder(self, name: str) -> bool:
        """Return whether the operator's folder holds a recipe of that name."""
        return self._path(name) is not None

    def get(self, asked: str) -> ServedRecipe:
        """Return a recipe by its name or by ``name@version``: a version's hash or, in the store, its number.

        Raises RecipeNotFound, with the nearest name, if there is none; InvalidRecipe if it cannot be used;
        UntrustedRecipe if the operator allows a recipe of the store no longer; StoreUnavailable.
        """
        started = time.monotonic()
        name, _, version = asked.partition("@")
        path = self._path(name)
        files = [] if path is None else [path, path.with_name(name + LABEL_MODEL_SUFFIX) / _LABEL_MODEL_FILE]
        stamps = {file: _stamp(file) for file in files}  # before they are read
        served = self._get(name, version, path)
        if len(self._lately) >= _MAX_FOUND:
            self._lately = {}
        self._lately[asked] = (started, served, stamps)
        return served

    def at_hand(self, asked: str | Mapping[str, Any]) -> ServedRecipe | None:
        """Return a named recipe that somebody was given a moment ago; None where it has to be looked for.

        Asks no database and opens no file, so that it may be asked on the event loop; of files that were read, it asks
        when they changed.
        """
        known = self._lately.get(asked) if isinstance(asked, str) else None
        if known is None or time.monotonic() - known[0] > _LATELY_S:
            return None
        return known[1] if all(_stamp(path) == stamp for path, stamp in known[2].items()) else None

    def _get(self, name: str, version: str, path: Path | None) -> ServedRecipe:
        if path is not None:
            served = self._from_folder(name, path)
            if version in ("", served.recipe.version):
                return served
            raise RecipeNotFound(
                f"recipe {name!r} is version {served.recipe.version} now, and {version!r:.80} is not kept; it lies in"
                " the operator's folder, which holds no older versions"
            )
        if self.store is not None and _NAME.fullmatch(name):
            return self._from_store(self.store, name, version)
        raise self._not_found(name)

    def _from_folder(self, name: str, path: Path) -> ServedRecipe:
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

    def _from_store(self, store: Store, name: str, version: str) -> ServedRecipe:
        known = self._found.get((name, version))
        if known is not None and time.monotonic() - known[0] <= _FOUND_S:
            return known[1]
        asked = time.monotonic()
        try:
            # A hash has 16 digits, all of which may be decimal.
            number = int(version) if version.isdecimal() and len(version) < 10 else None
            stored = store.recipes.get(name, (version or None) if number is None else number)
            active = store.label_models.active(name, stored.version)
        except StoreUnavailable:
            if known is None:
                raise
            # What was active a moment ago labels on without the database, which is asked again in some seconds only:
            # each time may take a time-out.
            self._found[name, version] = (time.monotonic(), known[1])
            return known[1]
        except RecipeNotFound:
            self._found.pop((name, version), None)
            if version or _has_versions(store, name):  # the store says more of one that is out of use
                raise
            raise self._not_found(name) from None
        served = ServedRecipe(
            name=name,
            recipe=self._recipe_of(stored, known[1] if known is not None else None),
            label_model=None if active is None else self.files_of(store, active),
            stored=True,
            version=stored,
        )
        self._found[name, version] = (asked, served)
        self._found.move_to_end((name, version))
        while len(self._found) > _MAX_FOUND:
            self._found.popitem(last=False)
        return served

    def _recipe_of(self, stored: RecipeVersion, known: ServedRecipe | None) -> Recipe:
        if known is not None and known.recipe.version == stored.version:
            return known.recipe
        recipe = Recipe.parse(stored.text, source=f"stored recipe {stored.name!r}")
        # Again, since the operator may allow less than on the day that it came.
        recipe.check_untrusted(self.allowed_models)
        return recipe

    def files_of(self, store: Store, record: LabelModelRecord) -> Path:
        """Return a folder with the files of a label model of the store; they never change under its id."""
        folder = self.label_models_dir / record.id
        if not (folder / _LABEL_MODEL_FILE).is_file():
            self.label_models_dir.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.label_models_dir))
            try:
                for name, content in store.label_models.files(record.id).items():
                    if Path(name).name != name:
                        raise WeightsMismatch(
                            f"label model {record.id} holds a file {name!r}, which is no name"
                        )
                    (partial / name).write_bytes(content)
                os.replace(partial, folder)
            except OSError:
                if not (folder / _LABEL_MODEL_FILE).is_file():  # else another call was quicker
                    raise
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        return folder

    def forget(self, name: str) -> None:
        """Ask the store again for a recipe; for changes that this process makes itself."""
        for key in [key for key in list(self._found) if key[0] == name]:
            self._found.pop(key, None)
        self._lately = {}

    def _not_found(self, name: str) -> RecipeNotFound:
        known = self.names()
        if self.store is not None:
            known += [one.name for one in self.store.recipes.list(limit=100)]
        told = f"stored are {', '.join(known[:20])}" if known else "this service stores none"
        # What is no name is quoted in part, and not compared with all names, which takes long for a long one.
        hint = nearest(name, known) if _NAME.fullmatch(name) else ""
        return RecipeNotFound(
            f"no recipe {name!r:.80} is stored; {told}, and a whole recipe may come with the call{hint}"
        )

    def survey(
        self, names: Collection[str] | None = None
    ) -> tuple[list[ServedRecipe], dict[str, ManyeyesError]]:
        """Return every recipe that can be used, and what is wrong with the others by name.

        names: which; None for all of the folder.
        """
        sound: list[ServedRecipe] = []
        broken: dict[str, ManyeyesError] = {}
        for name in self.names() if names is None else names:
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
            return folder, (folder / _LABEL_MODEL_FILE).stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None, 0


def _stamp(file: Path) -> Stamp:
    try:
        told = os.stat(file)
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size, told.st_ino


def _has_versions(store: Store, name: str) -> bool:
    try:
        return bool(store.recipes.versions(name, limit=1).items)
    except RecipeNotFound:
        return False


def resolve(asked: str | Mapping[str, Any], *, store: RecipeStore, settings: ServiceSettings) -> ServedRecipe:
    """Return the recipe that a call asks for: a stored one by name, or the one that came with it.

    Raises RecipeNotFound, InvalidRecipe, UntrustedRecipe if it asks for what only the operator may ask for, and
    RequestTooLarge if it is longer than a recipe may be.
    """
    if isinstance(asked, str) and not _is_text_of_recipe(asked):
        return store.get(asked)
    recipe = read_untrusted(asked, settings)
    return ServedRecipe(name=recipe.name, recipe=recipe)


def read_untrusted(asked: str | Mapping[str, Any], settings: ServiceSettings) -> Recipe:
    """Return the recipe that somebody outside wrote.

    Raises InvalidRecipe, UntrustedRecipe if it asks for what only the operator may ask for, and RequestTooLarge if it
    is longer than a recipe may be.
    """
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
    return recipe


def _is_text_of_recipe(text: str) -> bool:
    # A name holds neither a colon nor a line break, and every recipe holds both or at least a colon.
    return ":" in text or "\n" in text
