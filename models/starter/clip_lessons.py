"""What each training view is to teach the head of the starter CLIP: soft targets over ImageNet's classes and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from manyeyes.models.starter.clip_captions import Vocabulary
from manyeyes.models.starter.clip_evaluation import is_dev
from manyeyes.models.starter.clip_features import CENTRE, Features

Classifier = tuple[torch.Tensor, torch.Tensor]
"""Weights, shape (1000, 1280), and biases, shape (1000,), of the image tower's ImageNet classifier."""

_N_MOVED: Final = 20_000


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The training views of one data set as tensors.

    values: float32, shape (n_views, 1280). classes: float32, shape (n_views, 1000); probabilities of the ImageNet
    classes, narrowed by the label where it has any. columns: int64, shape (n_views,); the label's column at the coarse
    level, −1 without label. contents: for whole COCO photographs JSON {object: count}.
    """

    values: torch.Tensor
    classes: torch.Tensor
    columns: torch.Tensor
    contents: list[str]


def prepare(
    features: dict[str, Features],
    vocabulary: Vocabulary,
    classifier: Classifier,
    *,
    without: str | None = None,
) -> dict[str, TrainingSet]:
    """Return the training views of every data set but one, with their soft targets; dev photographs are left out."""
    return {
        name: _prepare(name, views, vocabulary, classifier)
        for name, views in features.items()
        if name != without
    }


def _prepare(name: str, features: Features, vocabulary: Vocabulary, classifier: Classifier) -> TrainingSet:
    features = features.where(~is_dev(name, features))
    if name == "imagenet":
        kept = [int(label) not in vocabulary.leave_out for label in features.labels]
        features = features.where(np.array(kept))
    values = torch.from_numpy(features.values.astype(np.float32))
    classes = _probabilities(values, classifier, vocabulary)
    columns = torch.full((len(values),), -1)
    coarse = vocabulary.levels["coarse"]
    if name == "imagenet":
        # A random part of a photograph may not show its class, so only the whole one is told it.
        whole = torch.from_numpy(features.views == CENTRE)
        classes[whole] = _mix_truth(classes[whole], features.labels[features.views == CENTRE])
    for row, label in enumerate(features.labels):
        column = coarse.columns.get((name, str(label)))
        if column is not None:
            columns[row] = column
            inside = classes[row] * (coarse.owners == column)
            if inside.sum() > 0 and name != "clothing":
                classes[row] = inside / inside.sum()
    return TrainingSet(values, classes, columns, [str(text) for text in features.contents])


def _mix_truth(classes: torch.Tensor, labels: NDArray[np.str_]) -> torch.Tensor:
    truth = functional.one_hot(torch.from_numpy(labels.astype(np.int64)), classes.shape[1]).float()
    return 0.6 * classes + 0.4 * truth


def _probabilities(values: torch.Tensor, classifier: Classifier, vocabulary: Vocabulary) -> torch.Tensor:
    weight, bias = classifier
    logits = values @ weight.T + bias
    logits[:, sorted(vocabulary.leave_out)] = -torch.inf
    return logits.softmax(dim=1)


def move_features(values: torch.Tensor, classifier: Classifier, generator: torch.Generator) -> torch.Tensor:
    """Return features pushed from their likeliest ImageNet class towards a random one.

    values: float32, shape (n, 1280). The push is along the difference of the two classifier rows, long enough to turn
    the decision on average; features stay non-negative, as the tower's are.
    """
    weight, bias = classifier
    logits = values @ weight.T + bias
    top = logits.argmax(dim=1)
    goal = torch.randint(len(weight), top.shape, generator=generator)
    direction = weight[goal] - weight[top]
    gap = logits.gather(1, top[:, None]) - logits.gather(1, goal[:, None])
    margin = 3.0 + 7.0 * torch.rand(len(values), 1, generator=generator)
    moved = values
    # Clipping at zero takes some of the push away; a second, smaller one makes up for most of that.
    for _ in range(2):
        step = (gap + margin) / direction.square().sum(dim=1, keepdim=True).clamp(min=1e-6)
        moved = (moved + step * direction).clamp(min=0)
        logits = moved @ weight.T + bias
        gap = logits.gather(1, top[:, None]) - logits.gather(1, goal[:, None])
    return moved


def moved_set(
    sets: dict[str, TrainingSet],
    classifier: Classifier,
    vocabulary: Vocabulary,
    generator: torch.Generator,
) -> TrainingSet:
    """Return made-up features that between them look like every ImageNet class."""
    real = torch.cat([training.values for training in sets.values()])
    rows = torch.randint(len(real), (_N_MOVED,), generator=generator)
    values = torch.cat([move_features(part, classifier, generator) for part in real[rows].split(1000)])
    classes = _probabilities(values, classifier, vocabulary)
    return TrainingSet(values, classes, torch.full((_N_MOVED,), -1), [""] * _N_MOVED)
