"""Where items come from: files, folders and tables on this machine, read as a stream.

What cannot become an item is a :class:`Broken` in the stream, never an exception: one row of the output says what is
wrong with it, and the others are labeled. Files are opened here only to tell what they are; pixels are read later,
by the extractor.

An id is the file's POSIX path below the folder that was given, or below the deepest folder that holds everything that
was given, where there are several.
"""

from __future__ import annotations

import json
import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from manyeyes.errors import EmptyItem, InvalidItem, InvalidRequest, ItemError, UnreadableItem
from manyeyes.settings import Limits
from manyeyes.types import Item, MetadataValue
from manyeyes.videos import SUFFIXES as VIDEO_SUFFIXES
from manyeyes.videos import Sampling, frame_items, may_be_video

IMAGE_SUFFIXES: Final = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"}
)
TEXT_SUFFIXES: Final = frozenset({".txt"})
TABLE_SUFFIXES: Final = frozenset({".csv", ".jsonl"})
SIDECAR_SUFFIX: Final = ".json"

# Cameras write upper-case suffixes; only the two usual spellings are looked for beside a text.
_IMAGE_ENDS: Final = tuple(end for suffix in sorted(IMAGE_SUFFIXES) for end in (suffix, suffix.upper()))
_VIDEO_ENDS: Final = tuple(end for suffix in sorted(VIDEO_SUFFIXES) for end in (suffix, suffix.upper()))
_MAGIC: Final = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*", b"BM")
_MAX_SIDECAR_BYTES: Final = 2**20


@dataclass(frozen=True, slots=True)
class Broken:
    """Something that was named as an item and cannot be one."""

    id: str
    error: ItemError


Read: TypeAlias = Item | Broken


def read_items(
    paths: Iterable[str | os.PathLike[str]],
    *,
    recursive: bool = True,
    limits: Limits | None = None,
    skipped: Counter[str] | None = None,
    videos: Sampling | None = None,
) -> Iterator[Read]:
    """Yield every item under some paths, in a fixed order; nothing raises for what lies on the disk.

    paths: image files, ``.txt`` files (one text each), ``.csv`` and ``.jsonl`` tables (see
        :mod:`manyeyes.tables`), and folders of images and texts. In a folder, ``photo.txt`` beside ``photo.jpg`` is
        the photo's text and ``photo.json`` its metadata; tables are read only where they are named themselves.
    recursive: whether folders inside folders are entered.
    skipped: counts, by reason, what was passed over because it is no data: hidden files, programs, ….
    videos: which frames of videos are items; without it, videos are passed over. One that is damaged or cut gives its
        frames up to there and one Broken under its own name. ``clip.txt`` and ``clip.json`` beside it are its frames'.
    Raises InvalidRequest if no path is given.
    """
    given = _distinct([Path(os.fspath(path)) for path in paths], recursive=recursive)
    if not given:
        raise InvalidRequest(
            "no paths were given; name at least one image, text, table (.csv, .jsonl) or folder"
        )
    walk = _Walk(
        root=_common_folder(given),
        recursive=recursive,
        limits=limits or Limits(),
        skipped=skipped if skipped is not None else Counter(),
        videos=videos,
    )
    seen: set[str] = set()
    for read in walk.all(given):
        if read.id not in seen:
            seen.add(read.id)
            yield read
            continue
        where = _unused(read.id, seen)
        seen.add(where)
        yield Broken(
            where,
            InvalidItem(
                f"the id {read.id!r} is taken by an earlier item; ids name rows, so make each one unique"
            ),
        )


def text_item(path: Path, *, name: str, limits: Limits) -> Read:
    """Return the text of a UTF-8 file as an item, or what is wrong with it."""
    text = _read_text(path, limits)
    return Broken(name, text) if isinstance(text, ItemError) else Item(id=name, text=text)


def flat_metadata(value: object, *, where: str) -> dict[str, MetadataValue] | InvalidItem:
    """Return metadata as a flat mapping, or what is wrong with it."""
    if not isinstance(value, Mapping):
        return InvalidItem(
            f"{where} must hold one JSON object of names to values, got {type(value).__name__}"
        )
    for key, entry in value.items():
        if not isinstance(entry, str | int | float | bool | None):
            return InvalidItem(
                f"{where}: {key!r} is a {type(entry).__name__}; metadata is flat: text, numbers, true, false or null"
            )
    return dict(value)


@dataclass(slots=True)
class _Walk:
    root: Path
    recursive: bool
    limits: Limits
    skipped: Counter[str]
    videos: Sampling | None = None

    def all(self, given: Iterable[Path]) -> Iterator[Read]:
        for path in given:
            try:
                mode = path.stat().st_mode
            except OSError as error:
                yield Broken(self.name(path), unreadable(path, error))
                continue
            if stat.S_ISDIR(mode):
                yield from self.folder(path, above=())
            elif path.suffix.lower() in TABLE_SUFFIXES:
                from manyeyes.tables import read_table

                yield from read_table(path, name=self.name(path), limits=self.limits)
            else:
                beside = (path.with_suffix(end) for end in (".txt", SIDECAR_SUFFIX))
                names = frozenset(other.name for other in beside if other != path and other.is_file())
                yield from self.reads(path, names=names, named=True)

    def folder(self, folder: Path, *, above: tuple[tuple[int, int], ...]) -> Iterator[Read]:
        """Yield what a folder holds, by name; ``above`` are the folders around it, so that a loop of links ends."""
        try:
            status = folder.stat()
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            yield Broken(self.name(folder), unreadable(folder, error))
            return
        here = (status.st_dev, status.st_ino)
        if here in above:
            message = (
                f"{folder} is a link back to a folder that holds it; it is not followed. Remove the link"
            )
            yield Broken(self.name(folder), UnreadableItem(message))
            return
        names = frozenset(entry.name for entry in entries)
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                self.skipped["hidden"] += 1
            elif _is_folder(entry):
                if self.recursive:
                    yield from self.folder(path, above=(*above, here))
                else:
                    self.skipped["folder inside a folder"] += 1
            else:
                yield from self.reads(path, names=names, named=False)

    def reads(self, path: Path, *, names: frozenset[str], named: bool) -> Iterator[Read]:
        """Yield one file's items: the frames of a video, else one or none."""
        suffix = path.suffix.lower()
        if self.videos is not None and suffix in VIDEO_SUFFIXES and (named or may_be_video(path)):
            yield from self.video(path, self.videos, names=names)
            return
        read = self.file(path, names=names, named=named)
        if read is not None:
            yield read

    def file(self, path: Path, *, names: frozenset[str], named: bool) -> Read | None:
        """Return one file's item, or None where a folder holds something that is no data."""
        suffix, name = path.suffix.lower(), self.name(path)
        try:
            regular = stat.S_ISREG(path.stat().st_mode)
        except OSError as error:
            return Broken(name, unreadable(path, error))
        if not regular:
            return Broken(name, UnreadableItem(f"{path} is a pipe, socket or device; name a regular file"))
        if suffix in TEXT_SUFFIXES:
            if not named and _beside(path, names, self.ends):
                return None  # It is read with the image or video beside it.
            return text_item(path, name=name, limits=self.limits)
        if suffix in IMAGE_SUFFIXES:
            return self.image(path, names=names)
        if not named:
            if suffix in TABLE_SUFFIXES:
                self.skipped["table (name it to read it)"] += 1
                return None
            if suffix == SIDECAR_SUFFIX:
                if not _beside(path, names, self.ends):
                    self.skipped[".json without an image"] += 1
                return None
        try:
            with path.open("rb") as stream:
                head = stream.read(16)
        except OSError as error:
            return Broken(name, unreadable(path, error))
        if not named and not looks_like_image(head):
            is_video = suffix in VIDEO_SUFFIXES
            self.skipped["video (--video-every reads it)" if is_video else suffix or "no extension"] += 1
            return None
        # Named by hand, a file of any kind is meant to be labeled: the extractor says why it cannot be.
        return self.image(path, names=names)

    def image(self, path: Path, *, names: frozenset[str]) -> Read:
        """Return an image with the text and the metadata that lie beside it."""
        beside = self.beside(path, names)
        if isinstance(beside, ItemError):
            return Broken(self.name(path), beside)
        text, metadata = beside
        return Item(id=self.name(path), image=path, text=text, metadata=metadata)

    def video(self, path: Path, sampling: Sampling, *, names: frozenset[str]) -> Iterator[Read]:
        """Yield a video's frames, each with the text and the metadata that lie beside the video."""
        name, beside = self.name(path), self.beside(path, names)
        if isinstance(beside, ItemError):
            yield Broken(name, beside)
            return
        text, metadata = beside
        for frame in frame_items(
            path, name=name, sampling=sampling, limits=self.limits, text=text, metadata=metadata
        ):
            yield Broken(name, frame) if isinstance(frame, ItemError) else frame

    def beside(
        self, path: Path, names: Collection[str]
    ) -> tuple[str | None, dict[str, MetadataValue]] | ItemError:
        """Return the text and the metadata that lie beside a file, or what is wrong with them."""
        text: str | None = None
        metadata: dict[str, MetadataValue] = {}
        if path.stem + ".txt" in names:
            found = _read_text(path.with_suffix(".txt"), self.limits)
            if isinstance(found, ItemError):
                return found
            text = found
        if path.stem + SIDECAR_SUFFIX in names:
            told = _sidecar(path.with_suffix(SIDECAR_SUFFIX))
            if isinstance(told, ItemError):
                return told
            metadata = told
        return text, metadata

    @property
    def ends(self) -> tuple[str, ...]:
        """The suffixes of files that another may lie beside."""
        return _IMAGE_ENDS if self.videos is None else _IMAGE_ENDS + _VIDEO_ENDS

    def name(self, path: Path) -> str:
        """Return the id of a path: below the root, with ``/``, and printable whatever bytes the name holds."""
        relative = os.path.relpath(os.path.abspath(path), self.root)
        posix = Path(relative).as_posix() if relative != os.curdir else path.name or str(path)
        return os.fsencode(posix).decode("utf-8", "backslashreplace")


def looks_like_image(head: bytes) -> bool:
    """Return whether a file's first 16 bytes are those of a format that can be labeled."""
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def unreadable(path: Path, error: OSError) -> UnreadableItem:
    """Return what keeps a path from being read, and what to do about it."""
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return UnreadableItem(f"{path} is a link to a file that does not exist; restore the target")
        return UnreadableItem(f"{path} does not exist; check the spelling and the folder you are in")
    if isinstance(error, PermissionError):
        return UnreadableItem(f"{path} may not be read by this user; change its permissions")
    if path.is_symlink():
        return UnreadableItem(f"{path} is a link that leads in a circle ({error.strerror}); remove it")
    return UnreadableItem(f"{path} cannot be read: {error.strerror or error}")


def _beside(path: Path, names: frozenset[str], ends: tuple[str, ...]) -> bool:
    return any(path.stem + end in names for end in ends)


def _read_text(path: Path, limits: Limits) -> str | ItemError:
    try:
        size = path.stat().st_size
        # A character takes at most four bytes, so a longer file need not be read to know that it is too long.
        if size > 4 * limits.max_text:
            return InvalidItem(
                f"{path} holds {size:,} bytes; a text has at most {limits.max_text:,} characters. Split it"
            )
        data = path.read_bytes()
    except OSError as error:
        return unreadable(path, error)
    return checked_text(data, where=str(path), limits=limits)


def checked_text(data: bytes, *, where: str, limits: Limits) -> str | ItemError:
    """Return bytes as a text that LFs can read, or what is wrong with it."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return InvalidItem(f"{where} is UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return InvalidItem(
            f"{where} is not UTF-8: byte 0x{data[error.start]:02x} at {error.start}; save it as UTF-8"
        )
    if "\x00" in text:
        return InvalidItem(
            f"{where} holds a NUL character, so it is probably no text; save it as plain UTF-8 text"
        )
    if not text.strip():
        return EmptyItem(f"{where} holds no text; write something in it or leave it out")
    if len(text) > limits.max_text:
        return InvalidItem(
            f"{where} holds {len(text):,} characters; a text has at most {limits.max_text:,}. Split it"
        )
    return text


def _sidecar(path: Path) -> dict[str, MetadataValue] | ItemError:
    try:
        if path.stat().st_size > _MAX_SIDECAR_BYTES:
            return InvalidItem(
                f"{path} holds over {_MAX_SIDECAR_BYTES:,} bytes; metadata is a small flat JSON object"
            )
        return flat_metadata(json.loads(path.read_bytes()), where=str(path))
    except OSError as error:
        return unreadable(path, error)
    except (ValueError, RecursionError) as error:
        return InvalidItem(f"{path} is not JSON ({error}); correct it or remove it")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # A link in a circle: the file branch says so.


def _distinct(given: list[Path], *, recursive: bool) -> list[Path]:
    """Return the paths without those that another gives too: ``photos photos/cats`` reads each file once."""
    kept: dict[Path, None] = dict.fromkeys(Path(os.path.abspath(path)) for path in given)
    folders = {path for path in kept if os.path.isdir(path)}

    def covered(path: Path) -> bool:
        if path.suffix.lower() in TABLE_SUFFIXES or path.name.startswith("."):
            return False  # A folder passes these over, so naming them says that they are wanted.
        return any(up in folders for up in (path.parents if recursive else path.parents[:1]))

    return [path for path in kept if not covered(path)]


def _common_folder(given: list[Path]) -> Path:
    """Return the folder that ids start from: the one given, or the deepest one that holds all that was given."""
    folders = [os.path.abspath(path if os.path.isdir(path) else path.parent) for path in given]
    return Path(os.path.commonpath(folders))


def _unused(name: str, seen: set[str]) -> str:
    n = 2
    while f"{name} ({n})" in seen:
        n += 1
    return f"{name} ({n})"
