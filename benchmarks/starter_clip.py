"""Zero-shot accuracy of the starter CLIP on photographs and prompts that its training never saw.

`python -m benchmarks.starter_clip` prints a table; `--json` prints one line a bar; `--quick` ends within a minute by
taking fewer photographs. The prompts are single sentences in held-out wording; each figure is the mean over them.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.bars import Bar, arguments, at_least, show
from manyeyes.models.starter.clip import StarterClip, load_starter_clip
from manyeyes.models.starter.clip_captions import TextEncoder, Vocabulary, load_vocabulary
from manyeyes.models.starter.clip_evaluation import accuracies, calibration_error, class_embeddings

# A linear probe is what somebody with labels would put on the same tower; measured apart from this run.
BARS = {
    "clothing_validation": (
        "clothing",
        "clothing_validation.zip",
        0.75,
        "linear probe, 2,500 labeled views, our dev split: 0.857",
    ),
    "cifar10_test": (
        "cifar10",
        "cifar10_test.zip",
        0.65,
        "linear probe, 2,500 labeled views, our dev split: 0.764",
    ),
}
CIFAR_PHOTOS = 2000
QUICK_PHOTOS = 120


def read_photos(file: Path, per_class: int) -> Iterator[tuple[str, Image.Image]]:
    """Yield (label, RGB image), at most `per_class` of each label, in the order of the file names."""
    seen: dict[str, int] = {}
    with zipfile.ZipFile(file) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".jpg")):
            label = name.split("/")[0]
            seen[label] = seen.get(label, 0) + 1
            if seen[label] <= per_class:
                yield label, Image.open(io.BytesIO(archive.read(name))).convert("RGB")


def embed_photos(starter: StarterClip, photos: Sequence[Image.Image]) -> torch.Tensor:
    """Return unit-norm embeddings, float32, shape (n, 384)."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(photos), 32):
            batch = torch.stack([starter.preprocess(photo) for photo in photos[start : start + 32]])
            parts.append(starter.model.encode_image(batch, normalize=True))
    return torch.cat(parts)


def score(
    starter: StarterClip, vocabulary: Vocabulary, name: str, data: Path, *, quick: bool
) -> tuple[Bar, list[str]]:
    """Return the bar and the lines that tell more about one data set."""
    data_set, file, goal, peer = BARS[name]
    per_class = CIFAR_PHOTOS // 10 if data_set == "cifar10" else sys.maxsize
    labels, photos = zip(*read_photos(data / file, QUICK_PHOTOS // 10 if quick else per_class), strict=True)
    images = embed_photos(starter, photos)
    classes = sorted(set(labels))
    truth = np.array([classes.index(label) for label in labels])
    encoder = TextEncoder(starter)
    scale = float(starter.model.logit_scale.exp())
    unseen = vocabulary.held_out_names(data_set)
    lines = []
    figures = []
    for wording, names in (
        ("labels", [[c] for c in classes]),
        ("unseen names", [unseen[c] for c in classes]),
    ):
        prompts = class_embeddings(names, vocabulary, encoder)
        single, together = accuracies(images, prompts, truth)
        confidence, guess = (scale * torch.einsum("nd,tcd->tnc", images, prompts)).softmax(dim=2).max(dim=2)
        correct = guess.numpy() == truth
        error = calibration_error(confidence.numpy().astype(np.float64).ravel(), correct.ravel())
        sure = ((confidence.numpy() > 0.9) & ~correct).mean()
        figures.append(single)
        lines.append(
            f"{name:<20} {wording:<13} {len(truth):>5}  {single:.3f}  {together:.3f}  {error:.3f}  {sure:.4f}"
        )
    figure = round(figures[0], 3)
    return at_least(name, figure, goal, unit="top-1", peer=peer), lines


def main() -> int:
    """Parse arguments, score, print; return 1 if a bar is missed."""
    parser = arguments(__doc__)
    parser.add_argument("--head", type=Path, help="score another head than the committed one")
    args = parser.parse_args()
    starter = load_starter_clip(args.head) if args.head else load_starter_clip()
    vocabulary = load_vocabulary(args.data)
    results = [score(starter, vocabulary, name, args.data, quick=args.quick) for name in BARS]
    if not args.json:
        print(f"{'set':<20} {'wording':<13} {'n':>5}  {'one':>5}  {'all':>5}  {'ECE':>5}  wrong above 0.9")
        for _, lines in results:
            print("\n".join(lines))
    return show("Zero-shot accuracy of the starter CLIP", [bar for bar, _ in results], as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
