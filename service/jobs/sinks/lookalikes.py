"""Images that are the same picture again: resized, recompressed, lighter or darker, cropped by a little.

Each image is reduced to a small grey one. From that come 64-bit perceptual hashes of the whole and of 24 crops, each
cut by up to 5 % a side. Two images are alike where the hash of one, whole, differs in at most 10 bits from that of the
other or of one of its crops, and their pixels agree: the correlation of the one with the other, or with a crop of it,
is at least 0.90, or 0.85 where the hashes differ in at most 6 bits.

Measured on 528 photographs of four collections, each beside 14 copies of it: at half and 1.5 times the size,
squeezed, in JPEG quality 30, as PNG, 30 % lighter and darker, with more contrast, cropped by 3 to 10 % around the
middle and by 5 % in a corner, and several of it at once. Of these 7,392 copies, 7,391 are found by themselves, without
others in between. Of photographs that are no copies, up to 1,500 a collection, none of COCO's and ImageNet's go
together, 25 in a million pairs of CIFAR-10's airplanes (blue skies), and 300 in a million of garments laid out on the
same floor, which do look alike.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.errors import ItemError
from manyeyes.primitives.images import decode_image

HASH_BITS: Final = 10
"""In how many of their 64 bits the hashes of images that are alike may differ."""
CORRELATION: Final = 0.90
"""How well the pixels of images that are alike agree, at 16 × 16."""
CLOSE_BITS: Final = 6
CLOSE_CORRELATION: Final = 0.85
"""The same where the hashes differ in hardly any bit."""
STRICT_CORRELATION: Final = 0.96
"""The same within groups so large that something else than copying must hold them together."""

_SIDE: Final = 40
_CUTS: Final = ((0.0, 0.0), (0.05, 0.0), (0.0, 0.05), (0.025, 0.025), (0.05, 0.05))
_N_CROPS: Final = len(_CUTS) ** 2
_PLAIN: Final = 3.0
"""Standard deviation, out of 255, below which a surface is plain: its hash is that of noise."""
_DOUBT: Final = 0.6
_WHITE: Final = 245
_BLOCK: Final = 512
_EXACT_UP_TO: Final = 20_000
_LARGE: Final = 300_000

Floats = npt.NDArray[np.float32]
Pairs = npt.NDArray[np.int64]


class Thumbnails:
    """Small grey images of many rows, in a temporary file rather than in memory.

    n_rows: how many rows there will be. digests: uint64, shape (n_rows,), of the images' bytes; 0 where there is none.
    Use it in a ``with``, which removes the file.
    """

    def __init__(self, n_rows: int) -> None:
        self._file = tempfile.TemporaryFile(prefix="manyeyes-thumbnails-")  # noqa: SIM115
        shape = (max(n_rows, 1), _SIDE, _SIDE)
        self.pixels: npt.NDArray[np.uint8] = np.memmap(self._file, dtype=np.uint8, mode="w+", shape=shape)
        self.digests = np.zeros(n_rows, dtype=np.uint64)

    def __enter__(self) -> Thumbnails:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def fill(self, images: Iterable[tuple[int, bytes]]) -> None:
        """Take images, decoded by as many threads as there are cores; what cannot be decoded stays alone."""
        workers = os.cpu_count() or 1
        waiting: deque[tuple[int, Future[npt.NDArray[np.uint8] | None]]] = deque()
        with ThreadPoolExecutor(workers, thread_name_prefix="lookalikes") as pool:
            for row, data in images:
                digest = hashlib.blake2b(data, digest_size=8).digest()
                self.digests[row] = max(int.from_bytes(digest, "big"), 1)
                waiting.append((row, pool.submit(thumbnail, data)))
                if len(waiting) > 2 * workers:
                    self._keep(*waiting.popleft())
            while waiting:
                self._keep(*waiting.popleft())

    def _keep(self, row: int, made: Future[npt.NDArray[np.uint8] | None]) -> None:
        pixels = made.result()
        if pixels is not None:
            self.pixels[row] = pixels

    def groups(self, *, most: int) -> npt.NDArray[np.int64]:
        """Return the group of every row: int64, shape (n_rows,); the least index of a row in it.

        most: rows; in a group larger than that, only what agrees very well (0.96) counts as alike.
        """
        pairs, agree = self._alike()
        same = _same(self.digests)
        pairs, agree = np.concatenate([pairs, same]), np.concatenate([agree, np.ones(len(same), np.float32)])
        n = len(self.digests)
        found = components(pairs, n)
        large = np.bincount(found, minlength=n)[found] > most
        if large.any():
            found = components(pairs[~large[pairs[:, 0]] | (agree >= STRICT_CORRELATION)], n)
        return found

    def _alike(self) -> tuple[Pairs, Floats]:
        """Return pairs of rows that are alike, and how well they agree."""
        hashes, told = self._hashes()
        rows = np.flatnonzero(told)
        if len(rows) < 2:
            return np.empty((0, 2), np.int64), np.empty(0, np.float32)
        search = _searcher(hashes[rows])
        pairs, agree = [], []
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            small = np.asarray(self.pixels[block], dtype=np.float32)
            queries, found, bits = search(_hashes_of(small).reshape(-1))
            mine, crop, other = queries // _N_CROPS, queries % _N_CROPS, rows[found]
            keep = other != block[mine]
            mine, crop, other, bits = mine[keep], crop[keep], other[keep], bits[keep]
            for begin in range(0, len(mine), 4 * _BLOCK):  # bounds what is held where very much is alike
                part = slice(begin, begin + 4 * _BLOCK)
                fits = self._agreement(small, mine[part], crop[part], other[part])
                good = fits >= np.where(bits[part] <= CLOSE_BITS, CLOSE_CORRELATION, CORRELATION)
                pairs.append(np.stack([block[mine[part][good]], other[part][good]], axis=1))
                agree.append(fits[good])
        return (
            np.concatenate(pairs) if pairs else np.empty((0, 2), np.int64),
            np.concatenate(agree) if agree else np.empty(0, np.float32),
        )

    def _agreement(self, small: Floats, mine: Pairs, crop: Pairs, other: Pairs) -> Floats:
        """Return how well pairs agree: by the crop that the hash tells, and where that leaves a doubt, by any."""
        whole = np.asarray(self.pixels[other], dtype=np.float32)
        fits = agreement(small[mine], crop, whole)
        doubt = np.flatnonzero((fits < CORRELATION) & (fits >= _DOUBT))
        # Each pair once, though several crops may have found it.
        _, first, same = np.unique(
            mine[doubt] * (int(other.max(initial=0)) + 1) + other[doubt],
            return_index=True,
            return_inverse=True,
        )
        a, b = small[mine[doubt[first]]], whole[doubt[first]]
        best = fits[doubt[first]]
        for n in range(_N_CROPS):
            each = np.full(len(first), n)
            best = np.maximum(best, np.maximum(agreement(a, each, b), agreement(b, each, a)))
        fits[doubt] = best[same]
        return fits

    def _hashes(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
        """Return the hash of every row, and whether it tells something."""
        n = len(self.digests)
        hashes, told = np.zeros(n, dtype=np.uint64), np.zeros(n, dtype=np.bool_)
        for start in range(0, n, _BLOCK):
            part = slice(start, min(start + _BLOCK, n))
            small = np.asarray(self.pixels[part], dtype=np.float32)
            hashes[part] = _hashes_of(small, crops=1)[:, 0]
            told[part] = small.std(axis=(1, 2)) >= _PLAIN
        return hashes, told


def thumbnail(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Return an image's luma, uint8, shape (40, 40), upright and squeezed; None if it cannot be decoded."""
    from PIL import Image

    try:
        pixels = decode_image(data, least_side=2 * _SIDE).pixels
    except ItemError:
        return None
    way = Image.Resampling.BOX if min(pixels.size) >= _SIDE else Image.Resampling.BILINEAR
    return np.asarray(pixels.convert("L").resize((_SIDE, _SIDE), way), dtype=np.uint8)


def components(pairs: Pairs, n: int) -> npt.NDArray[np.int64]:
    """Return the least index that each of n rows hangs together with. pairs: int64, shape (n_pairs, 2)."""
    least = np.arange(n)
    while True:
        # Each takes the least of its neighbours, and then what that one has taken, until nothing changes.
        near = np.minimum(least[pairs[:, 0]], least[pairs[:, 1]])
        if (near == least[pairs[:, 0]]).all() and (near == least[pairs[:, 1]]).all():
            return least
        for side in (0, 1):
            np.minimum.at(least, least[pairs[:, side]], near)
            np.minimum.at(least, pairs[:, side], near)
        while (further := least[least]).tobytes() != least.tobytes():
            least = further


def joined(*groupings: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the groups of rows that hang together by any of several groupings."""
    n = len(groupings[0])
    own = np.arange(n)
    return components(np.concatenate([np.stack([own, groups], axis=1) for groups in groupings]), n)


def _same(keys: npt.NDArray[Any]) -> Pairs:
    """Return each row with the first that has the same key; 0 is no key."""
    rows = np.flatnonzero(keys)
    _, first, member = np.unique(keys[rows], return_index=True, return_inverse=True)
    pairs = np.stack([rows, rows[first[member]]], axis=1)
    return np.asarray(pairs[pairs[:, 0] != pairs[:, 1]], dtype=np.int64)


def _searcher(
    hashes: npt.NDArray[np.uint64],
) -> Callable[[npt.NDArray[np.uint64]], tuple[Pairs, Pairs, Pairs]]:
    """Return what finds, for some hashes, those of the given ones that differ in few bits: query, found, bits.

    Up to 20,000 all of them. Above that, those are compared that agree on one of several parts of the hash but for one
    bit: all up to 7 bits, and many up to 10; of more than 300,000, all up to 5 bits.
    """
    import faiss

    def binary(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
        return np.frombuffer(values.tobytes(), dtype=np.uint8).reshape(-1, 8)

    if len(hashes) <= _EXACT_UP_TO:
        index: Any = faiss.IndexBinaryFlat(64)
    else:
        n_parts, bits = (4, 16) if len(hashes) <= _LARGE else (3, 21)
        index = faiss.IndexBinaryMultiHash(64, n_parts, bits)
        index.nflip = 1
    index.add(binary(hashes))

    def search(queries: npt.NDArray[np.uint64]) -> tuple[Pairs, Pairs, Pairs]:
        # faiss finds what is nearer than the radius.
        limits, bits, found = index.range_search(binary(queries), HASH_BITS + 1)
        which = np.repeat(np.arange(len(queries)), np.diff(limits).astype(np.int64))
        return which, found.astype(np.int64), np.asarray(bits).astype(np.int64)

    return search


def _resampling(cut: tuple[float, float], n: int) -> Floats:
    """Return the matrix that makes n means out of a row of 40 pixels, of which the ends are cut off."""
    edges = np.linspace(cut[0] * _SIDE, (1 - cut[1]) * _SIDE, n + 1)
    pixel = np.arange(_SIDE)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = np.maximum(overlap, 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def _frequencies() -> Floats:
    """Return the first 8 basis vectors of the DCT-II of length 32."""
    frequency, position = np.arange(8)[:, None], np.arange(32)[None, :]
    return np.asarray(2 * np.cos(np.pi * frequency * (2 * position + 1) / 64), dtype=np.float32)


_TO_FREQUENCIES: Final = np.stack([_frequencies() @ _resampling(cut, 32) for cut in _CUTS])
_TO_SMALL: Final = np.stack([_resampling(cut, 16) for cut in _CUTS])


def _hashes_of(small: Floats, *, crops: int = _N_CROPS) -> npt.NDArray[np.uint64]:
    """Return the perceptual hashes of crops, the whole first: uint64, shape (n, crops); see ``perceptual_hash``."""
    ways = _TO_FREQUENCIES if crops > 1 else _TO_FREQUENCIES[:1]
    columns = small @ ways[:, None].transpose(0, 1, 3, 2)  # (ways, n, 40, 8)
    low = ways[:, None, None] @ columns[None]  # (ways, ways, n, 8, 8): rows' way first
    low = low.reshape(len(ways) ** 2, len(small), 64).transpose(1, 0, 2)
    bits = low > np.median(low, axis=2, keepdims=True)
    return np.packbits(bits, axis=2).reshape(-1).view(">u8").astype(np.uint64).reshape(len(small), -1)


def agreement(mine: Floats, crop: npt.NDArray[np.int64], other: Floats) -> Floats:
    """Return the correlation of a crop of some images with others, whole: float32, shape (n,).

    Also where one of both has been made lighter, so that what was bright in it is white: the better of the two.
    """
    rows, columns = _TO_SMALL[crop // len(_CUTS)], _TO_SMALL[crop % len(_CUTS)]
    a = (rows @ mine @ columns.transpose(0, 2, 1)).reshape(len(mine), 256)
    b = (_TO_SMALL[0] @ other @ _TO_SMALL[0].T).reshape(len(mine), 256)
    told = (a < _WHITE) & (b < _WHITE)
    ratio = (np.where(told, b, 0).sum(axis=1) + 1) / (np.where(told, a, 0).sum(axis=1) + 1)
    lighter = np.clip(ratio, 1, 2)[:, None], np.clip(1 / ratio, 1, 2)[:, None]
    as_light = _correlation(np.minimum(a * lighter[0], 255), np.minimum(b * lighter[1], 255))
    return np.maximum(_correlation(a, b), as_light)


def _correlation(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> Floats:
    a = a - a.mean(axis=1, keepdims=True)
    b = b - b.mean(axis=1, keepdims=True)
    scale = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(scale, 1e-6), dtype=np.float32)


def rows_alike(images: Iterator[tuple[int, bytes]], n_rows: int, *, most: int) -> npt.NDArray[np.int64]:
    """Return the group of every row by its image; rows without one stand alone."""
    with Thumbnails(n_rows) as thumbnails:
        thumbnails.fill(images)
        return thumbnails.groups(most=most)
