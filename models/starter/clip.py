"""The starter CLIP: an open_clip model whose weights come with Python packages, so that it needs no model hub.

Image tower: EfficientNet-Lite0 trained on ImageNet. Text tower: all-MiniLM-L6-v2. Both stay as published; the part
that is ours is the two-layer head (`clip_head.safetensors`) that carries image features into the text space, and
the temperature. CLIP_CARD.md says what it was trained on and how well it does.

What is relied on in open_clip: `CustomTextCLIP` built from `vision_cfg` and `text_cfg` dicts; `TimmModel` with
`timm_proj: mlp` (names `visual.trunk.*`, `visual.head.mlp.fc1/fc2`); `HFTextEncoder` with the mean pooler and no
projection (`text.transformer.*`); `HFTokenizer` on a local folder; `PreprocessCfg` and `image_transform_v2`.

>>> starter = load_starter_clip()  # doctest: +SKIP
>>> texts = starter.model.encode_text(starter.tokenizer(["a photo of a cat"]), normalize=True)  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from manyeyes.errors import WeightsMismatch
from manyeyes.models.weights import CARRIED, file_sha256, find_weights

if TYPE_CHECKING:
    import torch
    from open_clip import CustomTextCLIP
    from PIL import Image

HEAD_FILE: Final = Path(__file__).with_name("clip_head.safetensors")

EMBED_DIM: Final = 384
FEATURE_DIM: Final = 1280
IMAGE_SIZE: Final = 224

# The tower was trained on TensorFlow's (pixel - 127) / 128 with pixels 0..255; torch's ToTensor gives 0..1.
PREPROCESS: Final[dict[str, Any]] = {
    "size": IMAGE_SIZE,
    "mean": (127 / 255,) * 3,
    "std": (128 / 255,) * 3,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
MODEL_CONFIG: Final[dict[str, Any]] = {
    "embed_dim": EMBED_DIM,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "mlp",
        "image_size": IMAGE_SIZE,
    },
    "text_cfg": {
        "hf_model_name": "minilm",
        "hf_model_pretrained": False,
        "hf_proj_type": None,
        "hf_pooler_type": "mean_pooler",
    },
}
# MiniLM reads up to 512 tokens, but every text is padded to this many and a prompt or a caption is short.
CONTEXT_LENGTH: Final = 77


@dataclass(frozen=True, slots=True)
class StarterClip:
    """The loaded model and what belongs to it.

    model: open_clip CustomTextCLIP in eval mode, float32, on the CPU; embeddings have 384 numbers.
    preprocess: RGB image → float32 tensor, shape (3, 224, 224).
    tokenizer: texts → int64 tensor, shape (n_texts, 77), padded with 0.
    digest: hex sha256 over the configuration and all three sets of weights; changes whenever an embedding may.
    """

    model: CustomTextCLIP
    preprocess: Callable[[Image.Image], torch.Tensor]
    tokenizer: Callable[[Sequence[str]], torch.Tensor]
    digest: str


def load_starter_clip(head: Path | None = HEAD_FILE) -> StarterClip:
    """Build the starter CLIP from installed weights; the network is never touched.

    head: a safetensors file with the alignment head; None leaves the head untrained (to train it).
    Raises ModelNotFound if a weight package is missing, WeightsMismatch if a file is not the expected one.
    """
    from manyeyes.models.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    from open_clip import CustomTextCLIP
    from open_clip.tokenizer import HFTokenizer
    from open_clip.transform import PreprocessCfg, image_transform_v2

    tower_file, text_folder = find_weights("efficientnet-lite0"), find_weights("minilm")
    text_cfg = {**MODEL_CONFIG["text_cfg"], "hf_model_name": str(text_folder)}
    model = CustomTextCLIP(embed_dim=EMBED_DIM, vision_cfg=MODEL_CONFIG["vision_cfg"], text_cfg=text_cfg)
    _load_image_tower(model, tower_file)
    _load_text_tower(model, text_folder)
    if head is not None:
        _load_head(model, head)
    model.requires_grad_(False)
    return StarterClip(
        model=model.eval(),
        preprocess=image_transform_v2(PreprocessCfg(**PREPROCESS), is_train=False),
        tokenizer=HFTokenizer(str(text_folder), context_length=CONTEXT_LENGTH, local_files_only=True),
        digest=starter_clip_digest(head),
    )


def starter_clip_digest(head: Path | None = HEAD_FILE) -> str:
    """Return the hex sha256 that names this model: its configuration and its weights, read from the digests.

    Needs neither torch nor the weight packages, so a version can be computed without loading anything.
    """
    identity = {
        "model": MODEL_CONFIG,
        "preprocess": PREPROCESS,
        "context_length": CONTEXT_LENGTH,
        "image_tower": CARRIED["efficientnet-lite0"].sha256,
        "text_tower": CARRIED["minilm"].sha256,
        "head": None if head is None else file_sha256(head),
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def read_image_classifier(tower_file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights, shape (1000, 1280), and biases, shape (1000,), of the tower's ImageNet classifier.

    The model does not use them; training distils them into the head.
    """
    import torch

    state = torch.load(tower_file, map_location="cpu", weights_only=True)
    return state["_fc.weight"], state["_fc.bias"]


def _load_image_tower(model: CustomTextCLIP, file: Path) -> None:
    import torch

    published = torch.load(file, map_location="cpu", weights_only=True)
    # Another implementation's names, but the same layers in the same order; the classifier comes last.
    tensors = [tensor for name, tensor in published.items() if not name.startswith("_fc.")]
    expected = model.visual.trunk.state_dict()
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if shapes != [tuple(tensor.shape) for tensor in expected.values()]:
        raise WeightsMismatch(
            f"{file} does not fit timm's {MODEL_CONFIG['vision_cfg']['timm_model_name']}: it has {len(tensors)} "
            f"tensors, the model {len(expected)}, or their shapes differ. Install the versions in constraints.txt."
        )
    model.visual.trunk.load_state_dict(dict(zip(expected, tensors, strict=True)))


def _load_text_tower(model: CustomTextCLIP, folder: Path) -> None:
    from safetensors.torch import load_file

    published = load_file(folder / "model.safetensors")
    expected = model.text.transformer.state_dict()
    # The file also holds BERT's pooler and a constant table of positions, which mean pooling does not use.
    missing = sorted(set(expected) - set(published))
    if missing:
        raise WeightsMismatch(
            f"{folder / 'model.safetensors'} lacks {len(missing)} tensors of the text tower, first {missing[0]!r}. "
            "Install the versions in constraints.txt."
        )
    model.text.transformer.load_state_dict({name: published[name] for name in expected})


def _load_head(model: CustomTextCLIP, file: Path) -> None:
    import torch
    from safetensors.torch import load_file

    weights = {name: tensor.float() for name, tensor in load_file(file).items()}
    expected = {f"visual.head.{name}" for name in model.visual.head.state_dict()} | {"logit_scale"}
    if set(weights) != expected:
        raise WeightsMismatch(
            f"{file} is not a head of the starter CLIP: it holds {sorted(weights)}, expected {sorted(expected)}."
        )
    with torch.no_grad():
        model.load_state_dict(weights, strict=False)
