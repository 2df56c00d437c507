"""Turns what a caller has at hand into the form that the service reads.

What cannot be sent becomes an error row in its place, and the others are sent. An image that is named by its address is
not fetched here: the service does so, where its operator allows it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from manyeyes.client.calls import Fields
from manyeyes.client.images import MAX_IMAGE_BYTES, image_bytes, is_pil
from manyeyes.client.pixels import is_array
from manyeyes.errors import InvalidItem, InvalidRecipe, InvalidRequest, ItemError, nearest
from manyeyes.types import Item, Label

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image as PILImage

Labelable: TypeAlias = (
    "Item | Url | os.PathLike[str] | str | bytes | PILImage | npt.NDArray[np.uint8] | Mapping[str, Any]"
)
"""What can be sent as an item: an Item; a Url; a path to an image file; a str, which is a text; the bytes of an image
file; a PIL image; an array of pixels (uint8, height × width, with 1 to 4 channels); a mapping with an Item's fields.

The image of an Item or a mapping may be all of these but a text: a str there is a path or an address."""

RecipeLike: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any] | Any"
"""A stored recipe's name, a YAML or JSON text, a path to a file with one, a mapping, or a Recipe."""

_KEYS: Final = ("id", "image", "text", "metadata")
_WEB: Final = re.compile(r"https?://", re.I)
_BUCKET: Final = re.compile(r"(s3a?|gs|gcs|az|azure|adl|abfss?|r2)://", re.I)


@dataclass(frozen=True, slots=True)
class Url:
    """The address of an image that the service is to fetch: ``https://…``, or an object in a bucket, ``s3://…``.

    The operator of the service says which hosts and buckets may be asked.

    >>> Url("https://example.org/hat.jpg").field
    'url'
    >>> Url("s3://photos/hat.jpg").field
    'object'
    """

    address: str

    def __post_init__(self) -> None:
        if not isinstance(self.address, str) or not is_address(self.address):
            raise InvalidItem(
                f"an address begins with https://, http:// or that of a bucket, such as s3://, got {self.address!r:.80}"
            )

    @property
    def field(self) -> str:
        """Under which name it travels."""
        return "url" if _WEB.match(self.address) else "object"

    @property
    def name(self) -> str:
        """What the address calls the file."""
        path = re.split(r"[?#]", self.address, maxsplit=1)[0] if _WEB.match(self.address) else self.address
        return path.partition("://")[2].rpartition("/")[2]


def is_address(text: str) -> bool:
    """Return whether a text is an address that a service may be asked to fetch, and no path."""
    return bool(_WEB.match(text) or _BUCKET.match(text))


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

    def fields(self, **told: str | None) -> Fields:
        """Return the parts of the multipart form. told: more fields, of which those that are None are left out."""
        fields: list[tuple[str, tuple[str | None, bytes | str, str]]] = [
            (name, (None, value, "text/plain; charset=utf-8"))
            for name, value in told.items()
            if value is not None
        ]
        fields.append(("items", (None, f"[{','.join(self.entries)}]", "application/json")))
        fields += [("files", (None, data, "application/octet-stream")) for data in self.files]
        return fields


def check_items(items: object) -> None:
    """Raise InvalidRequest if something is one item where a list of items is meant, or no list at all."""
    if isinstance(items, (str, bytes, os.PathLike, Mapping, Item, Url)) or not isinstance(items, Iterable):
        raise InvalidRequest(f"items must be a list of items, got one {type(items).__name__}; write [item]")


def fill_form(items: Iterable[Labelable], *, max_image_bytes: int = MAX_IMAGE_BYTES, first: int = 0) -> Form:
    """Read items, files included, into a form. first: the position of the first one, which made-up ids count from.

    Raises InvalidRequest if items is no iterable of items, or holds none.
    """
    check_items(items)
    form = Form()
    taken: set[str] = set()
    for position, given in enumerate(items):
        form.n_items += 1
        name = _id_of(given) or _unused(made_up_id(given, first + position), taken)
        if name in taken:
            raise InvalidRequest(f"two items have the id {name!r}; give every item an id of its own")
        try:
            item = as_item(given, name=name)
            address = address_of(item.image)
            if item.image is None or address is not None:
                form.entries.append(_entry(item, None, address))
            else:
                image = image_bytes(item.image, max_bytes=max_image_bytes)
                form.entries.append(_entry(item, len(form.files), None))
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
    if isinstance(given, Url):
        return Item(id=name, image=given.address)
    if isinstance(given, (bytes, os.PathLike)) or is_array(given) or is_pil(given):
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
    raise InvalidItem(
        "an item must be an Item, a path to an image, a Url, a str of text, the bytes of an image file, a PIL image, a"
        f" NumPy array of pixels or a mapping with {', '.join(_KEYS)}, got {type(given).__name__}"
    )


def address_of(image: Any) -> Url | None:
    """Return where the service is to fetch an image, or None where the image is here."""
    if isinstance(image, Url):
        return image
    return Url(image) if isinstance(image, str) and is_address(image) else None


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


def _entry(item: Item, file: int | None, address: Url | None) -> str:
    try:
        told = {"id": item.id, "file": file, "text": item.text, "metadata": _metadata(item, address) or None}
        if address is not None:
            told[address.field] = address.address
        present = {key: value for key, value in told.items() if value is not None}
        entry = json.dumps(present, allow_nan=False, ensure_ascii=False)
        entry.encode()  # A lone surrogate is no text, and would make the whole call unreadable.
    except (TypeError, ValueError) as error:
        raise InvalidItem(
            f"item {item.id!r} cannot be written as JSON ({error}); ids and texts are str, metadata is flat and holds"
            " str, int, float, bool or None"
        ) from error
    return entry


def _metadata(item: Item, address: Url | None) -> dict[str, Any]:
    """Return an item's metadata, with the name of its file where its id does not say it.

    LFs may read the file name, and a file that was sent has no path any more.
    """
    metadata = dict(item.metadata)
    if address is not None or isinstance(item.image, (str, os.PathLike)):
        name = address.name if address is not None else Path(os.fspath(item.image)).name  # type: ignore[arg-type]
        if name and (name != item.id.replace("\\", "/").rpartition("/")[2] or "://" in item.id):
            metadata.setdefault("filename", name)
    return metadata


def _check_id(own: Any) -> None:
    if not isinstance(own, str) or not own:
        raise InvalidItem(f"an id must be a str that is not empty, got {own!r:.60}")


def _id_of(given: Any) -> str | None:
    own = given.id if isinstance(given, Item) else given.get("id") if isinstance(given, Mapping) else None
    return own if isinstance(own, str) and own else None


def made_up_id(given: Any, position: int) -> str:
    """Return the id of an item: its own, a path or an address, or its number."""
    if (own := _id_of(given)) is not None:
        return own
    if isinstance(given, os.PathLike):
        return os.fsencode(given).decode("utf-8", "backslashreplace")
    if isinstance(given, Url):
        return given.address
    return f"item-{position}"


def _unused(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    n = 2
    while f"{name}#{n}" in taken:
        n += 1
    return f"{name}#{n}"
