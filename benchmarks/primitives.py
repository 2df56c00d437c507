"""How fast features come: from photographs, beside the loop in open_clip's README and a plain one; and from the cache.

What is measured against open_clip's README, and what the faster runtimes change, is in `benchmarks/photo_speed.py`.

The plain loop is what a user writes first: read, the model's own transform, ``encode_image`` in batches, with torch's
default threads. It keeps nothing and isolates no errors. Both run the starter CLIP, in this process, one after the
other.

python -m benchmarks.primitives [--json] [--quick] [--only PART]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import photo_speed
from benchmarks.bars import Bar, arguments, at_least, show, unpack
from manyeyes.models.starter.clip import StarterClip, load_starter_clip
from manyeyes.primitives.cache import Cache, content_digest
from manyeyes.primitives.clip import ClipSpec
from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.image import ImageSpec
from manyeyes.primitives.images import decode_image
from manyeyes.primitives.text import TextSpec
from manyeyes.types import Item

CHUNK = 512


def per_second(n: int, work: Callable[[], object], *, repeat: int = 1) -> float:
    """Return the best of some runs, in items a second."""
    best = 0.0
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        best = max(best, n / (time.perf_counter() - started))
    return best


def plain_loop(starter: StarterClip, files: Sequence[Path], *, batch_size: int) -> None:
    """Embed files the way a script would."""
    import torch

    with torch.inference_mode():
        for start in range(0, len(files), batch_size):
            images = [
                starter.preprocess(Image.open(f).convert("RGB")) for f in files[start : start + batch_size]
            ]
            starter.model.encode_image(torch.stack(images), normalize=True)


def cached_rate(extractor: Extractor, items: Sequence[Item], needs: Sequence[str]) -> float:
    """Return how many items a second come from the cache, in chunks as a Labeler asks for them."""

    def work() -> None:
        for start in range(0, len(items), CHUNK):
            features = extractor.extract(items[start : start + CHUNK], needs)
            assert all(features[need].present.all() for need in needs)

    return per_second(len(items), work, repeat=5)


def fill(cache: Cache, extractor: Extractor, folder: Path, n_items: int) -> list[Item]:
    """Make small files, and put features of the right dtype and digest for each into the cache."""
    rng = np.random.default_rng(0)
    items: list[Item] = []
    rows: dict[str, dict[bytes, bytes]] = {"clip": {}, "image": {}}
    for i in range(n_items):
        path = folder / f"{i:06}.jpg"
        path.write_bytes(b"%d " % i + bytes(200))
        items.append(Item(str(i), image=str(path)))
        digest = content_digest(path.read_bytes())
        for need, kept in rows.items():
            kept[digest] = rng.bytes(extractor.primitives[need].dtype.itemsize)
    cache.put_many({extractor.primitives[need].version: kept for need, kept in rows.items()})
    time.sleep(2.1)  # a file that has just changed is not remembered
    cache.remember(
        (str(item.image), os.stat(str(item.image)), content_digest(Path(str(item.image)).read_bytes()))
        for item in items
    )
    return items


def measure(photos: Sequence[Path], n_cached: int, work: Path) -> list[Bar]:
    """Return every bar."""
    specs = {"clip": ClipSpec(kind="clip"), "image": ImageSpec(kind="image"), "text": TextSpec(kind="text")}
    starter = load_starter_clip()
    megapixels = sum(np.prod(Image.open(photo).size) for photo in photos) / 1e6
    plain = {
        size: per_second(len(photos), lambda size=size: plain_loop(starter, photos, batch_size=size))  # type: ignore[misc]
        for size in (1, 8, 32)
    }
    best = max(plain, key=lambda size: plain[size])
    bars = []

    with tempfile.TemporaryDirectory(dir=work) as folder:
        cache = Cache(Path(folder) / "cache")
        extractor = Extractor.for_specs(specs, cache=cache)
        extractor.encode("clip", ["warm"])
        extractor.encode("text", ["warm"])
        items = [Item(str(i), image=photo) for i, photo in enumerate(photos)]
        for need, goal in (("clip", 1.0), ("image", 50.0)):
            rate = per_second(len(items), lambda need=need: extractor.extract(items, [need]))  # type: ignore[misc]
            if need == "clip":
                peer = f"plain open_clip loop, best of batch 1, 8, 32: {plain[best]:.1f}/s at batch {best}"
                bars.append(
                    at_least(
                        "clip, new photos, against a plain loop",
                        rate / plain[best],
                        goal,
                        unit="×",
                        peer=peer,
                    )
                )
                bars.append(at_least("clip, new photos", rate, 5, unit="items/s"))
            else:
                bars.append(at_least("image facts, new photos", rate, goal, unit="items/s"))
        sentences = [
            Item(str(i), text=f"a sentence about thing number {i}, of a usual length") for i in range(256)
        ]
        rate = per_second(len(sentences), lambda: extractor.extract(sentences, ["text"]))
        bars.append(at_least("text embeddings, new texts", rate, 30, unit="items/s"))
        cache.close()

    with tempfile.TemporaryDirectory(dir=work) as folder:
        cache = Cache(Path(folder) / "cache")
        extractor = Extractor.for_specs(specs, cache=cache)
        (Path(folder) / "files").mkdir()
        for need in ("clip", "image"):
            primitive = extractor.primitives[need]
            cache.meta_put(
                primitive.version,
                {"dtype": np.lib.format.dtype_to_descr(primitive.dtype), "ragged": False, "info": {}},
            )
        many = fill(cache, extractor, Path(folder) / "files", n_cached)
        rate = cached_rate(extractor, many, ["clip", "image"])
        bars.append(
            at_least(f"clip and image facts of {n_cached:,} files, cached", rate, 40_000, unit="items/s")
        )
        assert extractor.counter.total == 0
        cache.close()

    block = bytes(8 * 2**20)
    bars.append(
        at_least("content digest", per_second(8, lambda: content_digest(block), repeat=5), 100, unit="MiB/s")
    )
    data = [photo.read_bytes() for photo in photos]
    rate = per_second(len(data), lambda: [decode_image(content) for content in data])
    pillow = per_second(len(data), lambda: [Image.open(photo).convert("RGB") for photo in photos])
    peer = f"Image.open(…).convert('RGB'): {pillow:.0f}/s"
    bars.append(at_least("decode, one thread, against Pillow", rate / pillow, 0.7, unit="×", peer=peer))
    bars.append(at_least("decode, one thread", rate * megapixels / len(data), 10, unit="megapixels/s"))
    return bars


PARTS: dict[str, Callable[[Path, Path, bool], list[Bar]]] = {
    "open_clip": lambda data, work, quick: photo_speed.against_open_clip(data, work),
    "decoding": lambda data, work, quick: photo_speed.reduced_decoding(data, quick=quick),
    "gate": lambda data, work, quick: photo_speed.gate_on_real_photos(data, quick=quick),
    "recipe": lambda data, work, quick: photo_speed.recipe_against_models(data, quick=quick),
    "memory": lambda data, work, quick: photo_speed.flat_memory(quick=quick),
    "features": lambda data, work, quick: of_features(data, work, quick=quick),
}


def of_features(data: Path, work: Path, *, quick: bool) -> list[Bar]:
    """Measure features of the clothing photographs, new and cached."""
    folder = unpack(data / "clothing_validation.zip", work / "photos")
    return measure(sorted(folder.rglob("*.jpg"))[:: 14 if quick else 1], 10_000, work)


def main() -> int:
    """Measure, print, and return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="one part, or several; all by default")
    options = parser.parse_args()
    # Without what takes longest: the first use of each runtime, and a hundred thousand images.
    quick_parts = [part for part in PARTS if part not in ("open_clip", "gate")]
    parts = options.only or (quick_parts if options.quick else list(PARTS))
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as work:
        os.environ["MANYEYES_HOME"] = str(Path(work) / "home")  # runtimes are chosen and converted anew
        for part in parts:
            bars += PARTS[part](options.data, Path(work), options.quick)
    return show("Primitives", bars, as_json=bool(options.json))


if __name__ == "__main__":
    sys.exit(main())
