"""The indexes of vectors that callers may search: folders in the operator's folder, by name, opened when asked for."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from manyeyes.errors import IndexUnusable, ManyeyesError, NotFound, nearest
from manyeyes.primitives.base import PrimitiveSpec
from manyeyes.primitives.index import VectorIndex, describe
from manyeyes.service.pipeline.offered import offered

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,63}")
_HEAD: Final = "index.json"
_MOST_OPEN: Final = 8


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """An index as its folder tells it. version: of the primitive that made its vectors. turn: how often it was written.

    spec: that primitive, where callers may name it; None where no model that is offered here made them.
    """

    name: str
    folder: Path
    version: str
    dim: int
    n_items: int
    turn: int
    stamp: tuple[int, int]
    spec: PrimitiveSpec | None


class Indexes:
    """The operator's folder of indexes, read-only. folder: None where there is none.

    An index that was written again is opened again. Reads from disk: its methods belong on a worker thread.
    """

    def __init__(self, folder: Path | None, *, allowed_models: Sequence[str] = ()) -> None:
        self.folder = None if folder is None else folder.resolve()
        self.allowed_models = tuple(allowed_models)
        self._open: OrderedDict[str, tuple[tuple[int, int], VectorIndex]] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Return the names of all indexes, sorted."""
        if self.folder is None or not self.folder.is_dir():
            return []
        found = (path.name for path in self.folder.iterdir() if (path / _HEAD).is_file())
        return sorted(name for name in found if _NAME.fullmatch(name))

    def get(self, name: str) -> StoredIndex:
        """Return an index by name. Raises NotFound, with the nearest name; IndexUnusable if it is damaged."""
        place = self._place(name)
        try:
            # Not the errors of `describe`: they name the path, and callers are to see names only.
            head = None if place is None else describe(place)
        except IndexUnusable as error:
            raise IndexUnusable(
                f"the index {name!r} is damaged; the operator has to build it again"
            ) from error
        if head is None or place is None:
            known = self.names()
            told = f"there are {', '.join(known[:20])}" if known else "this service has none"
            raise NotFound(f"there is no index {name!r}; {told}{nearest(name, known)}")
        status = (place / _HEAD).stat()
        return StoredIndex(
            name=name,
            folder=place,
            version=head["primitive"],
            dim=head["dim"],
            n_items=head["items"],
            turn=head["turn"],
            stamp=(status.st_mtime_ns, status.st_size),
            spec=self._maker(head["primitive"]),
        )

    def survey(self) -> tuple[list[StoredIndex], dict[str, ManyeyesError]]:
        """Return every index that can be read, and what is wrong with the others by name."""
        sound: list[StoredIndex] = []
        broken: dict[str, ManyeyesError] = {}
        for name in self.names():
            try:
                sound.append(self.get(name))
            except ManyeyesError as error:
                broken[name] = error
        return sound, broken

    def open(self, stored: StoredIndex) -> VectorIndex:
        """Return an index, ready to be searched. Raises IndexUnusable."""
        with self._lock:
            known = self._open.get(stored.name)
            if known is not None and known[0] == stored.stamp:
                self._open.move_to_end(stored.name)
                return known[1]
            try:
                opened = VectorIndex.open(stored.folder)
            except IndexUnusable as error:
                raise IndexUnusable(
                    f"the index {stored.name!r} is damaged; the operator has to build it again"
                ) from error
            self._open[stored.name] = (stored.stamp, opened)
            self._open.move_to_end(stored.name)
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
            return opened

    def _place(self, name: str) -> Path | None:
        if self.folder is None or not _NAME.fullmatch(name):
            return None
        place = self.folder / name
        # A link may lead elsewhere inside the folder, as mounted volumes do, but not out of it.
        return place if place.is_dir() and place.resolve().is_relative_to(self.folder) else None

    def _maker(self, version: str) -> PrimitiveSpec | None:
        for one in offered(self.allowed_models):
            for primitive in one.primitives.values():
                if one.task == "embed" and _version_of(primitive) == version:
                    return one.spec
        return None


def _version_of(primitive: Any) -> str | None:
    try:
        told: str = primitive.version
    except ManyeyesError:
        return None  # the checkpoint is not here
    return told
