"""Zero-shot scores of the starter CLIP's head on photographs kept out of training, and the temperature fitted there.

Prompts are worded with templates, and partly with names, that training never sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from manyeyes.models.starter.clip_captions import TextEncoder, Vocabulary
from manyeyes.models.starter.clip_features import CENTRE, Features

# One photograph in so many is kept for choosing settings; ImageNet has a single photograph a class to begin with.
_DEV_EVERY: Final = {"clothing": 10, "cifar10": 9, "coco": 8}
_SCALES: Final = np.exp(np.linspace(np.log(5), np.log(100), 61))


def is_dev(name: str, features: Features) -> NDArray[np.bool_]:
    """Return a bool mask, shape (n_views,): the photographs of a data set that training leaves alone."""
    every = _DEV_EVERY.get(name)
    return np.zeros(len(features.photos), dtype=bool) if every is None else features.photos % every == 0


def class_embeddings(
    names: Sequence[Sequence[str]], vocabulary: Vocabulary, encoder: TextEncoder
) -> torch.Tensor:
    """Return prompt embeddings in held-out wording, shape (n_templates, n_classes, 384); several names are averaged."""
    templates = vocabulary.held_out_templates
    texts = [[[vocabulary.caption(t, name) for name in column] for column in names] for t in templates]
    encoder(
        [text for template in texts for column in template for text in column]
    )  # all at once is far faster
    rows = []
    for template in texts:
        per_class = torch.stack([encoder(column).mean(dim=0) for column in template])
        rows.append(functional.normalize(per_class, dim=-1))
    return torch.stack(rows)


def accuracies(images: torch.Tensor, prompts: torch.Tensor, truth: NDArray[np.int64]) -> tuple[float, float]:
    """Return zero-shot top-1: the mean over single templates, and with all templates averaged.

    images: float32, shape (n, 384), unit norm. prompts: as `class_embeddings` returns. truth: shape (n,).
    """
    wanted = torch.from_numpy(truth)
    single = [(images @ prompt.T).argmax(dim=1).eq(wanted).float().mean().item() for prompt in prompts]
    together = images @ functional.normalize(prompts.mean(dim=0), dim=-1).T
    return float(np.mean(single)), together.argmax(dim=1).eq(wanted).float().mean().item()


def calibration_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_], n_bins: int = 10) -> float:
    """Return the expected calibration error: the mean gap of confidence and accuracy over equal-width bins."""
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    gaps = [
        (bins == b).mean() * abs(confidence[bins == b].mean() - correct[bins == b].mean()) for b in set(bins)
    ]
    return float(sum(gaps))


def fit_logit_scale(
    head: torch.nn.Module, features: dict[str, Features], vocabulary: Vocabulary, encoder: TextEncoder
) -> float:
    """Return the scale (1 / temperature) of the prompts' softmax, fitted on the dev splits.

    Each data set and wording (labels, unseen names) has a scale with the least negative log likelihood; the smallest
    is taken. Being too sure of a wrong class costs more than being unsure of a right one, and prompts in practice are
    further from training than any of these.
    """
    best = []
    for name in ("clothing", "cifar10"):
        images, truth, labels = _dev_images(head, name, features[name])
        other = vocabulary.held_out_names(name)
        for names in ([[label] for label in labels], [other[label] for label in labels]):
            losses = _losses(images, class_embeddings(names, vocabulary, encoder), truth)
            best.append(float(_SCALES[losses.argmin()]))
    return min(best)


def score_dev(
    head: torch.nn.Module,
    features: dict[str, Features],
    vocabulary: Vocabulary,
    encoder: TextEncoder,
    logit_scale: float,
) -> list[dict[str, Any]]:
    """Return one row per dev split and wording: accuracies, calibration at the given scale, and the split's best."""
    rows = []
    for name in ("clothing", "cifar10", "coco"):
        images, truth, labels = _dev_images(head, name, features[name])
        other = vocabulary.held_out_names(name)
        wordings = {"labels": [[label] for label in labels]}
        if name != "coco":
            wordings["unseen names"] = [other[label] for label in labels]
        for wording, names in wordings.items():
            prompts = class_embeddings(names, vocabulary, encoder)
            rows.append(_row(f"{name}, {wording}", images, prompts, truth, logit_scale))
    rows += _imagenet_rows(head, features["imagenet"], vocabulary, encoder, logit_scale)
    return rows


def hundred_classes() -> list[int]:
    """Return the ImageNet classes, always the same, that stand for a kind of photograph nobody trained on."""
    chosen = np.random.default_rng(7).choice(1000, 100, replace=False)
    return sorted(int(number) for number in chosen)


def _imagenet_rows(
    head: torch.nn.Module,
    features: Features,
    vocabulary: Vocabulary,
    encoder: TextEncoder,
    logit_scale: float,
) -> list[dict[str, Any]]:
    """Score 100 classes among themselves (left out by `--without classes`, otherwise trained on) and all 1000."""
    centre = features.where(features.views == CENTRE)
    images, numbers = embed(head, centre), centre.labels.astype(np.int64)
    names = [[column[0]] for column in vocabulary.class_names]
    hundred = np.array(hundred_classes())
    prompts = class_embeddings(names, vocabulary, encoder)
    chosen = np.isin(numbers, hundred)
    place = np.searchsorted(hundred, numbers[chosen])
    return [
        _row("imagenet, 100 classes", images[chosen], prompts[:, hundred], place, logit_scale),
        _row("imagenet, 1000 classes", images, prompts, numbers, logit_scale),
    ]


def embed(head: torch.nn.Module, features: Features) -> torch.Tensor:
    """Return unit-norm embeddings, float32, shape (n_views, 384)."""
    with torch.inference_mode():
        return functional.normalize(head(torch.from_numpy(features.values.astype(np.float32))), dim=-1)


def _dev_images(
    head: torch.nn.Module, name: str, features: Features
) -> tuple[torch.Tensor, NDArray[np.int64], list[str]]:
    chosen = features.where(is_dev(name, features) & (features.views == CENTRE) & (features.labels != ""))
    labels = sorted(set(features.labels) - {""})
    truth = np.array([labels.index(str(label)) for label in chosen.labels])
    return embed(head, chosen), truth, [str(label) for label in labels]


def _losses(images: torch.Tensor, prompts: torch.Tensor, truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the negative log likelihood at each of _SCALES, averaged over templates."""
    wanted = torch.from_numpy(truth)
    cosines = torch.einsum("nd,tcd->tnc", images, prompts)
    flat, targets = cosines.flatten(0, 1), wanted.repeat(len(prompts))
    return np.array([functional.cross_entropy(float(scale) * flat, targets).item() for scale in _SCALES])


def _row(
    name: str, images: torch.Tensor, prompts: torch.Tensor, truth: NDArray[np.int64], logit_scale: float
) -> dict[str, Any]:
    single, together = accuracies(images, prompts, truth)
    probabilities = (logit_scale * torch.einsum("nd,tcd->tnc", images, prompts)).softmax(dim=2)
    confidence, guess = (tensor.numpy() for tensor in probabilities.max(dim=2))
    correct = guess == truth
    wrong_and_sure = (confidence > 0.9) & ~correct
    return {
        "set": name,
        "n": len(truth),
        "single_prompt": round(single, 3),
        "ensemble": round(together, 3),
        "scale": round(logit_scale, 1),
        "best_scale": round(float(_SCALES[_losses(images, prompts, truth).argmin()]), 1),
        "calibration_error": round(
            calibration_error(confidence.ravel().astype(np.float64), correct.ravel()), 3
        ),
        "wrong_above_0.9": round(float(wrong_and_sure.mean()), 4),
    }
