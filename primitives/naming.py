"""How features are called: ``clip``, ``clip.text``, ``lf:asked``, and ``text@ocr`` for one that reads another's text.

The part before the first dot is the primitive of the recipe. After an ``@`` stands the text that a feature reads in
place of the item's own: what a primitive recognised (``ocr``), the file name, or a field of the metadata.
"""

from __future__ import annotations

from typing import Final

OWN: Final = "lf:"
"""How the names of signals begin that one LF defines for itself."""
METADATA: Final = "metadata."
_AT: Final = "@"


def on_text(feature: str, source: str) -> str:
    """Return the name of a feature of texts when it reads a given text.

    >>> on_text("text", "ocr"), on_text("text", "text")
    ('text@ocr', 'text')
    """
    return feature if source == "text" else f"{feature}{_AT}{source}"


def split(feature: str) -> tuple[str, str | None]:
    """Return a feature's name without what it reads, and what that is; None where it is the item itself.

    >>> split("clip.text@metadata.title"), split("clip")
    (('clip.text', 'metadata.title'), ('clip', None))
    """
    name, at, source = feature.partition(_AT)
    return name, source if at else None


def source_feature(source: str) -> str | None:
    """Return the feature that gives a text; None for the item's own text, its file name and its metadata.

    >>> source_feature("ocr"), source_feature("metadata.title")
    ('ocr', None)
    """
    return None if source in ("text", "filename") or source.startswith(METADATA) else source


def parts(feature: str) -> tuple[str, ...]:
    """Return the features that must be computed for one, itself without its source among them.

    >>> parts("text@ocr"), parts("text@filename"), parts("clip.text")
    (('text', 'ocr'), ('text',), ('clip.text',))
    """
    name, source = split(feature)
    given = None if source is None else source_feature(source)
    return (name,) if given is None else (name, given)


def families(feature: str) -> tuple[str, ...]:
    """Return the names of the recipe's primitives behind a feature.

    >>> families("clip.text@ocr"), families("lf:entails@ocr")
    (('clip', 'ocr'), ('ocr',))
    """
    return tuple(part.partition(".")[0] for part in parts(feature) if not part.startswith(OWN))
