"""``manyeyes search`` and ``manyeyes duplicates``: what looks like words or like a picture, and what is there twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.text import Text

from manyeyes.commands import screen
from manyeyes.errors import IndexUnusable, InvalidRequest, nearest
from manyeyes.primitives.index import VectorIndex
from manyeyes.search import Finder
from manyeyes.search import duplicates as find_duplicates
from manyeyes.sources import Broken, read_items
from manyeyes.types import Item

_GROUPS_SHOWN = 20
_MEMBERS_SHOWN = 6


@dataclass(frozen=True)
class Options:
    """What the command line asks of ``search``; see ``manyeyes search --help``."""

    text: str | None
    paths: Sequence[Path]
    image: Path | None = None
    index: Path | None = None
    on: Literal["image", "text"] = "image"
    clip: str | None = None
    count: int = 10
    as_json: bool = False


def run(options: Options) -> int:
    """Search as the options say; return the exit code: 0, or 1 where there was nothing to search.

    Raises InvalidRequest unless exactly one of text and image is given, IndexUnusable if an index cannot be used.
    """
    if (options.text is None) == (options.image is None):
        came = "neither" if options.text is None else "both"
        raise InvalidRequest(
            f'{came} of a text and --image came; write manyeyes search "a red dress" PATH, or'
            " manyeyes search --image photo.jpg PATH"
        )
    if not options.paths and options.index is None:
        raise InvalidRequest(
            "no paths were given; name what to search: images, folders, tables, or an --index"
        )
    finder = Finder(on=options.on, clip=options.clip)
    query = finder.words(options.text) if options.text is not None else finder.example(options.image or "")
    skipped: Counter[str] = Counter()
    index = _index(finder, options, skipped)
    for reason, times in (skipped + finder.errors).items():
        screen.say(f"Passed over: {times} ({reason}).")
    if index is None or not len(index):
        screen.say(f"There was nothing to search: not one item with an {options.on} that can be read.")
        return 1
    found = index.search(query, options.count)[0]
    if options.as_json:
        rows = [{"id": hit.id, "cosine": round(hit.cosine, 4)} for hit in found]
        screen.out().out(json.dumps(rows, indent=2, ensure_ascii=False), highlight=False)
        return 0
    wanted = f'"{options.text}"' if options.text is not None else str(options.image)
    console = screen.out()
    console.print(Text(f"Nearest to {wanted}, of {len(index):,} items"))
    console.print(screen.table("", ("id", "cosine"), [(hit.id, f"{hit.cosine:.3f}") for hit in found]))
    return 0


def run_duplicates(
    paths: Sequence[Path],
    *,
    clip: str | None,
    cosine: float | None,
    as_json: bool,
    on: Literal["image", "text"],
) -> int:
    """Print groups of near-duplicates; return the exit code: 0, or 1 where nothing can be read."""
    skipped: Counter[str] = Counter()
    finder = Finder(on=on, clip=clip)
    items = list(_items(paths, skipped))
    with screen.progress("looking", total=len(items)) as done:
        groups = find_duplicates(items, finder=finder, progress=done, cosine=cosine)
    for reason, times in (skipped + finder.errors).items():
        screen.say(f"Passed over: {times} ({reason}).")
    if as_json:
        screen.out().out(json.dumps(groups, indent=2, ensure_ascii=False), highlight=False)
    else:
        extra = sum(map(len, groups)) - len(groups)
        rows = [
            (str(len(ids)), ", ".join(ids[:_MEMBERS_SHOWN]) + (" …" if len(ids) > _MEMBERS_SHOWN else ""))
            for ids in groups[:_GROUPS_SHOWN]
        ]
        console = screen.out()
        console.print(
            Text(f"Groups of near-duplicates: {len(groups):,}; {extra:,} of {len(items):,} items could go")
        )
        console.print(screen.table("", ("items", "ids"), rows, words=("ids",)))
        if len(groups) > _GROUPS_SHOWN:
            screen.say(f"{len(groups) - _GROUPS_SHOWN:,} more groups: --json tells them all.")
    return 0 if items else 1


def what(on: str) -> Literal["image", "text"]:
    """Return which half of the items is meant. Raises InvalidRequest if it is neither."""
    if on == "image":
        return "image"
    if on == "text":
        return "text"
    raise InvalidRequest(f"--on is image or text, got {on!r}{nearest(on, ['image', 'text'])}")


def _index(finder: Finder, options: Options, skipped: Counter[str]) -> VectorIndex | None:
    """Return what is searched: an index from disk, brought up to date with the paths, or one of the paths alone."""
    index = None
    if options.index is not None:
        try:
            index = VectorIndex.open(options.index, version=finder.version)
        except IndexUnusable:
            if not options.paths or (options.index / "index.json").exists():
                raise
    if not options.paths:
        return index
    with screen.progress("embedding", total=None) as done:
        if index is not None:
            changed = finder.update(index, _items(options.paths, skipped), progress=done)
        else:
            try:
                index = finder.index(_items(options.paths, skipped), progress=done)
            except InvalidRequest:
                if finder.errors or skipped:
                    return None
                raise
            changed = len(index)
    if options.index is not None and changed:
        index.save(options.index)
        screen.say(
            f"{changed:,} items are new or changed in {options.index}, which holds {len(index):,} now."
        )
    return index


def _items(paths: Sequence[Path], skipped: Counter[str]) -> Iterator[Item]:
    for read in read_items(paths, skipped=skipped):
        if isinstance(read, Broken):
            skipped[read.error.code] += 1
        else:
            yield read
