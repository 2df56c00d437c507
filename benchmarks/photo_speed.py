"""JPEG bytes → embeddings, beside the loop in open_clip's README; what the faster runtimes change; what decoding costs.

The peer is what that README shows: `create_model_and_transforms`, its own preprocess, torch in float32 with its own
threads, 32 photographs a batch, in a process of its own, since our threads tell torch to keep to one core. Both have
the same weights (random ones: speed does not depend on them) and take turns over the same bytes.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.bars import Bar, at_least, at_most, told
from manyeyes.primitives.clip import ClipImages, ClipSpec
from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.images import decode_image
from manyeyes.primitives.runtime_gate import agreement_of, directions
from manyeyes.primitives.runtimes import run_packs
from manyeyes.types import Item

ARCH = "ViT-B-32"
_BATCH = 32

_peer: Any = None


def load_peer(weights: str) -> None:
    """Load the peer, in its own process."""
    global _peer
    from manyeyes.models.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(ARCH, pretrained=weights)
    model.eval()
    _peer = model, preprocess


def peer_round(photos: Sequence[bytes]) -> float:
    """Return the seconds that the peer takes for some photographs."""
    import torch

    model, preprocess = _peer
    started = time.perf_counter()
    with torch.no_grad():
        for start in range(0, len(photos), _BATCH):
            images = [preprocess(Image.open(io.BytesIO(photo))) for photo in photos[start : start + _BATCH]]
            features = model.encode_image(torch.stack(images))
            features /= features.norm(dim=-1, keepdim=True)
    return time.perf_counter() - started


def random_weights(folder: Path) -> Path:
    """Make a checkpoint of ARCH; return its file."""
    from manyeyes.models.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    logging.disable(logging.WARNING)  # "initialized randomly" is the intention
    model = open_clip.create_model(ARCH)
    logging.disable(logging.NOTSET)
    file = folder / f"{ARCH}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    return file


def resized(archive: Path, n_photos: int, size: tuple[int, int]) -> list[bytes]:
    """Return real photographs as JPEGs of one size, quality 90."""
    with ZipFile(archive) as source:
        names = [name for name in sorted(source.namelist()) if name.lower().endswith((".jpg", ".jpeg"))]
        photos = []
        for name in names[:: max(1, len(names) // n_photos)][:n_photos]:
            image = Image.open(io.BytesIO(source.read(name))).convert("RGB")
            turned = size if image.width >= image.height else size[::-1]
            stream = io.BytesIO()
            image.resize(turned, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
            photos.append(stream.getvalue())
    return photos


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def against_open_clip(data: Path, work: Path) -> list[Bar]:
    """JPEG bytes → embedding of a ViT-B-32: times as fast as the peer, and how near the runtime's own rate."""
    weights = random_weights(work)
    archive = data / "imagenet_sample.zip"
    sets = {
        "500 × 375": (resized(archive, 192, (500, 375)), 3.0),
        "12 megapixels": (resized(archive, 15, (4000, 3000)), 4.0),
    }
    extractor = Extractor.for_specs(
        {"clip": ClipSpec(kind="clip", model=str(weights), arch=ARCH, runtime="auto")}
    )
    primitive = extractor.primitives["clip"]
    assert isinstance(primitive, ClipImages)
    bars = []
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn"), initializer=load_peer, initargs=(str(weights),)
    ) as peer:
        for name, (photos, goal) in sets.items():
            items = [Item(str(i), image=photo) for i, photo in enumerate(photos)]
            side = primitive.least_side()
            ready = [primitive.prepare(decode_image(photo, least_side=side)) for photo in photos]
            runs: dict[str, Callable[[], float]] = {
                # A third of them, because it takes as long for these as ours for all.
                "peer": lambda photos=photos: 3 * peer.submit(peer_round, photos[::3]).result(),  # type: ignore[misc]
                "ours": lambda items=items: _timed(lambda: extractor.extract(items, ["clip"])),  # type: ignore[misc]
                "ready": lambda ready=ready: _timed(lambda: primitive.compute(ready)),  # type: ignore[misc]
            }
            times: dict[str, list[float]] = {key: [] for key in runs}
            for key in runs:  # once for nothing
                runs[key]()
            for _ in range(5):
                for key, run in runs.items():
                    times[key].append(run())
            rate = {key: len(photos) / statistics.median(values) for key, values in times.items()}
            runtime = primitive.version.split()[-1].partition("@")[0]
            bars.append(
                at_least(
                    f"{ARCH}, {name}, JPEG bytes → embedding, against open_clip",
                    rate["ours"] / rate["peer"],
                    goal,
                    unit="×",
                    peer=f"{rate['peer']:.1f}/s; ours {rate['ours']:.1f}/s with {runtime}",
                )
            )
            share = rate["ours"] / rate["ready"]
            peer_text = f"pixels that are ready: {rate['ready']:.1f}/s"
            title = f"{ARCH}, {name}, share of the runtime's own rate"
            bars.append(
                at_least(title, share, 0.85, peer=peer_text)
                if name == "500 × 375"
                else told(title, share, peer=peer_text)
            )
    return bars


def reduced_decoding(data: Path, *, quick: bool) -> list[Bar]:
    """Cosine of embeddings of photographs reduced on decoding to those of whole ones, for the starter."""
    primitive = ClipImages("clip", ClipSpec(kind="clip"))
    bars = []
    for name, size in {"12 megapixels": (4000, 3000), "1.1 megapixels": (1200, 900)}.items():
        photos = resized(data / "coco128.zip", 8 if quick else 32, size)
        side = primitive.least_side()
        whole = _vectors(primitive, [primitive.prepare(decode_image(photo)) for photo in photos])
        part = _vectors(
            primitive, [primitive.prepare(decode_image(photo, least_side=side)) for photo in photos]
        )
        cosine = float((whole * part).sum(axis=1).min())
        bars.append(at_least(f"decoded in part, {name}: least cosine to decoded whole", cosine, 0.99))
        rates = {which: _decoding_rate(photos, which) for which in (None, side)}
        bars.append(
            told(
                f"decoded in part, {name}, one thread",
                rates[side],
                unit="photos/s",
                peer=f"whole: {rates[None]:.0f}/s",
            )
        )
    return bars


def _decoding_rate(photos: Sequence[bytes], least_side: int | None) -> float:
    seconds = [
        _timed(lambda: [decode_image(photo, least_side=least_side) for photo in photos]) for _ in range(3)
    ]
    return len(photos) / statistics.median(seconds)


def _vectors(primitive: ClipImages, ready: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    return np.concatenate([row["embedding"] for row in primitive.compute(ready)])


def gate_on_real_photos(data: Path, *, quick: bool) -> list[Bar]:
    """The starter in every runtime that is here, on real photographs, beside what the gate says on those it makes."""
    from concurrent.futures import ThreadPoolExecutor
    from functools import partial

    from manyeyes.primitives.clip_models import load_clip
    from manyeyes.primitives.runtime_choice import folder_of
    from manyeyes.primitives.runtime_gate import judge, made_photos
    from manyeyes.primitives.runtimes import RUNTIMES, candidates
    from manyeyes.primitives.towers import tower_of
    from manyeyes.primitives.workers import one_core

    clip = load_clip("starter", None)
    tower = tower_of(clip)
    primitive = ClipImages("clip", ClipSpec(kind="clip"))
    texts = Extractor.for_specs({"clip": ClipSpec(kind="clip")})
    sets = {}
    for name in ("clothing_train", "cifar10_train"):
        with ZipFile(data / f"{name}.zip") as source:
            names = [n for n in sorted(source.namelist()) if n.endswith(".jpg")]
            n_photos = 100 if quick else 400
            names = names[:: max(1, len(names) // n_photos)][:n_photos]
            ready = [primitive.prepare(decode_image(source.read(n))) for n in names]
        classes = sorted({n.partition("/")[0] for n in names})
        sets[name] = ready, texts.encode("clip", [f"a photo of a {word}" for word in classes])
    bars = []
    made = made_photos(tower.size)
    with ThreadPoolExecutor(initializer=one_core) as pool:
        reference = RUNTIMES["torch"].build(tower, Path())
        run = partial(pool.map, reference)
        wanted = {name: directions(run_packs(run, reference, ready)) for name, (ready, _) in sets.items()}
        of_made = run_packs(run, reference, made)
        for runtime in candidates("auto"):
            if runtime == "torch" or (quick and runtime == "onnx"):
                continue
            runner = RUNTIMES[runtime].build(tower, folder_of("benchmark"))
            run = partial(pool.map, runner)
            verdict = judge(tower, of_made, runner, made, run=run)
            for name, (ready, prompts) in sets.items():
                said = directions(run_packs(run, runner, ready))
                cosine = float((said * wanted[name]).sum(axis=1).min())
                labels = [(vectors @ prompts.T).argmax(axis=1) for vectors in (said, wanted[name])]
                same = float((labels[0] == labels[1]).mean())
                title = f"starter in {runtime}, {name}: labels as torch's"
                peer = (
                    f"cosine ≥ {cosine:.4f}, pairs {agreement_of(said, wanted[name], prompts):.4f}; the gate, on"
                    f" photos that it makes: {'refused' if verdict.refused else 'passed'}"
                    f" ({verdict.cosine:.4f}, {verdict.agreement:.4f})"
                )
                # What the gate refuses is not used, whatever it would have done.
                bars.append(
                    told(title, same, peer=peer)
                    if verdict.refused
                    else at_least(title, same, 0.995, peer=peer)
                )
    return bars


def recipe_against_models(data: Path, *, quick: bool) -> list[Bar]:
    """Ten labeling functions over clip, detector and image facts, beside the two models alone, on new photographs."""
    from manyeyes import Labeler, Recipe
    from manyeyes.labeler import extractor_for

    example = Path(__file__).resolve().parents[1] / "examples" / "garments.yaml"
    whole = Recipe.load(example).model_dump(mode="json")
    lfs = [lf for lf in whole["lfs"] if lf["kind"] != "keyword"]
    recipe = Recipe.parse({**whole, "lfs": lfs, "label_model": "majority"})
    labeler = Labeler(recipe, extractor=extractor_for(recipe, cache=None))
    photos = resized(data / "imagenet_sample.zip", 24 if quick else 64, (500, 375))
    items = [Item(str(i), image=photo) for i, photo in enumerate(photos)]
    specs = {name: spec for name, spec in recipe.primitives.items() if name in ("clip", "detector")}
    models = Extractor.for_specs(specs)
    runs: dict[str, Callable[[], object]] = {
        "models": lambda: models.extract(items, ["clip", "detector"]),
        "recipe": lambda: labeler.label(items),
    }
    times: dict[str, list[float]] = {key: [] for key in runs}
    for run in runs.values():
        run()
    for _ in range(3 if quick else 5):
        for key, run in runs.items():
            times[key].append(_timed(run))
    medians = {key: statistics.median(values) for key, values in times.items()}
    peer = f"{len(items) / medians['models']:.1f}/s; with the recipe {len(items) / medians['recipe']:.1f}/s"
    times_as_long = medians["recipe"] / medians["models"]
    title = f"{len(lfs)} labeling functions, time of their two models"
    return [at_most(title, times_as_long, 1.1, unit="×", peer=peer)]


def peak_of(n_items: int) -> float:
    """Return the peak memory, in MB, of a process that sees so many small JPEGs, 512 at a time, with no cache."""
    import resource

    from manyeyes.primitives.toy import ToySpec

    extractor = Extractor.for_specs({"toy": ToySpec(kind="toy")})
    stream = io.BytesIO()
    Image.effect_noise((24, 16), 40).convert("RGB").save(stream, "JPEG")
    photo = stream.getvalue()
    for start in range(0, n_items, 512):
        # Another content each: what follows the end of a JPEG is not looked at.
        items = [Item(str(i), image=photo + b"%d" % i) for i in range(start, min(start + 512, n_items))]
        features = extractor.extract(items, ["toy"])
        assert features["toy"].present.all()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def flat_memory(*, quick: bool) -> list[Bar]:
    """Peak memory of many images against that of few."""
    few, many = 1_000, 10_000 if quick else 100_000
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for n_items in (few, many):
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            peaks[n_items] = pool.submit(peak_of, n_items).result()
    return [
        at_most(
            f"peak memory, {many:,} images against {few:,}", peaks[many] / peaks[few], 1.1, unit="×",
            peer=f"{peaks[few]:.0f} MB, {peaks[many]:.0f} MB",
        )
    ]  # fmt: skip
