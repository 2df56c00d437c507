"""Pairs of an image and a text, for primitives that read both halves of an item together.

The halves have been looked at before; a pair is named by the digests of both, and its image is decoded once more only
where a primitive lacks that very pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

from manyeyes.errors import UnreadableItem
from manyeyes.primitives.base import DecodedImage, PreparingPrimitive, Primitive
from manyeyes.primitives.cache import content_digest
from manyeyes.primitives.computing import Computing
from manyeyes.primitives.contents import Contents
from manyeyes.primitives.reading import Decode, Read, Reader, ReducedInput, Threads, ahead
from manyeyes.settings import Limits
from manyeyes.types import Item


class _WithText:
    """A primitive over pairs, as the reader of images sees it: the text is known already."""

    modality = "image"

    def __init__(self, primitive: Primitive, text: str) -> None:
        self._primitive = primitive
        self._text = text

    def __getattr__(self, name: str) -> Any:
        return getattr(self._primitive, name)

    def setup(self) -> None:
        self._primitive.setup()

    def compute(self, batch: Sequence[Any]) -> Any:
        raise TypeError("the pairs are computed, not the images")

    def least_side(self) -> int | None:
        return self._primitive.least_side() if isinstance(self._primitive, ReducedInput) else None

    def prepare(self, decoded: DecodedImage) -> Any:
        pair = (decoded, self._text)
        return self._primitive.prepare(pair) if isinstance(self._primitive, PreparingPrimitive) else pair


def see_pairs(
    items: Sequence[Item],
    contents: Contents,
    primitives: Mapping[str, Primitive],
    work: Computing,
    *,
    threads: Callable[[], Threads],
    limits: Limits,
    ready: Callable[[str], None],
    decode: Decode | None,
    n_ahead: int,
) -> list[bytes | None]:
    """Queue what is not known of the pairs; return one digest an item, None where a half is missing or wrong.

    contents: both halves digested. What is wrong with an image is added to its errors.
    """
    pairs = [
        None if image is None or text is None or i in contents.errors else content_digest(image + text)
        for i, (image, text) in enumerate(zip(contents.images, contents.texts, strict=True))
    ]
    first: dict[bytes, int] = {}
    for i, pair in enumerate(pairs):
        if pair is not None:
            first.setdefault(pair, i)
    for feature, primitive in primitives.items():
        work.look_up(feature, primitive, first)

    def tasks() -> Iterator[Callable[[], Read]]:
        for pair, i in first.items():
            lacking = [feature for feature in primitives if pair not in work.rows[feature]]
            source, text = items[i].image, contents.texts[i]
            if lacking and source is not None and text is not None:
                wording = contents.wordings[text]
                seen = {
                    feature: cast(Primitive, _WithText(primitives[feature], wording)) for feature in lacking
                }
                reader = Reader(seen, cache=None, limits=limits, ready=ready, decode=decode)
                yield partial(reader.read, i, source, lacking)

    failed = {}
    # What is lacking is asked before the first is queued: a batch that is computed must not end the others' turn.
    for read in ahead(threads(), list(tasks()), n_ahead=n_ahead):
        pair = pairs[read.item]
        assert pair is not None
        if read.error is not None:
            failed[pair] = read.error
        elif read.digest != contents.images[read.item]:
            failed[pair] = UnreadableItem("the file changed while it was labeled; label it again")
        else:
            for feature, value in read.inputs.items():
                work.add(feature, primitives[feature], pair, value)
    for i, pair in enumerate(pairs):
        if pair in failed:
            contents.errors.setdefault(i, failed[pair])
    return pairs
