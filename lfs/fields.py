"""What LFs read of an item as a text: its own, its file name, its metadata, or what a primitive recognised in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo

from manyeyes.errors import InvalidRecipe, nearest
from manyeyes.primitives.base import FeatureSet
from manyeyes.primitives.naming import METADATA, source_feature
from manyeyes.primitives.texts import file_name, texts_of

__all__ = ["ImageOrText", "TextSource", "file_name", "needed_for", "read_texts"]

_USUAL = ("ocr",)
"""What gives text where it is not known which primitives there are."""


def read_texts(features: FeatureSet, on: str) -> list[str | None]:
    """Return the text that an LF reads of each item, None where there is none.

    on: "text", "filename", "metadata." and the name of a field, or a feature that gives text, which must be there.
    """
    return texts_of(features.items, on, features.blocks)


def needed_for(on: str) -> tuple[str, ...]:
    """Return the features that reading a text takes.

    >>> needed_for("ocr"), needed_for("text")
    (('ocr',), ())
    """
    feature = source_feature(on)
    return () if feature is None else (feature,)


def _check_text_source(value: str, info: ValidationInfo) -> str:
    # Pydantic hands a validator either one argument or two.
    return _check_on(value, info)


def _check_on_image(value: str, info: ValidationInfo) -> str:
    return value if value == "image" else _check_on(value, info, also=("image",))


def _check_on(value: str, info: ValidationInfo, also: Sequence[str] = ()) -> str:
    if value in ("text", "filename") or (value.startswith(METADATA) and len(value) > len(METADATA)):
        return value
    gives_text = (info.context or {}).get("gives_text", lambda: _USUAL)()
    if value in gives_text:
        return value
    allowed = [*also, "text", "filename", *gives_text]
    raise InvalidRecipe(
        f"on: {value!r} cannot be read; allowed: {', '.join([*allowed, 'metadata.<field>'])}"
        f"{nearest(value, allowed) or f'; for a metadata field write metadata.{value}'}"
    )


TextSource = Annotated[str, Field(max_length=200), AfterValidator(_check_text_source)]
"""Where an LF finds its text: ``text``, ``filename``, ``metadata.<field>``, or a primitive that gives text (``ocr``).

Recipes validate it with ``context={"gives_text": a function that returns the features that give text}``.
"""

ImageOrText = Annotated[str, Field(max_length=200), AfterValidator(_check_on_image)]
"""What an LF compares: ``image``, or any text that a TextSource may be."""
