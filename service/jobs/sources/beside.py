"""Files that belong together: an image, the text beside it, and its metadata.

``photo.txt`` beside ``photo.jpg`` is the photo's text and ``photo.json`` its metadata; a text without an image is an
item of its own. The files come sorted, so those of one stem are close to each other, and only what lies between them is
held at a time: a listing of any length is paired in little memory.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, TypeVar

from manyeyes.errors import EmptyItem, InvalidItem, ItemError
from manyeyes.service.jobs.layout import OWN
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.sources.entries import Entry, Shelf
from manyeyes.settings import Limits
from manyeyes.sources import IMAGE_SUFFIXES, SIDECAR_SUFFIX, TEXT_SUFFIXES, checked_text, flat_metadata
from manyeyes.videos import SUFFIXES as VIDEO_SUFFIXES

MAX_SIDECAR_BYTES: Final = 2**20
TABLES: Final = (".parquet", ".csv", ".jsonl")
ARCHIVES: Final = (".zip", ".tar")
WRITTEN: Final = ("card/", "exports/", "labels/")
WRITTEN_BY_A_JOB: Final = "written by a job"
# Between `a.jpg` and `a.txt` can lie all of the folder `a.d`; what is farther away than this is not found.
_WINDOW: Final = 10_000
_READERS: Final = 16
_READ_AHEAD: Final = 128

T = TypeVar("T")


@dataclass(slots=True)
class Group:
    """What has one stem: files that are items, in order, and what lies beside them."""

    stem: str
    images: list[Entry] = field(default_factory=list)
    text: Entry | None = None
    told: Entry | None = None


def rows_of(shelf: Shelf, *, limits: Limits, skipped: Counter[str], threads: int = _READERS) -> Iterator[Row]:
    """Yield the rows of a shelf, in the order of its keys. threads: how many texts are read at once.

    skipped: counts, by reason, what was passed over.
    """

    def rows(group: Group) -> list[Row]:
        return _rows(group, shelf, limits)

    with ThreadPoolExecutor(threads, thread_name_prefix="texts") as pool:
        groups = grouped(shelf.entries(), skipped)
        for made in in_order(pool, rows, groups, at_once=lambda group: not (group.text or group.told)):
            yield from made


def grouped(entries: Iterable[Entry], skipped: Counter[str]) -> Iterator[Group]:
    """Yield files that belong together, by the first of them; counts the rest in ``skipped``."""
    waiting: deque[Group] = deque()
    by_stem: dict[str, Group] = {}

    def close(group: Group) -> Iterator[Group]:
        del by_stem[group.stem]
        if group.images or (group.text is not None):
            yield group
        elif group.told is not None:
            skipped[".json without an image"] += 1

    out: str | None = None
    for entry in entries:
        why = hidden(entry.key)
        head, is_own, _ = entry.key.partition(OWN)
        if is_own and (not head or head.endswith("/")):
            out = head  # Somebody's job writes there: its own names come first, since they begin with `_`.
        if why is None and out is not None and entry.key.startswith(tuple(out + one for one in WRITTEN)):
            why = WRITTEN_BY_A_JOB
        if why:
            skipped[why] += 1
            continue
        suffix = entry.suffix.lower()
        is_image = suffix in IMAGE_SUFFIXES or entry.problem is not None
        if not is_image and suffix not in TEXT_SUFFIXES and suffix != SIDECAR_SUFFIX:
            skipped[reason(suffix)] += 1
            continue
        while waiting and not entry.key.startswith(waiting[0].stem + "."):
            yield from close(waiting.popleft())
        if len(waiting) >= _WINDOW:
            yield from close(waiting.popleft())
        group = by_stem.get(entry.stem)
        if group is None:
            group = by_stem[entry.stem] = Group(entry.stem)
            waiting.append(group)
        if is_image:
            group.images.append(entry)
        elif suffix in TEXT_SUFFIXES:
            group.text = entry
        else:
            group.told = entry
    while waiting:
        yield from close(waiting.popleft())


def hidden(key: str) -> str | None:
    """Return why a key is passed over, or None: a part of it begins with a dot, or is a program's own."""
    parts = key.split("/")
    if any(part.startswith(".") and part not in (".", "..") for part in parts):
        return "hidden"
    return "hidden" if "__MACOSX" in parts or "_manyeyes" in parts else None


def reason(suffix: str) -> str:
    """Return why a file of some suffix is passed over."""
    if suffix in TABLES:
        return "table (name it to read it)"
    if suffix in ARCHIVES:
        return "archive (name it to read it)"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return suffix or "no extension"


def in_order(
    pool: ThreadPoolExecutor,
    call: Callable[[Group], T],
    values: Iterable[Group],
    *,
    at_once: Callable[[Group], bool],
) -> Iterator[T]:
    """Yield what a call makes of each value, in order; a bounded number of calls are made ahead, in threads."""
    waiting: deque[tuple[Group, Future[T] | None]] = deque()

    def first() -> T:
        value, future = waiting.popleft()
        return call(value) if future is None else future.result()

    n_ahead = 0
    try:
        for value in values:
            future = None if at_once(value) else pool.submit(call, value)
            waiting.append((value, future))
            n_ahead += future is not None
            # Where nothing is being read there is nothing to wait for.
            while waiting and (n_ahead > _READ_AHEAD or waiting[0][1] is None or len(waiting) > _WINDOW):
                n_ahead -= waiting[0][1] is not None
                yield first()
        while waiting:
            yield first()
    finally:
        for _, future in waiting:
            if future is not None:
                future.cancel()


def _rows(group: Group, shelf: Shelf, limits: Limits) -> list[Row]:
    text: str | None = None
    metadata = "{}"
    wrong: ItemError | None = None
    if group.text is not None:
        read = _text(group.text, shelf, limits)
        if isinstance(read, ItemError):
            wrong = read
        else:
            text = read
    if group.told is not None and group.images:
        told = _metadata(group.told, shelf)
        if isinstance(told, ItemError):
            wrong = wrong or told
        else:
            metadata = told
    if not group.images and group.text is not None:
        entry = group.text
        return [_row(entry, text=text, metadata=metadata, wrong=wrong, is_image=False)]
    return [_row(entry, text=text, metadata=metadata, wrong=wrong) for entry in group.images]


def _row(
    entry: Entry, *, text: str | None, metadata: str, wrong: ItemError | None, is_image: bool = True
) -> Row:
    problem = entry.problem or wrong
    if problem is None and is_image and entry.size == 0:
        problem = EmptyItem(f"{entry.key} has no bytes; restore the file, or remove it")
    return Row(
        id=entry.key,
        uri=entry.uri if is_image else None,
        member=entry.member if is_image else None,
        offset=entry.offset if is_image else None,
        length=entry.length if is_image else None,
        size=entry.size,
        etag=entry.etag,
        text=text if problem is None else None,
        metadata=metadata,
        error=None if problem is None else (problem.code, str(problem)),
    )


def _text(entry: Entry, shelf: Shelf, limits: Limits) -> str | ItemError:
    # A character takes at most four bytes, so a longer file need not be read to know that it is too long.
    if entry.size > 4 * limits.max_text:
        return InvalidItem(
            f"{entry.key} holds {entry.size:,} bytes; a text has at most {limits.max_text:,} characters. Split it"
        )
    data = shelf.read(entry, 4 * limits.max_text)
    return data if isinstance(data, ItemError) else checked_text(data, where=entry.key, limits=limits)


def _metadata(entry: Entry, shelf: Shelf) -> str | ItemError:
    if entry.size > MAX_SIDECAR_BYTES:
        return InvalidItem(
            f"{entry.key} holds over {MAX_SIDECAR_BYTES:,} bytes; metadata is a small flat JSON object"
        )
    data = shelf.read(entry, MAX_SIDECAR_BYTES)
    if isinstance(data, ItemError):
        return data
    try:
        told = flat_metadata(json.loads(data), where=entry.key)
    except (ValueError, RecursionError) as error:
        return InvalidItem(f"{entry.key} is not JSON ({error}); correct it or remove it")
    return told if isinstance(told, ItemError) else as_json(told)


def as_json(metadata: object) -> str:
    """Return metadata as Row keeps it: the same values, the same text."""
    told = json.dumps(metadata, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    try:
        told.encode()
    except UnicodeEncodeError:  # half of a pair of UTF-16, which JSON can say and UTF-8 cannot
        return json.dumps(metadata, separators=(",", ":"), sort_keys=True)
    return told
