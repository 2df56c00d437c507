"""Examples that a recipe gives of its classes: image files, images or embeddings written into the recipe, and texts.

A file is named by its path and by the SHA-256 of its content. Where a recipe is read with a folder, as ``Recipe.load``
does, the digest is filled in then, so that the recipe's version follows what the files hold; before the first vote the
content is checked against it. A recipe that came without a folder, as every one over HTTP does, opens no file.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Mapping
from typing import Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from manyeyes.errors import InvalidRecipe
from manyeyes.lfs.base import Number
from manyeyes.lfs.files import content_of, digest_of
from manyeyes.primitives.images import FORMATS
from manyeyes.types import Item

MAX_EXAMPLES: Final = 10_000
MAX_DIM: Final = 8_192
MOST_PIXELS: Final = 4_000_000
"""Of an image that comes from outside: a few hundred bytes can say a hundred megapixels."""
_FORMS: Final = ("path", "text", "base64", "embedding")


class Example(BaseModel):
    """One example, in one of four forms.

    path: an image file, relative to the recipe's folder; with the sha256 of its content. text: the text itself.
    base64: the bytes of an image file. embedding: a vector of the encoder that the LF uses, of any length but 0.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Annotated[str, Field(min_length=1, max_length=4_096)] | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    text: Annotated[str, Field(min_length=1, max_length=10_000)] | None = None
    base64: Annotated[str, Field(min_length=1)] | None = None
    embedding: Annotated[tuple[Number, ...], Field(min_length=1, max_length=MAX_DIM)] | None = None

    @field_validator("base64")
    @classmethod
    def _bytes(cls, value: str | None) -> str | None:
        if value is None:
            return None
        joined = "".join(value.split())
        try:
            base64.b64decode(joined, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InvalidRecipe(
                f"base64: {value[:20]!r}… is no base64 ({error}); write the file's bytes so"
            ) from None
        return joined

    @field_validator("embedding")
    @classmethod
    def _direction(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is not None:
            length = math.sqrt(sum(number * number for number in value))
            if not math.isfinite(length) or not length:
                raise InvalidRecipe(f"an embedding needs a direction, but this one has length {length}")
        return value

    @model_validator(mode="after")
    def _one_form(self, info: ValidationInfo) -> Self:
        given = [form for form in _FORMS if getattr(self, form) is not None]
        if len(given) != 1:
            raise InvalidRecipe(
                f"an example is one of {', '.join(_FORMS)}, got {' and '.join(given) or 'none of them'}"
            )
        if self.sha256 is not None and self.path is None:
            raise InvalidRecipe("sha256 belongs to a path; leave it out")
        folder = (info.context or {}).get("folder")
        if self.path is not None and folder is not None:
            digest = digest_of(self.path, self.sha256, folder)
            # Pydantic's frozen models have no other way to fill in a field that depends on others.
            object.__setattr__(self, "sha256", digest)
        return self

    @model_serializer(mode="plain")
    def _shortest(self) -> Any:
        if self.text is not None:
            return self.text
        told = {form: getattr(self, form) for form in ("path", "sha256", "base64", "embedding")}
        told = {form: value for form, value in told.items() if value is not None}
        return self.path if list(told) == ["path"] else told

    def n_pixels(self) -> float:
        """Return how large an image in the recipe says that it is; infinity where it cannot be read."""
        from PIL import Image

        try:
            with Image.open(io.BytesIO(base64.b64decode(self.base64 or "")), formats=FORMATS) as image:
                return float(image.width * image.height)
        except Exception:  # decoders meet hostile bytes here, and raise whatever they trip over
            return math.inf

    def item(self, name: str) -> Item:
        """Return what is to be embedded, as an item with that id.

        Raises InvalidRecipe if a file is not there, or is not the one that the recipe was read with.
        """
        if self.text is not None:
            return Item(name, text=self.text)
        if self.base64 is not None:
            return Item(name, image=base64.b64decode(self.base64))
        if self.path is None:
            raise ValueError("an embedding is no item")
        return Item(name, image=content_of(self.path, self.sha256))


def _spell_out(value: Any, info: ValidationInfo) -> Any:
    """Turn a single example into a list, and a bare word into a path or, where texts are compared, a text."""
    if isinstance(value, (str, Mapping)):
        value = [value]
    if not isinstance(value, (list, tuple)):
        return value
    form = "text" if info.data.get("on") == "text" else "path"
    return [{form: entry} if isinstance(entry, str) else entry for entry in value]


_ALLOWED: Final = {"image": "images: path, base64 or embedding", "text": "texts: text or embedding"}


def fitting(examples: tuple[Example, ...], info: ValidationInfo) -> tuple[Example, ...]:
    """Return the examples if texts stand for texts and images for images; raise InvalidRecipe otherwise."""
    on = info.data.get("on", "image")
    for example in examples:
        if (example.text is not None) != (on == "text") and example.embedding is None:
            came = next(form for form in _FORMS if getattr(example, form) is not None)
            raise InvalidRecipe(f"on: {on} compares {_ALLOWED[on]}; got a {came}")
    return examples


Examples = Annotated[tuple[Example, ...], Field(max_length=MAX_EXAMPLES), BeforeValidator(_spell_out)]
"""Examples of one class. A single one may be written without a list; a bare word is a path, or a text on texts."""
