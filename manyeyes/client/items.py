"""Turns what a caller has at hand into the form that the service reads.

What cannot be sent becomes an error row in its place, and the others are sent.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeGuard

from manyeyes.errors import (
    ImageTooLarge,
    InvalidItem,
    InvalidRecipe,
    InvalidRequest,
    ItemError,
    UndecodableImage,
    UnreadableItem,
    nearest,
)
from manyeyes.types import Item, Label

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

Labelable: TypeAlias = "Item | os.PathLike[str] | str | bytes | PILImage | Mapping[str, Any]"
"""A path is an image file, a str is a text, bytes are an image file's bytes, a mapping has the fields of an Item."""

RecipeLike: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Any"
"""A stored recipe's name, a YAML or JSON text, a path to a file with one, a mapping, or a Recipe."""

MAX_IMAGE_BYTES: Final = 64 * 2**20
"""What a service takes of one image unless its operator says otherwise."""

_KEYS: Final = ("id", "image", "text", "metadata")
# PNG keeps the pixels of these modes as they are; TIFF does so for every other one.
_PNG_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


@dataclass(slots=True)
class Form:
    """What is sent, and what is not. entries: JSON, one an item. files: their images. unsent: position → error row."""

    n_items: int = 0
    entries: list[str] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)
    unsent: dict[int, Label] = field(default_factory=dict)

    def merged(self, answered: Iterable[Label]) -> tuple[Label, ...]:
        """Return the service's labels with the error rows of what was not sent put back in their places."""
        rows = iter(answered)
        return tuple(self.unsent[n] if n in self.unsent else next(rows) for n in range(self.n_items))


def fill_form(items: Iterable[Labelable], *, max_image_bytes: int = MAX_IMAGE_BYTES) -> Form:
    """Read items, files included, into a form.

    Raises InvalidRequest if items is no iterable of items, or holds none.
    """
    if isinstance(items, (str, bytes, os.PathLike, Mapping, Item)) or not isinstance(items, Iterable):
        raise InvalidRequest(f"items must be a list of items, got one {type(items).__name__}; write [item]")
    form = Form()
    taken: set[str] = set()
    for position, given in enumerate(items):
        form.n_items += 1
        name = _id_of(given) or _unused(_made_up_id(given, position), taken)
        if name in taken:
            raise InvalidRequest(f"two items have the id {name!r}; give every item an id of its own")
        try:
            item = as_item(given, name=name)
            image = None if item.image is None else image_bytes(item.image, max_bytes=max_image_bytes)
            form.entries.append(_entry(item, None if image is None else len(form.files)))
            if image is not None:
                form.files.append(image)
        except ItemError as error:
            form.unsent[position] = Label(id=name, status="error", error=error)
        taken.add(name)
    if not form.n_items:
        raise InvalidRequest(
            "there are no items to label; pass at least one, such as Item('1', text='a red hat')"
        )
    return form


def as_item(given: Labelable, *, name: str) -> Item:
    """Return what was given as an Item. name: the id, where it brings none. Raises InvalidItem."""
    if isinstance(given, Item):
        _check_id(given.id)
        return given
    if isinstance(given, str):
        return Item(id=name, text=given)
    if isinstance(given, (bytes, os.PathLike)):
        return Item(id=name, image=given)
    if isinstance(given, Mapping):
        for key in given:
            if key not in _KEYS:
                raise InvalidItem(
                    f"unknown key {key!r} in an item; allowed: {', '.join(_KEYS)}{nearest(str(key), _KEYS)}"
                )
        if given.get("id") is not None:
            _check_id(given["id"])
        return Item(
            id=name,
            image=given.get("image"),
            text=given.get("text"),
            metadata=given.get("metadata") or {},
        )
    if _is_pil(given):
        return Item(id=name, image=given)
    raise InvalidItem(
        f"an item must be an Item, a path to an image, a str of text, the bytes of an image file, a PIL image or a"
        f" mapping with {', '.join(_KEYS)}, got {type(given).__name__}"
    )


def image_bytes(image: Any, *, max_bytes: int) -> bytes:
    """Return an image as the bytes of a file. Raises UnreadableItem, ImageTooLarge or InvalidItem."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = bytes(image)
    elif isinstance(image, (str, os.PathLike)):
        data = _file_bytes(Path(os.fspath(image)), max_bytes)
    elif _is_pil(image):
        data = _encoded(image)
    else:
        raise InvalidItem(f"an image must be bytes, a path or a PIL image, got {type(image).__name__}")
    if len(data) > max_bytes:
        raise _too_large("the image", len(data), max_bytes)
    return data


def recipe_text(recipe: RecipeLike) -> str:
    """Return a recipe as it is sent: a name, or a YAML or JSON text. Raises InvalidRecipe."""
    if isinstance(recipe, str):
        return recipe
    if isinstance(recipe, os.PathLike):
        try:
            return Path(recipe).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRecipe(f"the recipe {os.fspath(recipe)!r} cannot be read: {error}") from error
    if hasattr(recipe, "to_json"):
        return str(recipe.to_json())
    if isinstance(recipe, Mapping):
        try:
            return json.dumps(dict(recipe), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InvalidRecipe(f"the recipe cannot be written as JSON: {error}") from error
    raise InvalidRecipe(
        f"a recipe is a stored one's name, YAML text, a path, a mapping or a Recipe, got {type(recipe).__name__}"
    )


def _entry(item: Item, file: int | None) -> str:
    try:
        told = {"id": item.id, "file": file, "text": item.text, "metadata": _metadata(item) or None}
        present = {key: value for key, value in told.items() if value is not None}
        entry = json.dumps(present, allow_nan=False, ensure_ascii=False)
        entry.encode()  # A lone surrogate is no text, and would make the whole call unreadable.
    except (TypeError, ValueError) as error:
        raise InvalidItem(
            f"item {item.id!r} cannot be written as JSON ({error}); ids and texts are str, metadata is flat and holds"
            " str, int, float, bool or None"
        ) from error
    return entry


def _metadata(item: Item) -> dict[str, Any]:
    """Return an item's metadata, with the name of its file where its id does not say it.

    LFs may read the file name, and a file that was sent has no path any more.
    """
    metadata = dict(item.metadata)
    if isinstance(item.image, (str, os.PathLike)):
        name = Path(os.fspath(item.image)).name
        if name != item.id.replace("\\", "/").rpartition("/")[2] or "://" in item.id:
            metadata.setdefault("filename", name)
    return metadata


def _file_bytes(path: Path, max_bytes: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
            raise UnreadableItem(f"{path} is {kind}; name a regular file")
        if status.st_size > max_bytes:
            raise _too_large(str(path), status.st_size, max_bytes)
        return path.read_bytes()
    except ItemError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        raise UnreadableItem(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _too_large(what: str, n_bytes: int, max_bytes: int) -> ImageTooLarge:
    return ImageTooLarge(f"{what} holds {n_bytes:,} bytes; an image may hold {max_bytes:,}. Make it smaller")


def _encoded(image: PILImage) -> bytes:
    # Without loss, so that the service sees the pixels that are here.
    stream = io.BytesIO()
    try:
        image.load()  # PIL reads pixels late, and says only now that the file is damaged.
    except (OSError, ValueError, SyntaxError) as error:
        raise UndecodableImage(f"the PIL image's data is damaged or ends early: {error}") from error
    try:
        image.save(stream, format="PNG" if image.mode in _PNG_MODES else "TIFF", exif=image.getexif())
    except (OSError, ValueError) as error:
        raise InvalidItem(
            f"the PIL image of mode {image.mode} cannot be written as a file: {error}"
        ) from error
    return stream.getvalue()


def _is_pil(given: Any) -> TypeGuard[PILImage]:
    # By its looks: importing PIL here would make the SDK depend on it.
    return hasattr(given, "getexif") and hasattr(given, "save") and hasattr(given, "mode")


def _check_id(own: Any) -> None:
    if not isinstance(own, str) or not own:
        raise InvalidItem(f"an id must be a str that is not empty, got {own!r:.60}")


def _id_of(given: Any) -> str | None:
    own = given.id if isinstance(given, Item) else given.get("id") if isinstance(given, Mapping) else None
    return own if isinstance(own, str) and own else None


def _made_up_id(given: Any, position: int) -> str:
    if isinstance(given, os.PathLike):
        return os.fsencode(given).decode("utf-8", "backslashreplace")
    return f"item-{position}"


def _unused(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    n = 2
    while f"{name}#{n}" in taken:
        n += 1
    return f"{name}#{n}"
