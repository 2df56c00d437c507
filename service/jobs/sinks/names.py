"""Names of files and folders that every file system, archive and URL takes, and that stay apart whatever the case."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from manyeyes.service.jobs.shapes import Row

_IMAGE_SUFFIX: Final = re.compile(r"\.(jpe?g|jpe|jfif|png|webp|gif|bmp|dib|tiff?)$", re.IGNORECASE)
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")
_LIKE_OURS: Final = re.compile(r"-[0-9a-f]{16}$")
_RESERVED: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST: Final = 80


def stem_of(row_id: str) -> str:
    """Return what a row's file is called, without its ending, if no other row's is called so.

    Letters, digits, ``_`` and ``-`` of ASCII alone: a dot would end the key in a WebDataset.

    >>> stem_of("train/cat/IMG 0001.v2.JPG")
    'train_cat_IMG_0001_v2'
    """
    stem = _UNSAFE.sub("_", _IMAGE_SUFFIX.sub("", row_id)).strip("_-")[:_LONGEST]
    return "item" if not stem else f"_{stem}" if _RESERVED.fullmatch(stem) else stem


def unmistakable(row_id: str) -> str:
    """Return a name that no other row has, whatever its id: the stem and 64 bits of the id's digest.

    >>> unmistakable("a/b.jpg")
    'a_b-4a51636246e7c418'
    """
    return f"{stem_of(row_id)}-{hashlib.sha256(row_id.encode()).hexdigest()[:16]}"


def stem_key(stem: str) -> int:
    """Return 63 bits of a stem, the same for all spellings by case."""
    digest = hashlib.blake2b(stem.lower().encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def needs_digest(stem: str) -> bool:
    """Return whether a stem could be taken for one that ``unmistakable`` made."""
    return _LIKE_OURS.search(stem) is not None


def class_folders(classes: Sequence[str]) -> Mapping[str, str]:
    """Return a folder's name for every class: the class's own wherever that is safe and taken by no other.

    >>> dict(class_folders(["t-shirt", "hat / cap", "Hat", "hat"]))["t-shirt"]
    't-shirt'
    """
    plain = {name: _folder(name) for name in classes}
    times = Counter(folder.casefold() for folder in plain.values())
    return {
        name: folder
        if folder == name and times[folder.casefold()] == 1
        else f"{folder}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        for name, folder in plain.items()
    }


def _folder(name: str) -> str:
    told = unicodedata.normalize("NFC", name)
    told = "".join(c if c.isalnum() or c in " _-." else "_" for c in told).strip(" .")[:_LONGEST].strip(" .")
    return "class" if not told else f"_{told}" if _RESERVED.fullmatch(told) else told


def suffix_of(data: bytes) -> str | None:
    """Return what a file of such bytes ends in, by the bytes alone; None if they are no image that manyeyes reads."""
    if data.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return ".webp"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return ".gif"
    if data.startswith(b"BM"):
        return ".bmp"
    return ".tif" if data.startswith((b"II*\0", b"MM\0*")) else None


def is_plain_address(row: Row) -> bool:
    """Return whether others can open a row's image where it is: a whole object of a bucket or the web."""
    return row.member is None and (row.uri or "").startswith(
        ("http://", "https://", "s3://", "gs://", "az://")
    )
