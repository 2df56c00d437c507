"""Train the head of the starter CLIP: `python -m manyeyes.models.starter.train_clip --data ../shared/data`.

The towers stay frozen. What the image tower knows is in its ImageNet classifier, which a CLIP has no place for; the
head learns to say the same in the text space. For each view the classifier's probabilities, summed to the columns of
a level (see `clip_captions`), are the target of a softmax over one random caption per column. Labeled photographs
(clothing, CIFAR-10, objects in COCO) correct the classifier where it is wrong or has no class. Features moved towards
a random class keep all 1000 classes in the lesson, though the sample has one photograph of each.

Sources: Norouzi et al. 2014 (ConSE) for mixing text embeddings by class probabilities, Zhai et al. 2022 (LiT) for
training one side against a locked tower, Hinton et al. 2015 for distillation.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save
from torch.nn import functional

from manyeyes.models.starter.clip import (
    EMBED_DIM,
    FEATURE_DIM,
    HEAD_FILE,
    StarterClip,
    load_starter_clip,
    read_image_classifier,
)
from manyeyes.models.starter.clip_captions import (
    CaptionBank,
    TextEncoder,
    Vocabulary,
    build_bank,
    describe_contents,
    load_vocabulary,
)
from manyeyes.models.starter.clip_evaluation import fit_logit_scale, hundred_classes, score_dev
from manyeyes.models.starter.clip_features import load_features
from manyeyes.models.starter.clip_lessons import Classifier, TrainingSet, moved_set, prepare
from manyeyes.models.weights import find_weights

logger = logging.getLogger(__name__)

DATA_SETS: Final = ("imagenet", "clothing", "cifar10", "coco")
# How many views of each data set a step sees, and how far its labels bind the classifier's fine opinion:
# upsampled CIFAR fools the tower, so the label decides; a garment's label says nothing about ImageNet's classes.
_BATCH: Final = {"imagenet": 96, "moved": 80, "clothing": 64, "cifar10": 64, "coco": 64}
_FINE_WEIGHT: Final = {
    "imagenet": 1.0,
    "moved": 1.0,
    "clothing": 0.15,
    "cifar10": 0.5,
    "coco": 0.3,
}
_LEVEL_WEIGHT: Final = {"fine": 1.0, "coarse": 1.0, "mid": 0.3, "top": 0.3}
_LABEL_TRUST: Final = 0.92


def train_head(
    starter: StarterClip,
    sets: dict[str, TrainingSet],
    vocabulary: Vocabulary,
    encoder: TextEncoder,
    classifier: Classifier,
    *,
    n_steps: int,
    scale: float = 30.0,
    seed: int = 0,
) -> torch.nn.Module:
    """Train and return a fresh head (features, shape (n, 1280) → embeddings, shape (n, 384), not normalized)."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    sets = {**sets, "moved": moved_set(sets, classifier, vocabulary, generator)}
    rng = np.random.default_rng(seed)
    # open_clip's own module, so that the trained one fits its model.
    head: torch.nn.Module = type(starter.model.visual.head.mlp)(
        FEATURE_DIM, 2 * EMBED_DIM, EMBED_DIM, bias=(True, False)
    )
    banks = {
        name: build_bank(level.names, vocabulary, encoder, rng) for name, level in vocabulary.levels.items()
    }
    scenes = _build_scenes(sets.get("coco"), encoder, rng)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=n_steps, pct_start=0.1)
    for step in range(n_steps):
        batch = _draw_batch(sets, generator)
        # bfloat16 halves the time or better where the CPU has it, and the noise is far below the dropout's.
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(head, batch, banks, scenes, vocabulary, scale=scale, generator=generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == n_steps - 1:
            logger.info("step %d: loss %.3f", step, loss.item())
    head.eval()
    return head


def _loss(
    head: torch.nn.Module,
    batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    banks: dict[str, CaptionBank],
    scenes: tuple[torch.Tensor, CaptionBank] | None,
    vocabulary: Vocabulary,
    *,
    scale: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return the loss of one step: cross-entropy at every level, and closeness to the mixed caption at two."""
    values, classes, columns, weights = batch
    embedded = functional.normalize(head(functional.dropout(values, 0.25)).float(), dim=-1)
    loss = torch.zeros(())
    for name, weight in _LEVEL_WEIGHT.items():
        target = vocabulary.levels[name].sum_classes(classes)
        row_weights = weights
        if name == "coarse":
            target, row_weights = _correct(target, columns), torch.where(columns >= 0, 1.0, weights)
        captions = banks[name].draw(generator)
        logs = (scale * (embedded @ captions.T).float()).log_softmax(dim=1)
        loss = loss + weight * (row_weights * -(target * logs).sum(dim=1)).mean()
        if name in ("fine", "coarse"):
            mixed = functional.normalize((target @ captions).float(), dim=-1)
            loss = loss + (row_weights * (1 - (mixed * embedded).sum(dim=1))).mean()
    if scenes is not None:
        loss = loss + 0.2 * _scene_loss(head, scenes, scale, generator)
    return loss


def _draw_batch(
    sets: dict[str, TrainingSet], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return features, class probabilities, label columns and weights of one step's views."""
    parts = []
    for name, training in sets.items():
        rows = torch.randint(len(training.values), (_BATCH[name],), generator=generator)
        weights = torch.full((len(rows),), _FINE_WEIGHT[name])
        parts.append((training.values[rows], training.classes[rows], training.columns[rows], weights))
    columns = list(zip(*parts, strict=True))
    return torch.cat(columns[0]), torch.cat(columns[1]), torch.cat(columns[2]), torch.cat(columns[3])


def _correct(target: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return the targets with most of each labeled row's mass on its label's column."""
    labeled = (columns >= 0).float()[:, None]
    truth = functional.one_hot(columns.clamp(min=0), target.shape[1]).float()
    return target * (1 - _LABEL_TRUST * labeled) + _LABEL_TRUST * labeled * truth


def _build_scenes(
    coco: TrainingSet | None, encoder: TextEncoder, rng: np.random.Generator
) -> tuple[torch.Tensor, CaptionBank] | None:
    """Return features of whole COCO photographs, and four generated captions for each."""
    if coco is None:
        return None
    rows = [row for row, contents in enumerate(coco.contents) if contents]
    captions = [describe_contents(coco.contents[row], rng) for row in rows for _ in range(4)]
    counts = torch.full((len(rows),), 4)
    return coco.values[rows], CaptionBank(encoder(captions), counts.cumsum(0) - counts, counts)


def _scene_loss(
    head: torch.nn.Module, scenes: tuple[torch.Tensor, CaptionBank], scale: float, generator: torch.Generator
) -> torch.Tensor:
    """Contrast photographs and their captions, both ways; alike captions share the target."""
    values, bank = scenes
    rows = torch.randperm(len(values), generator=generator)[:128]
    captions = bank.draw(generator)[rows]
    logits = scale * (functional.normalize(head(values[rows]).float(), dim=-1) @ captions.T).float()
    target = (20 * captions @ captions.T).softmax(dim=1)
    both_ways = [(target * logits.log_softmax(dim=dim)).sum(dim=dim).mean() for dim in (0, 1)]
    return -torch.stack(both_ways).mean()


def save_head(head: torch.nn.Module, logit_scale: float, file: Path) -> None:
    """Write the head and ln(scale) as float16 safetensors under their names in the open_clip model."""
    tensors = {f"visual.head.mlp.{name}": tensor.half() for name, tensor in head.state_dict().items()}
    # The scale stays float32: half precision would move every probability.
    file.write_bytes(save({**tensors, "logit_scale": torch.tensor(float(np.log(logit_scale)))}))


def main() -> None:
    """Parse arguments, train, report dev scores and write the head."""
    parser = argparse.ArgumentParser(description="Train the alignment head of the starter CLIP.")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the zip files")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for stored features, outside the repository"
    )
    parser.add_argument("--out", type=Path, default=HEAD_FILE, help="where the trained head goes")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--without",
        choices=["clothing", "cifar10", "coco", "classes"],
        help="measure transfer: leave this out",
    )
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(args.threads)
    starter = load_starter_clip(head=None)
    args.work.mkdir(parents=True, exist_ok=True)
    encoder = TextEncoder(starter, store=args.work / "texts.npz")
    classifier = read_image_classifier(find_weights("efficientnet-lite0"))
    vocabulary = load_vocabulary(args.data, hundred_classes() if args.without == "classes" else [])
    features = {
        name: load_features(name, data=args.data, work=args.work, starter=starter) for name in DATA_SETS
    }
    sets = prepare(features, vocabulary, classifier, without=args.without)
    head = train_head(starter, sets, vocabulary, encoder, classifier, n_steps=args.steps, seed=args.seed)
    logit_scale = fit_logit_scale(head, features, vocabulary, encoder)
    if args.without is None:
        save_head(head, logit_scale, args.out)
    for row in score_dev(head, features, vocabulary, encoder, logit_scale):
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
