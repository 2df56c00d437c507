"""Files that a recipe names: by path and by the SHA-256 of their content, so that its version follows what they hold.

Where a recipe is read with a folder, as ``Recipe.load`` does, the digest is filled in then. A recipe without a folder,
as every one over HTTP is, opens no file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from manyeyes.errors import InvalidRecipe

_found: dict[str, str] = {}
"""SHA-256 → where a file with that content was found, for recipes that are written out and read again elsewhere."""
_held: dict[str, bytes] = {}
"""SHA-256 → content that was brought from where a recipe was written out, for machines that do not have the file."""
MAX_BYTES: Final = 64 * 2**20


def digest_of(path: str, sha256: str | None, folder: str | os.PathLike[str]) -> str:
    """Return the digest of a file and remember where it is.

    path: relative to the folder. sha256: what it must be, if that is known. Raises InvalidRecipe if the file cannot be
    read, is too large, or is another one.
    """
    place = os.path.abspath(Path(folder) / path)
    try:
        digest = hashlib.sha256(_read(place, path)).hexdigest()
    except InvalidRecipe as error:
        raise InvalidRecipe(f"{error}; paths begin in {os.fspath(folder)!r}") from None
    if sha256 not in (None, digest):
        raise InvalidRecipe(
            f"{path!r} is not the file that the recipe names: its sha256 is {digest}, not {sha256}; bring that file"
            " back, or take out sha256 to use this one"
        )
    _found[digest] = place
    return digest


def content_of(path: str, sha256: str | None) -> bytes:
    """Return what a file holds that the recipe was read with.

    Raises InvalidRecipe if it is not there any more or holds something else, or no folder was known.
    """
    if sha256 is None:
        raise InvalidRecipe(
            f"{path!r} is a path, but nobody said which folder it begins in; read the recipe with Recipe.load, or with"
            " Recipe.parse(…, folder=…)"
        )
    if sha256 in _held:
        return _held[sha256]
    for place in (_found.get(sha256), path):
        if place is not None and os.path.isfile(place):
            content = _read(place, path)
            if hashlib.sha256(content).hexdigest() == sha256:
                return content
    raise InvalidRecipe(
        f"{path!r} is not there any more, or its content changed since the recipe was read; read the recipe again"
    )


def hold(content: bytes) -> None:
    """Keep what a file of a recipe holds in memory, for recipes that name it by its SHA-256."""
    _held[hashlib.sha256(content).hexdigest()] = content


def files_named(document: Any) -> dict[str, str]:
    """Return the files that a recipe's document names: SHA-256 → path.

    >>> files_named({"lfs": [{"examples": {"hat": [{"path": "a.jpg", "sha256": "00"}]}}]})
    {'00': 'a.jpg'}
    """
    found: dict[str, str] = {}
    if isinstance(document, Mapping):
        path, digest = document.get("path") or document.get("file"), document.get("sha256")
        if isinstance(path, str) and isinstance(digest, str):
            found[digest] = path
        document = list(document.values())
    if isinstance(document, (list, tuple)):
        for part in document:
            found |= files_named(part)
    return found


def _read(place: str, told: str) -> bytes:
    try:
        with open(place, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidRecipe(f"{told!r} cannot be read: {reason}") from None
    if len(content) > MAX_BYTES:
        raise InvalidRecipe(f"{told!r} has more than the {MAX_BYTES:,} bytes that are read")
    return content
