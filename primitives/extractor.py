"""From items to features: what the cache lacks is decoded once, computed in batches, kept, and put into columns.

Caching, threads, batches and the errors of single items are here, so that no primitive need care.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRecipe, InvalidRequest, ItemError, UnreadableItem
from manyeyes.primitives.base import FeatureSet, Primitive, PrimitiveSpec, is_dependent
from manyeyes.primitives.build import build_primitives, primitive_of, text_feature
from manyeyes.primitives.cache import Cache, content_digest
from manyeyes.primitives.chains import check_source, read_given, sort_out
from manyeyes.primitives.computing import Computing, Run
from manyeyes.primitives.contents import Contents, check_text
from manyeyes.primitives.counter import PassCounter
from manyeyes.primitives.features import Layout
from manyeyes.primitives.naming import parts
from manyeyes.primitives.pairs import see_pairs
from manyeyes.primitives.reading import Decode, Read, Reader, Threads, ahead
from manyeyes.settings import Limits
from manyeyes.types import Item

__all__ = ["Extractor", "PassCounter"]


class Options(TypedDict, total=False):
    """How an Extractor works, beside which primitives it has."""

    cache: Cache | None
    batch_size: int
    decode_threads: int | None
    limits: Limits | None
    decode: Decode | None
    threads: Threads | None
    run: Run | None


class Extractor:
    """Computes features of items. Safe to use from several threads.

    primitives: feature name → primitive. cache: where features are kept; None keeps nothing. batch_size: inputs a
    forward pass; it never changes a feature. decode_threads: threads that read and decode; by default one a core, at
    most eight. limits: what one item may cost. decode: how an image becomes pixels. threads: which read and decode, if
    shared with others. run: who computes a batch; by default the thread that asks.

    >>> from manyeyes.primitives.toy import ToySpec
    >>> extractor = Extractor.for_specs({"toy": ToySpec(kind="toy")}, cache=None)
    >>> features = extractor.extract([Item("a", text="red and blue"), Item("b", text="red")], ["toy.text"])
    >>> features["toy.text"]["embedding"].round(2).tolist()
    [[0.71, 0.0, 0.71], [1.0, 0.0, 0.0]]
    """

    def __init__(
        self,
        primitives: Mapping[str, Primitive],
        *,
        cache: Cache | None = None,
        batch_size: int = 32,
        decode_threads: int | None = None,
        limits: Limits | None = None,
        decode: Decode | None = None,
        threads: Threads | None = None,
        run: Run | None = None,
    ) -> None:
        if batch_size < 1:
            raise InvalidRequest(f"batch_size is at least 1, got {batch_size}")
        self.primitives = dict(primitives)
        self.cache = cache
        self.batch_size = batch_size
        self.decode_threads = decode_threads or min(8, len(os.sched_getaffinity(0)))
        self.limits = limits if limits is not None else Limits()
        self.decode = decode
        self.run = run
        self._lent = threads
        self.counter = PassCounter()
        self._layouts: dict[str, Layout] = {}
        self._lock = threading.RLock()
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    @classmethod
    def for_specs(
        cls,
        specs: Mapping[str, PrimitiveSpec],
        *,
        also: Mapping[str, Primitive] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """Return an extractor for the primitives of a recipe; no weights are loaded yet.

        also: feature name → primitive, of signals that are no primitives of the recipe. options: as for the class.
        Raises InvalidRecipe if a kind is unknown.
        """
        return cls(build_primitives(specs, also), **options)

    def extract(self, items: Sequence[Item], needs: Collection[str]) -> FeatureSet:
        """Return the features of some items; a row with an error is absent from every block.

        items: as many as fit in memory with their features; images are decoded a few at a time.
        needs: feature names. Raises InvalidRecipe if no primitive gives one of them, ModelNotFound, WeightsMismatch or
        MissingDependency if a model has to be loaded and cannot be.
        """
        plain, given = sort_out(needs)
        if given:
            for source in given:
                check_source(source, self.primitives)
            return read_given(
                self.extract(items, plain),
                given,
                {feature: self._primitive(feature) for features in given.values() for feature in features},
                self._computing(),
                see_texts=self._see_texts,
                layout=self._layout,
                limits=self.limits,
            )
        needed: dict[str, Primitive] = {}
        for feature in needs:
            self._add_needed(feature, needed)
        of_images = {feature: p for feature, p in needed.items() if p.modality == "image"}
        of_texts = {feature: p for feature, p in needed.items() if p.modality == "text"}
        of_pairs = {feature: p for feature, p in needed.items() if p.modality == "pair"}
        contents = Contents.of(
            items,
            images=bool(of_images or of_pairs),
            texts=bool(of_texts or of_pairs),
            cache=self.cache,
            limits=self.limits,
        )
        work = self._computing()
        if of_images or of_pairs:
            self._see_images(contents, of_images, work)
        if of_texts:
            self._see_texts(contents.wordings, of_texts, work)
        pairs: list[bytes | None] = []
        if of_pairs:
            pairs = see_pairs(
                items,
                contents,
                of_pairs,
                work,
                threads=self._threads,
                limits=self.limits,
                ready=self._ready,
                decode=self.decode,
                n_ahead=self.batch_size + self.decode_threads,
            )
        work.finish()
        errors = dict(contents.errors)
        if work.failed:
            halves = [contents.images, contents.texts, *([pairs] if pairs else [])]
            for i, digests in enumerate(zip(*halves, strict=True)):
                for digest in digests:
                    if digest in work.failed:
                        errors.setdefault(i, work.failed[digest])
        for i in errors:
            contents.images[i] = contents.texts[i] = None
            if pairs:
                pairs[i] = None
        of = {"image": contents.images, "text": contents.texts, "pair": pairs}
        blocks = {
            feature: self._layout(feature).assemble(of[primitive.modality], work.rows[feature])
            for feature, primitive in needed.items()
            if feature in needs
        }
        return FeatureSet(items=items, blocks=blocks, errors=dict(sorted(errors.items())))

    def cached(self, items: Sequence[Item], needs: Collection[str]) -> list[bool]:
        """Return of each item whether the cache holds all its features; False also where that cannot be told at once.

        Decodes nothing and loads no model. An item in which nothing can be read lacks nothing. Raises InvalidRecipe as
        ``extract`` does.
        """
        plain, given = sort_out(needs)
        needed: dict[str, Primitive] = {}
        for feature in plain:
            self._add_needed(feature, needed)
        modalities = {primitive.modality for primitive in needed.values()}
        if given or self.cache is None or "pair" in modalities:
            return [False] * len(items)
        contents = Contents.of(
            items,
            images="image" in modalities,
            texts="text" in modalities,
            cache=self.cache,
            limits=self.limits,
        )
        digests = {"image": contents.images, "text": contents.texts}
        lacking = set(contents.unread)
        for primitive in needed.values():
            own = digests[primitive.modality]
            found = self.cache.get(primitive.version, {digest for digest in own if digest is not None})
            lacking |= {i for i, digest in enumerate(own) if digest is not None and digest not in found}
        return [i not in lacking for i in range(len(items))]

    def encode(self, primitive: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Return embeddings of prompts in the space of a primitive: float32, shape (n_texts, dim).

        primitive: its name or a feature of it; the feature that reads text is used, such as "clip.text" for "clip".
        Raises InvalidRecipe if the primitive cannot embed texts, or a text is not one.
        """
        feature = text_feature(primitive, self.primitives)
        wordings: dict[bytes, str] = {}
        digests: list[bytes | None] = []
        for text in texts:
            try:
                checked = check_text(text, self.limits)
            except ItemError as error:
                raise InvalidRecipe(f"a prompt for {primitive!r} cannot be used: {error}") from error
            if checked is None:
                raise InvalidRecipe(f"a prompt for {primitive!r} is empty; write what the class looks like")
            digests.append(content_digest(checked.encode()))
            wordings[content_digest(checked.encode())] = checked
        work = self._computing(prompts=True)
        self._see_texts(wordings, {feature: self._primitive(feature)}, work)
        work.finish()
        if work.failed:
            raise next(iter(work.failed.values()))
        embeddings: npt.NDArray[np.float32] = self._layout(feature).assemble(digests, work.rows[feature])[
            "embedding"
        ]
        return embeddings

    def embed(self, feature: str, items: Sequence[Item]) -> npt.NDArray[np.float32]:
        """Return embeddings of examples by a feature, L2-normalised: float32, shape (n_items, dim).

        Raises InvalidRecipe if an item cannot be read or has nothing that the feature reads, or the feature gives no
        embeddings.
        """
        found = self.extract(items, [feature])
        for error in found.errors.values():
            raise InvalidRecipe(f"an example for {feature!r} cannot be used: {error}") from error
        block = found[feature]
        if block.offsets is not None or "embedding" not in (block.rows.dtype.names or ()):
            raise InvalidRecipe(
                f"{feature!r} gives no embeddings, so nothing can be compared in it; use a CLIP"
            )
        if not block.present.all():
            reads = self._primitive(feature).modality
            raise InvalidRecipe(f"an example for {feature!r} has no {reads}, which is what it reads")
        embeddings: npt.NDArray[np.float32] = block["embedding"]
        return embeddings

    @property
    def notes(self) -> list[str]:
        """What primitives tell of their work so far, such as what was asked of an endpoint and what it cost."""
        return [note for primitive in self.primitives.values() for note in getattr(primitive, "notes", ())]

    def info(self, primitive: str) -> Mapping[str, Any]:
        """Return what a feature's primitive says of itself; from the cache where it is known there."""
        return self._layout(primitive).info

    def versions(self, needs: Collection[str]) -> dict[str, str]:
        """Return the version of the primitive behind each feature."""
        return {
            feature: "@".join(self._primitive(part).version for part in parts(feature))
            for feature in sorted(set(needs))
        }

    def _see_images(self, contents: Contents, primitives: Mapping[str, Primitive], work: Computing) -> None:
        for feature, primitive in primitives.items():
            work.look_up(feature, primitive, contents.sources)
        lacking = {
            digest: tuple(feature for feature in primitives if digest not in work.rows[feature])
            for digest in contents.sources
        }
        rows = {digest: i for i, digest in enumerate(contents.images) if digest is not None}
        reader = Reader(
            primitives, cache=self.cache, limits=self.limits, ready=self._ready, decode=self.decode
        )
        known = [
            partial(reader.read, rows[digest], contents.sources[digest], features)
            for digest, features in lacking.items()
            if features
        ]
        unread = [partial(reader.read, i, source, None) for i, source in contents.unread.items()]
        if not known and not unread:
            return
        failed: dict[bytes, ItemError] = {}
        for read in ahead(self._threads(), [*known, *unread], n_ahead=self.batch_size + self.decode_threads):
            self._take(read, contents, primitives, work, failed)
        for i, digest in enumerate(contents.images):
            if digest in failed:
                contents.errors.setdefault(i, failed[digest])

    def _take(
        self,
        read: Read,
        contents: Contents,
        primitives: Mapping[str, Primitive],
        work: Computing,
        failed: dict[bytes, ItemError],
    ) -> None:
        """Put what a thread read where it belongs."""
        expected = contents.images[read.item]
        if read.error is not None:
            # The same content in other items has the same error; a file that cannot be read has it alone.
            failed_digest = read.digest or expected
            if failed_digest is not None:
                failed[failed_digest] = read.error
            contents.errors[read.item] = read.error
            return
        if expected is not None and read.digest != expected:
            failed[expected] = UnreadableItem("the file changed while it was labeled; label it again")
            return
        assert read.digest is not None
        contents.images[read.item] = read.digest
        if read.seen is not None:
            work.saw(*read.seen)
        for feature, row in read.rows.items():
            work.rows[feature][read.digest] = row
        for feature, value in read.inputs.items():
            work.add(feature, primitives[feature], read.digest, value)

    def _see_texts(
        self, wordings: Mapping[bytes, str], primitives: Mapping[str, Primitive], work: Computing
    ) -> None:
        for feature, primitive in primitives.items():
            work.look_up(feature, primitive, wordings)
            lacking = [digest for digest in wordings if digest not in work.rows[feature]]
            # Texts of like length in one batch need the least padding.
            for digest in sorted(lacking, key=lambda digest: len(wordings[digest])):
                work.add(feature, primitive, digest, wordings[digest])

    def _add_needed(self, feature: str, needed: dict[str, Primitive]) -> None:
        """Add a feature after those whose rows it reads, so that these are computed first."""
        primitive = self._primitive(feature)
        if is_dependent(primitive):
            for need in primitive.needs:
                self._add_needed(need, needed)
        needed.setdefault(feature, primitive)

    def _computing(self, *, prompts: bool = False) -> Computing:
        return Computing(
            cache=self.cache,
            counter=self.counter,
            batch_size=self.batch_size,
            layout=self._layout,
            ready=self._ready,
            prompts=prompts,
            run=self.run,
        )

    def _primitive(self, feature: str) -> Primitive:
        return primitive_of(feature, self.primitives)

    def _ready(self, feature: str) -> None:
        with self._lock:
            self._primitive(feature).setup()

    def _layout(self, feature: str) -> Layout:
        """Return how a feature's rows look: from the cache, or from the primitive, which may have to load."""
        with self._lock:
            if feature in self._layouts:
                return self._layouts[feature]
            primitive = self._primitive(feature)
            meta = None if self.cache is None else self.cache.meta_get(primitive.version)
            layout = None if meta is None else Layout.from_meta(meta)
            if layout is None:
                layout = Layout.of(primitive)
                if self.cache is not None:
                    self.cache.meta_put(primitive.version, layout.to_meta())
            self._layouts[feature] = layout
            return layout

    def _threads(self) -> Threads:
        if self._lent is not None:
            return self._lent
        with self._lock:
            # Threads do not survive a fork.
            if self._pool is None or self._pool[0] != os.getpid():
                pool = ThreadPoolExecutor(self.decode_threads, thread_name_prefix="manyeyes-read")
                weakref.finalize(self, pool.shutdown, wait=False, cancel_futures=True)
                self._pool = (os.getpid(), pool)
            return self._pool[1]
