"""What is in an item: its image and text, checked, and named by the digest of their contents."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from manyeyes.errors import EmptyItem, InvalidItem, ItemError
from manyeyes.primitives.cache import Cache, content_digest
from manyeyes.primitives.images import check_pil, full_path, stat_file
from manyeyes.settings import Limits
from manyeyes.types import ImageSource, Item


@dataclass
class Contents:
    """The contents of some items, item by item.

    images, texts: digest, or None where there is none or it is not known yet. unread: item → an image whose digest is
    not known without reading it. errors: item → what is wrong with it.
    """

    images: list[bytes | None]
    texts: list[bytes | None]
    sources: dict[bytes, ImageSource] = field(default_factory=dict)
    wordings: dict[bytes, str] = field(default_factory=dict)
    unread: dict[int, ImageSource] = field(default_factory=dict)
    errors: dict[int, ItemError] = field(default_factory=dict)

    @classmethod
    def of(
        cls, items: Sequence[Item], *, images: bool, texts: bool, cache: Cache | None, limits: Limits
    ) -> Contents:
        """Look at items without decoding anything; a file that the cache has seen before is not even read.

        images, texts: which of them are needed; the other is only checked for its type.
        """
        found = cls([None] * len(items), [None] * len(items))
        files: list[tuple[int, str, os.stat_result]] = []
        for i, item in enumerate(items):
            try:
                text = check_item(item, limits)
                if images and item.image is not None:
                    if isinstance(item.image, bytes):
                        found._take_image(i, content_digest(item.image), item.image)
                    elif cache is not None and isinstance(item.image, str | os.PathLike):
                        stat = stat_file(item.image, limits)
                        files.append((i, full_path(item.image), stat))
                    else:
                        found.unread[i] = item.image
                if texts and text:
                    digest = content_digest(text.encode())
                    found.texts[i] = digest
                    found.wordings[digest] = text
            except ItemError as error:
                found.errors[i] = error
        if cache is not None and files:
            for (i, _, _), recalled in zip(
                files, cache.recall([(path, stat) for _, path, stat in files]), strict=True
            ):
                source = items[i].image
                assert source is not None
                if recalled is None:
                    found.unread[i] = source
                else:
                    found._take_image(i, recalled, source)
        return found

    def _take_image(self, i: int, digest: bytes, source: ImageSource) -> None:
        self.images[i] = digest
        self.sources.setdefault(digest, source)


def check_item(item: Item, limits: Limits) -> str | None:
    """Return the text of an item, or None if it has none.

    Raises EmptyItem if it has neither image nor text, InvalidItem if a part has the wrong type or the text is too long
    or cannot be encoded.
    """
    text = item.text
    if item.image is not None and not isinstance(item.image, bytes | str | os.PathLike):
        check_pil(item.image, limits)
    if text is not None:
        text = check_text(text, limits)
    if item.image is None and not text:
        raise EmptyItem("the item has neither an image nor a text")
    if not isinstance(item.metadata, Mapping):
        raise InvalidItem(
            f"an item's metadata is a mapping of names to values, got {type(item.metadata).__name__}"
        )
    return text


def check_text(text: object, limits: Limits) -> str | None:
    """Return a text as it is, or None if there is nothing but white space in it.

    Raises InvalidItem if it is not a str, is too long or holds half a surrogate pair.
    """
    if not isinstance(text, str):
        raise InvalidItem(f"a text is a str, got {type(text).__name__}")
    if len(text) > limits.max_text:
        raise InvalidItem(f"the text has {len(text)} characters; at most {limits.max_text} are allowed")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidItem(
                f"the text is not Unicode: half of a surrogate pair at {error.start}"
            ) from error
    return text if text and not text.isspace() else None
