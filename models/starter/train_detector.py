"""Train the starter detector: `python -m manyeyes.models.starter.train_detector --data ../shared/data --work DIR`.

The loop is ours and small: endless scenes built from a seed and an index, ultralytics' network parts and loss, AdamW
with a slow backbone, an average of the weights, and a checkpoint every few minutes from which `--resume` goes on.
Ultralytics' own trainer is not used, because it wants a folder of images, writes machine paths into checkpoints and
looks for fonts and weights on the network.

Ultralytics is AGPL-3.0. It is imported lazily, in `detector_network.py` and in `primitives/detector.py`; labeling
never imports this module.
"""

import argparse
import hashlib
import json
import logging
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from manyeyes.models.starter.detector_network import IMGSZ, backbone_path, build, quiet_ultralytics
from manyeyes.models.starter.scene_sources import CLASSES, load_sources
from manyeyes.models.starter.scenes import build_scene

logger = logging.getLogger(__name__)

# Edges and textures up to stride 8 are as good as ImageNet made them, and learning them doubles the cost of a step.
FROZEN_LAYERS = 3
BACKBONE_LAYERS = 5
BACKBONE_PACE = 0.6  # its learning rate, as a share of that of the neck and the head
SCENES_PER_EPOCH = 4000
CHECKPOINT_EVERY_S = 240

Batch = dict[str, torch.Tensor]


class SceneStream(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Training scenes `first` to `last` of a seed, as (uint8 (3, size, size), float32 (n, 5): class, x, y, w, h)."""

    def __init__(self, data: Path, *, seed: int, first: int, last: int) -> None:
        self.sources = load_sources(data, "train")
        self.seed, self.first, self.last = seed, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        scene = build_scene(self.sources, seed=(self.seed, self.first + index), size=IMGSZ)
        boxes = scene.boxes / IMGSZ
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        targets = np.concatenate([scene.classes[:, None].astype(np.float32), centres, sides], axis=1)
        return torch.from_numpy(scene.image).permute(2, 0, 1).contiguous(), torch.from_numpy(targets)


def collate(scenes: list[tuple[torch.Tensor, torch.Tensor]]) -> Batch:
    """Return the batch that ultralytics' detection loss reads."""
    counts = torch.tensor([len(targets) for _, targets in scenes])
    targets = torch.cat([targets for _, targets in scenes])
    return {
        "img": torch.stack([image for image, _ in scenes]),
        "batch_idx": torch.arange(len(scenes)).repeat_interleave(counts).float(),
        "cls": targets[:, :1],
        "bboxes": targets[:, 1:],
    }


def set_training(model: Any, *, backbone: bool) -> None:
    """Put the model in training mode; the backbone keeps ImageNet's batch statistics, and its first layers freeze.

    backbone: whether its last layers learn; at first they would learn from a head that is still noise. Their
    depthwise filters never do: a twentieth of the weights, but their gradients are 40 % of a step.
    """
    model.train()
    for i, layer in enumerate(model.model[:BACKBONE_LAYERS]):
        layer.eval()
        layer.requires_grad_(backbone and i >= FROZEN_LAYERS)
        for module in layer.modules():
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                module.requires_grad_(False)


def parameter_groups(model: Any, *, lr: float) -> list[dict[str, Any]]:
    """Split the parameters: a slower backbone, and no decay on biases and norms."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        slow = int(name.split(".")[1]) < BACKBONE_LAYERS
        groups.setdefault((slow, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "peak": lr * (BACKBONE_PACE if slow else 1.0),
            "weight_decay": 0.02 if decays else 0.0,
        }
        for (slow, decays), parameters in groups.items()
    ]


def schedule(progress: float, step: int) -> float:
    """Return the factor on the learning rate: a short rise, then a cosine down to 2 %. progress: 0 to 1."""
    return min(1.0, (step + 1) / 200) * (0.02 + 0.98 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2)


def train(args: argparse.Namespace) -> nn.Module:
    """Train until the scenes or the minutes are used up, whichever comes first, and return the averaged model."""
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    model: Any = build(CLASSES, backbone=backbone_path())
    model.to(memory_format=torch.channels_last)
    model.args = SimpleNamespace(
        box=7.5, cls=1.0, dfl=1.5
    )  # what a thing is matters more here than its last pixel
    average: Any = build(CLASSES)
    average.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=args.lr), lr=args.lr)
    state_file = args.work / "training.pt"
    step, spent = 0, 0.0
    if args.resume and state_file.exists():
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        for group, fresh in zip(optimizer.param_groups, parameter_groups(model, lr=args.lr), strict=True):
            group["peak"] = fresh["peak"]  # --lr of this call, not of the one that is resumed
        step, spent = state["step"], state["spent"]
    total = args.epochs * SCENES_PER_EPOCH // args.batch
    started = saved = time.monotonic()
    losses: list[torch.Tensor] = []
    for batch in _batches(args, step=step, total=total):
        elapsed = spent + time.monotonic() - started
        progress = max(step / total, elapsed / (args.minutes * 60))
        if progress >= 1:
            break
        set_training(model, backbone=progress >= args.head_share)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(progress, step)
        loss, parts = _loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        step += 1
        _update_average(average, model, decay=0.996 * (1 - math.exp(-step / 300)))
        losses.append(
            parts.detach() if isinstance(parts, torch.Tensor) else torch.stack(list(parts.values()))
        )
        if step % 50 == 0:
            means = torch.stack(losses).mean(dim=0).tolist()
            logger.info(
                "step %d, %.0f s, loss (box, cls, dfl) %s", step, elapsed, [round(v, 3) for v in means]
            )
            losses.clear()
        if time.monotonic() - saved > CHECKPOINT_EVERY_S:
            saved = time.monotonic()
            _save_state(state_file, model, average, optimizer, step=step, spent=elapsed)
            write_checkpoint(average, args.work / "latest.pt")
    _save_state(state_file, model, average, optimizer, step=step, spent=spent + time.monotonic() - started)
    return average  # type: ignore[no-any-return]


def _loss(model: Any, batch: Batch) -> tuple[torch.Tensor, Any]:
    """Return ultralytics' loss, from a network that computes in bfloat16: two thirds of the time on a CPU with AMX."""
    images = (batch["img"].float() / 255).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.predict(images)
    found = {
        name: [v.float() for v in value] if name == "feats" else value.float()
        for name, value in found.items()
    }
    return model.loss(batch, found)  # type: ignore[no-any-return]


def _batches(args: argparse.Namespace, *, step: int, total: int) -> Iterator[Batch]:
    stream = SceneStream(args.data, seed=args.seed, first=step * args.batch, last=total * args.batch)
    yield from DataLoader(
        stream,
        batch_size=args.batch,
        num_workers=1,
        collate_fn=collate,
        prefetch_factor=8,
        worker_init_fn=_one_thread,
    )


def _one_thread(_worker: int) -> None:
    cv2.setNumThreads(1)  # the other core belongs to the network


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, *, decay: float) -> None:
    for mine, theirs in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if mine.dtype.is_floating_point:
            mine.lerp_(theirs, 1 - decay)


def _save_state(
    path: Path, model: nn.Module, average: nn.Module, optimizer: Any, *, step: int, spent: float
) -> None:
    state = {
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save({**state, "step": step, "spent": spent}, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


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
    parser.add_argument(
        "--epochs", type=int, default=15, help=f"of {SCENES_PER_EPOCH} scenes, never the same twice"
    )
    parser.add_argument("--minutes", type=float, default=50.0, help="stop, and anneal, by then")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument(
        "--head-share", type=float, default=0.55, help="of the run, before the backbone learns too"
    )
    # On a machine that others use too, a second thread made a step five times dearer, not cheaper.
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --work")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    quiet_ultralytics(args.work)
    digest = write_checkpoint(train(args), args.out)
    logger.info("wrote %s, sha256 %s", args.out, digest)


if __name__ == "__main__":
    main()
