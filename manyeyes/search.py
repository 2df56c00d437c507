"""Search by words or by an example, over a folder or over an index of millions, and near-duplicate groups.

>>> finder = Finder(clip="toy", on="text")
>>> index = finder.index([Item("a", text="a red car"), Item("b", text="a blue door")])
>>> [found.id for found in index.search(finder.words("something red"), 1)[0]]
['a']
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRequest, ItemError
from manyeyes.lfs.encoders import ENCODERS, feature_of
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.duplicates import COSINE, duplicate_groups
from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.index import Chunk, VectorIndex
from manyeyes.recipe_parts import default_primitive, parse_primitive
from manyeyes.settings import home
from manyeyes.types import ImageSource, Item

Progress = Callable[[int], None]
_CHUNK: Final = 512


class Finder:
    """Embeds items and queries with one encoder, so that they can be compared.

    on: what of the items is searched, their images or their texts. clip: the model of the encoder; by default the
    starter CLIP for images and the usual sentence encoder for texts; "toy" is the toy. extractor: what computes; by
    default one with the cache in ``settings.home()``, so that nothing is computed twice.
    errors: why items were passed over, each with how many there were.
    """

    def __init__(
        self,
        *,
        on: Literal["image", "text"] = "image",
        clip: str | None = None,
        extractor: Extractor | None = None,
    ) -> None:
        kind = ENCODERS[on] if clip is None else "clip"
        if clip == "toy":
            kind, clip = "toy", None
        spec = default_primitive(kind) if clip is None else parse_primitive({"kind": kind, "model": clip})
        self.on = on
        self.extractor = extractor or Extractor.for_specs(
            {kind: spec, "image": default_primitive("image")}, cache=Cache.shared(home() / "cache")
        )
        self.encoder = kind
        given = {name: p.modality for name, p in self.extractor.primitives.items()}
        self.feature = feature_of(kind, on, lambda name: _of(name, given))
        self.errors: Counter[str] = Counter()

    @property
    def version(self) -> str:
        """The version of the primitive whose vectors are compared."""
        return self.extractor.versions([self.feature])[self.feature]

    def words(self, text: str) -> npt.NDArray[np.float32]:
        """Return a text as a query: float32, shape (1, dim). Raises InvalidRequest if there is nothing in it."""
        if not text.strip():
            raise InvalidRequest("the text to search for is empty; say what the items look like")
        return self.extractor.encode(self.encoder, [text])

    def example(self, image: ImageSource) -> npt.NDArray[np.float32]:
        """Return an image as a query: float32, shape (1, dim).

        Raises InvalidRequest if texts are searched, an ItemError if the image cannot be read.
        """
        if self.on != "image":
            raise InvalidRequest(
                "an image can be looked for among images alone; leave out --on text, or give words"
            )
        features = self.extractor.extract([Item("query", image=image)], [self.feature])
        for error in features.errors.values():
            raise error
        found: npt.NDArray[np.float32] = features[self.feature]["embedding"]
        return found

    def embed(self, items: Iterable[Item], *, progress: Progress | None = None) -> Iterator[Chunk]:
        """Yield ids and vectors of the items that have any, some at a time; note why the others have none."""
        iterator, done = iter(items), 0
        while chunk := list(islice(iterator, _CHUNK)):
            features = self.extractor.extract(chunk, [self.feature])
            block = features[self.feature]
            self._note(features.errors, len(chunk) - int(block.present.sum()))
            there = np.flatnonzero(block.present)
            if len(there):
                yield [chunk[i].id for i in there.tolist()], block["embedding"][there]
            done += len(chunk)
            if progress is not None:
                progress(done)

    def index(self, items: Iterable[Item], *, progress: Progress | None = None) -> VectorIndex:
        """Return an index of some items, whose ids differ. Raises InvalidRequest if none can be embedded."""
        return VectorIndex.build(self.embed(items, progress=progress), version=self.version)

    def update(self, index: VectorIndex, items: Iterable[Item], *, progress: Progress | None = None) -> int:
        """Bring an index up to date with some items; return how many were new or had changed."""
        return sum(index.update(ids, vectors) for ids, vectors in self.embed(items, progress=progress))

    def _note(self, errors: Mapping[int, ItemError], n_absent: int) -> None:
        self.errors.update(error.code for error in errors.values())
        without = n_absent - len(errors)
        if without:
            self.errors[f"no {self.on}"] += without


def duplicates(
    items: Sequence[Item],
    *,
    finder: Finder | None = None,
    cosine: float | None = None,
    progress: Progress | None = None,
) -> list[list[str]]:
    """Return groups of near-duplicate items, each a list of ids in the order of the items, the largest group first.

    Items that stand alone are in none. cosine: how close the embeddings of near-duplicates are at least, whatever their
    hashes; by default as ``manyeyes.primitives.duplicates.duplicate_groups`` has it, which uses hashes, too.
    """
    finder = finder or Finder()
    needs = [finder.feature, *(["image"] if finder.on == "image" else [])]
    vectors: list[Any] = []
    hashes: list[Any] = []
    present: list[Any] = []
    for start in range(0, len(items), _CHUNK):
        chunk = items[start : start + _CHUNK]
        features = finder.extractor.extract(chunk, needs)
        block = features[finder.feature]
        finder._note(features.errors, len(chunk) - int(block.present.sum()))
        vectors.append(block["embedding"])
        present.append(block.present)
        if "image" in needs:
            hashes.append(features["image"]["phash"])
        if progress is not None:
            progress(start + len(chunk))
    if not vectors:
        return []
    group = duplicate_groups(
        np.concatenate(vectors),
        np.concatenate(hashes) if hashes and cosine is None else None,
        present=np.concatenate(present),
        cosine=COSINE if cosine is None else cosine,
    )
    members: dict[int, list[str]] = {}
    for i, first in enumerate(group.tolist()):
        members.setdefault(first, []).append(items[i].id)
    return sorted((ids for ids in members.values() if len(ids) > 1), key=lambda ids: -len(ids))


def _of(name: str, modalities: Mapping[str, str]) -> dict[str, str]:
    return {feature: m for feature, m in modalities.items() if feature.partition(".")[0] == name}
