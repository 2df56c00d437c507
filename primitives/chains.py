"""Features of texts that are not an item's own: of what a primitive recognised, of a file name, of a metadata field.

``text@ocr`` is what the primitive ``text`` makes of the text that ``ocr`` read in an image. Such a text is cached,
batched and counted as any other, by its own content: equal texts are computed once, wherever they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from manyeyes.errors import InvalidRecipe, ItemError
from manyeyes.primitives.base import Features, FeatureSet, Primitive
from manyeyes.primitives.cache import content_digest
from manyeyes.primitives.computing import Computing
from manyeyes.primitives.contents import check_text
from manyeyes.primitives.features import Layout
from manyeyes.primitives.naming import source_feature, split
from manyeyes.primitives.texts import texts_of
from manyeyes.settings import Limits
from manyeyes.types import Item

SeeTexts = Callable[[Mapping[bytes, str], Mapping[str, Primitive], Computing], None]


def check_source(source: str, primitives: Mapping[str, Primitive]) -> None:
    """Raise InvalidRecipe if a feature that others shall read gives no text. primitives: those that there are."""
    gives = source_feature(source)
    if gives is not None and gives in primitives and not getattr(primitives[gives], "gives_text", False):
        raise InvalidRecipe(f"{source!r} gives no text that others could read; ocr does")


def sort_out(needs: Collection[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Return the features that are read of items themselves, and the others by the text that they read.

    >>> sort_out(["clip", "text@ocr"])
    (['clip', 'ocr'], {'ocr': ['text@ocr']})
    """
    plain: list[str] = []
    given: dict[str, list[str]] = {}
    for feature in dict.fromkeys(needs):
        _, source = split(feature)
        if source is None:
            plain.append(feature)
            continue
        given.setdefault(source, []).append(feature)
        gives = source_feature(source)
        if gives is not None:
            plain.append(gives)
    return list(dict.fromkeys(plain)), given


def read_given(
    seen: FeatureSet,
    given: Mapping[str, Sequence[str]],
    primitives: Mapping[str, Primitive],
    work: Computing,
    *,
    see_texts: SeeTexts,
    layout: Callable[[str], Layout],
    limits: Limits,
) -> FeatureSet:
    """Return a feature set with features of given texts added.

    seen: holds the features that give texts. given: source → features that read it. primitives: each of them →
    its primitive. see_texts: looks texts up and queues what is lacking.
    """
    errors = dict(seen.errors)
    digests: dict[str, list[bytes | None]] = {}
    for source, features in given.items():
        wordings: dict[bytes, str] = {}
        digests[source] = []
        # What is wrong with an item may be its very types.
        items = [Item(f"row {i}") if i in errors else item for i, item in enumerate(seen.items)]
        for i, text in enumerate(texts_of(items, source, seen.blocks)):
            digest = None
            try:
                checked = None if text is None or i in errors else check_text(text, limits)
            except ItemError as error:
                errors[i], checked = error, None
            if checked is not None:
                digest = content_digest(checked.encode())
                wordings[digest] = checked
            digests[source].append(digest)
        see_texts(wordings, _of_texts(features, primitives), work)
    work.finish()
    for found in digests.values():
        for i, digest in enumerate(found):
            if digest in work.failed:
                errors.setdefault(i, work.failed[digest])
    blocks = dict(seen.blocks)
    for source, features in given.items():
        contents = [None if i in errors else digest for i, digest in enumerate(digests[source])]
        for feature in features:
            blocks[feature] = layout(feature).assemble(contents, work.rows[feature])
    new = sorted(errors.keys() - seen.errors.keys())
    if new:
        blocks = {feature: _without(block, new) for feature, block in blocks.items()}
    return FeatureSet(items=seen.items, blocks=blocks, errors=dict(sorted(errors.items())))


def _of_texts(features: Sequence[str], primitives: Mapping[str, Primitive]) -> dict[str, Primitive]:
    for feature in features:
        if primitives[feature].modality != "text":
            name, source = split(feature)
            raise InvalidRecipe(f"{name!r} reads no texts, so it cannot read what {source!r} gives")
    return {feature: primitives[feature] for feature in features}


def _without(block: Features, absent: Sequence[int]) -> Features:
    """Return features with some items absent."""
    present = block.present.copy()
    present[absent] = False
    rows, offsets = block.rows, block.offsets
    if offsets is None:
        rows = rows.copy()
        rows[absent] = np.zeros(1, dtype=rows.dtype)
    else:
        kept = present[block.row_items()]
        rows = rows[kept]
        sizes = np.where(present, np.diff(offsets), 0)
        offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return replace(block, rows=rows, present=present, offsets=offsets)
