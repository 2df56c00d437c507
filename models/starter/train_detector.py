"""Train the starter detector: `python -m manyeyes.models.starter.train_detector --data ../shared/data --work DIR`.

The backbone stays as ImageNet made it, so what it sees in a scene is computed once and kept, and only the neck and the
head learn, many times over, at a tenth of the price of a whole step. Scenes are built from a seed and an index;
ultralytics gives the network parts and the loss. Its own trainer is not used, because it wants a folder of images,
writes machine paths into checkpoints and looks for fonts and weights on the network.

Ultralytics is AGPL-3.0. It is imported lazily, in `detector_network.py` and in `primitives/detector.py`; labeling
never imports this module.
"""

import argparse
import hashlib
import json
import logging
import math
import multiprocessing
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from manyeyes.models.starter.detector_network import (
    BACKBONE_LAYERS,
    IMGSZ,
    TAPS,
    backbone_layers,
    build,
    quiet_ultralytics,
    tap_shapes,
)
from manyeyes.models.starter.scene_sources import CLASSES, load_sources
from manyeyes.models.starter.scenes import build_scene
from manyeyes.models.weights import find_weights

logger = logging.getLogger(__name__)

MAX_BOXES = 40
CHECKPOINT_EVERY_S = 240

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Seen:
    """What the backbone sees in every training scene, on disk.

    taps: float16, shape (n_scenes, channels, height, width) each. targets: float32, shape (n_scenes, MAX_BOXES, 5) of
    class, centre x, centre y, width, height as fractions; a class of -1 fills up.
    """

    taps: tuple[NDArray[np.float16], ...]
    targets: NDArray[np.float32]

    @classmethod
    def open(cls, folder: Path, *, n_scenes: int, mode: str) -> "Seen":
        """Map the files of a folder; mode is numpy's, "w+" to make them."""
        taps = tuple(
            np.lib.format.open_memmap(
                folder / f"tap{i}.npy", mode=mode, dtype=np.float16, shape=(n_scenes, *shape)
            )
            for i, shape in enumerate(tap_shapes())
        )
        targets = np.lib.format.open_memmap(
            folder / "targets.npy", mode=mode, dtype=np.float32, shape=(n_scenes, MAX_BOXES, 5)
        )
        return cls(taps, targets)


def look(data: Path, folder: Path, *, seed: int, first: int, last: int, n_scenes: int) -> None:
    """Build the scenes `first` to `last` and keep what the backbone sees in them."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    quiet_ultralytics(folder)
    sources = load_sources(data, "train")
    layers = backbone_layers(find_weights("efficientnet-lite0"))
    seen = Seen.open(folder, n_scenes=n_scenes, mode="r+")
    for start in range(first, last, 16):
        numbers = range(start, min(start + 16, last))
        images = np.empty((len(numbers), IMGSZ, IMGSZ, 3), np.uint8)
        for row, number in enumerate(numbers):
            scene = build_scene(sources, seed=(seed, number), size=IMGSZ)
            images[row] = scene.image
            boxes, classes = scene.boxes[:MAX_BOXES] / IMGSZ, scene.classes[:MAX_BOXES, None]
            centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
            seen.targets[number] = -1
            seen.targets[number, : len(boxes)] = np.concatenate([classes, centres, sides], axis=1)
        x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            x = x.contiguous(memory_format=torch.channels_last)
            for i, layer in enumerate(layers):
                x = layer(x)
                if i in TAPS:
                    seen.taps[TAPS.index(i)][numbers.start : numbers.stop] = x.half().numpy()
        if start % 1600 == 0:
            logger.info("scenes %d to %d: at %d", first, last, start)


def look_at_all(args: argparse.Namespace) -> Seen:
    """Keep what the backbone sees in all training scenes, one process a core; reuse what is there."""
    done = args.work / f"seen-{args.seed}-{args.scenes}"
    if not done.exists():
        Seen.open(args.work, n_scenes=args.scenes, mode="w+")
        edges = np.linspace(0, args.scenes, args.processes + 1).astype(int).tolist()
        spawn = multiprocessing.get_context("spawn")
        workers = [
            spawn.Process(
                target=_look_logged,
                args=(args.data, args.work, args.seed, first, last, args.scenes),
            )
            for first, last in pairwise(edges)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
            if worker.exitcode:
                raise RuntimeError(f"a process that looked at scenes ended with exit code {worker.exitcode}")
        done.touch()
    return Seen.open(args.work, n_scenes=args.scenes, mode="r")


def _look_logged(data: Path, folder: Path, seed: int, first: int, last: int, n_scenes: int) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    look(data, folder, seed=seed, first=first, last=last, n_scenes=n_scenes)


def draw_batch(seen: Seen, numbers: NDArray[np.int64]) -> tuple[list[torch.Tensor], Batch]:
    """Return the taps of some scenes and the targets as ultralytics' loss reads them."""
    taps = [torch.from_numpy(tap[numbers]).float() for tap in seen.taps]
    targets = torch.from_numpy(seen.targets[numbers])
    row, box = torch.nonzero(targets[..., 0] >= 0, as_tuple=True)
    chosen = targets[row, box]
    return taps, {"batch_idx": row.float(), "cls": chosen[:, :1], "bboxes": chosen[:, 1:]}


def from_taps(model: Any, taps: list[torch.Tensor]) -> Any:
    """Run the neck and the head on what the backbone saw."""
    outputs: dict[int, torch.Tensor] = dict(zip(TAPS, taps, strict=True))
    x: Any = taps[-1]
    for layer in model.model[BACKBONE_LAYERS:]:
        if layer.f != -1:
            x = (
                outputs[layer.f]
                if isinstance(layer.f, int)
                else [x if j == -1 else outputs[j] for j in layer.f]
            )
        x = layer(x)
        outputs[layer.i] = x
    return x


def parameter_groups(model: Any, *, lr: float) -> list[dict[str, Any]]:
    """Return the parameters of the neck and the head; no decay on biases and norms."""
    learning = [p for layer in model.model[BACKBONE_LAYERS:] for p in layer.parameters() if p.requires_grad]
    return [
        {"params": [p for p in learning if p.ndim > 1], "lr": lr, "weight_decay": 0.02},
        {"params": [p for p in learning if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]


def schedule(progress: float, step: int) -> float:
    """Return the factor on the learning rate: a short rise, then a cosine down to 1 %. progress: 0 to 1."""
    return min(1.0, (step + 1) / 200) * (0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2)


def train(args: argparse.Namespace) -> nn.Module:
    """Train until the epochs or the minutes are used up, whichever comes first, and return the averaged model."""
    seen = look_at_all(args)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    model: Any = build(CLASSES, backbone=find_weights("efficientnet-lite0"))
    # What a thing is matters more here than its last pixel.
    model.args = SimpleNamespace(box=5.0, cls=1.0, dfl=1.0)
    average: Any = build(CLASSES, backbone=find_weights("efficientnet-lite0"))
    if args.start is not None:
        model.load_state_dict(_read_weights(args.start))
    average.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=args.lr))
    rng = np.random.default_rng(args.seed)
    steps_an_epoch = args.scenes // args.batch
    total = args.epochs * steps_an_epoch
    started = saved = time.monotonic()
    losses: list[torch.Tensor] = []
    model.train()
    for step in range(total):
        if step % steps_an_epoch == 0:
            order = rng.permutation(args.scenes)
        progress = max(step / total, (time.monotonic() - started) / (args.minutes * 60))
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = args.lr * schedule(progress, step)
        at = step % steps_an_epoch * args.batch
        taps, batch = draw_batch(seen, np.sort(order[at : at + args.batch]))
        loss, parts = _loss(model, taps, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 10.0)
        optimizer.step()
        _update_average(average, model, decay=0.998 * (1 - math.exp(-step / 300)))
        losses.append(
            parts.detach() if isinstance(parts, torch.Tensor) else torch.stack(list(parts.values())).detach()
        )
        if step % 50 == 49:
            means = torch.stack(losses).mean(dim=0).tolist()
            elapsed = time.monotonic() - started
            logger.info("step %d, %.0f s, loss (box, cls, dfl) %s", step + 1, elapsed, np.round(means, 3))
            losses.clear()
        if time.monotonic() - saved > CHECKPOINT_EVERY_S:
            saved = time.monotonic()
            write_checkpoint(average, args.work / "latest.pt")
    return average  # type: ignore[no-any-return]


def _loss(model: Any, taps: list[torch.Tensor], batch: Batch) -> tuple[torch.Tensor, Any]:
    """Return ultralytics' loss, from a network that computes in bfloat16: two thirds of the time on a CPU with AMX."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = from_taps(model, taps)
    found = {
        name: [v.float() for v in value] if name == "feats" else value.float()
        for name, value in found.items()
    }
    return model.loss(batch, found)  # type: ignore[no-any-return]


def _read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint that `write_checkpoint` wrote; it is a pickle, so read your own only."""
    weights: dict[str, torch.Tensor] = (
        torch.load(checkpoint, map_location="cpu", weights_only=False)["model"].float().state_dict()
    )
    return weights


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, *, decay: float) -> None:
    for mine, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.dtype.is_floating_point:
            mine.lerp_(theirs, 1 - decay)


def write_checkpoint(model: Any, path: Path) -> str:
    """Write what `ultralytics.YOLO(path)` loads, in half precision, and return its sha256.

    Nothing of the training is kept: no optimizer, no arguments with paths, no date, so the same weights give the
    same bytes. Beside it goes a JSON file with the digest, the classes and the image size.
    """
    bare: Any = build(CLASSES)
    bare.load_state_dict(model.state_dict())
    bare.half().eval().requires_grad_(False)
    bare.task, bare.args = "detect", {}
    content = {
        "epoch": -1,
        "model": bare,
        "ema": None,
        "optimizer": None,
        "train_args": {"task": "detect", "imgsz": IMGSZ},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    # torch.save names the archive after the file, so a fixed name keeps the bytes the same wherever they are written.
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / "detector.pt"
        torch.save(content, part)
        part.replace(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    described = {"sha256": digest, "imgsz": IMGSZ, "classes": list(CLASSES)}
    path.with_suffix(".json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return digest


def main(argv: list[str] | None = None) -> None:
    """Train and write the checkpoint; see `--help`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the zip files")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "manyeyes-detector")
    parser.add_argument("--out", type=Path, default=Path("models/starter/detector.pt"))
    parser.add_argument("--start", type=Path, help="a checkpoint of this command to go on from")
    parser.add_argument("--scenes", type=int, default=10_000, help="how many scenes are built and looked at")
    parser.add_argument("--epochs", type=int, default=12, help="how often the head sees each of them")
    parser.add_argument("--minutes", type=float, default=60.0, help="stop, and anneal, by then")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2, help="that look at scenes")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    quiet_ultralytics(args.work)
    digest = write_checkpoint(train(args), args.out)
    logger.info("wrote %s, sha256 %s", args.out, digest)


if __name__ == "__main__":
    main()
