"""Cells of a CLIP: what they are for every kind of tower, and which towers give none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from manyeyes.errors import InvalidRecipe
from manyeyes.primitives.base import DecodedImage
from manyeyes.primitives.clip import ClipSpec, build
from manyeyes.primitives.clip_map import ClipMap, _of_transformer, _see, _spatial_of
from manyeyes.primitives.clip_models import LoadedClip
from manyeyes.primitives.images import decode_image

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def starter() -> ClipMap:
    made = build("clip", ClipSpec(kind="clip"))["clip.map"]
    assert isinstance(made, ClipMap)
    return made


def loaded(vision: dict[str, Any]) -> LoadedClip:
    """A small CLIP with random weights and a tower of some kind."""
    from manyeyes.models.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    import open_clip
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    torch.manual_seed(0)
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    kind = open_clip.CustomTextCLIP if "timm_model_name" in vision else open_clip.CLIP
    model = kind(32, vision, text).eval()  # type: ignore[arg-type]
    transform = image_transform_v2(PreprocessCfg(size=vision["image_size"]), is_train=False)
    return LoadedClip(model, transform, open_clip.tokenize, dim=32, logit_scale=10.0)


VIT = {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
FINE = {**VIT, "patch_size": 2}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "head_width": 8}
TIMM = {"timm_model_name": "resnet18", "timm_model_pretrained": False, "timm_pool": "avg", "image_size": 64}
CONVOLUTIONS = {**TIMM, "timm_model_name": "tf_efficientnet_lite0", "timm_proj": "mlp"}


def pixels(side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("vision", "shape"),
    [(VIT, (8, 8, 32)), (FINE, (16, 16, 32)), (RESNET, (2, 2, 32)), (CONVOLUTIONS, (2, 2, 32))],
)
def test_every_kind_of_tower_gives_cells(vision: dict[str, Any], shape: tuple[int, ...]) -> None:
    clip = loaded(vision)
    spatial = _spatial_of(clip)
    cells = _see(clip, pixels(spatial.side), spatial)
    assert cells.shape == shape == (spatial.grid // spatial.pool,) * 2 + (32,)
    assert np.isfinite(cells).all()
    assert not np.allclose(cells[0, 0], cells[-1, -1])


def test_a_cell_of_a_transformer_is_what_one_value_would_make_of_the_image() -> None:
    """Where every token has the same value, attention changes nothing: the class token says what each cell says."""
    import torch

    visual = loaded(VIT).model.visual
    last = visual.transformer.resblocks[-1]
    with torch.inference_mode():
        last.attn.in_proj_weight[2 * 64 :] = 0  # values are the bias alone
        last.attn.in_proj_bias[2 * 64 :] = torch.randn(64)
        cells = _of_transformer(visual, torch.randn(1, 3, 64, 64), 8)
        attended = last.attn(*[torch.randn(1, 5, 64)] * 3, need_weights=False)[0][0, 0]
        expected = visual.ln_post(attended) @ visual.proj
    assert torch.allclose(cells, expected.expand_as(cells), atol=1e-5)


def test_a_tower_that_pools_otherwise_says_so() -> None:
    with pytest.raises(InvalidRecipe, match=r"gives no map.*or a detector"):
        _spatial_of(
            loaded(
                {**TIMM, "timm_model_name": "vit_tiny_patch16_224", "timm_pool": "token", "image_size": 224}
            )
        )


def test_the_average_of_the_starters_cells_is_near_its_embedding(
    starter: ClipMap, astronaut: DecodedImage
) -> None:
    """The same space: what a photograph shows everywhere, its cells show on average."""
    images = build("clip", ClipSpec(kind="clip"))["clip"]
    cells = starter.compute([astronaut])[0]["map"][0].astype(np.float64)
    assert cells.shape == (7, 7, 384)
    from skimage import data

    photos = [
        astronaut,
        decode_image(Image.fromarray(data.chelsea())),
        decode_image(Image.fromarray(data.coffee())),
    ]
    embedded = np.concatenate([row["embedding"] for row in images.compute(photos)])
    means = np.concatenate(
        [row["map"].astype(np.float64).mean(axis=(1, 2)) for row in starter.compute(photos)]
    )
    alike = means @ embedded.T / np.linalg.norm(means, axis=1, keepdims=True)
    assert alike.argmax(axis=1).tolist() == [0, 1, 2]
    assert (np.diag(alike) > 0.3).all()
    assert 0.3 < np.linalg.norm(cells, axis=-1).mean() < 1.1
    assert starter.info["logit_scale"] > 1


def test_all_of_the_image_is_seen(starter: ClipMap, astronaut: DecodedImage) -> None:
    """Where `clip` sees the centre square, the ends of a wide image count here."""
    wide = Image.new("RGB", (900, 300), (120, 120, 120))
    changed = wide.copy()
    changed.paste(astronaut.pixels.resize((150, 300)), (750, 0))
    before, after = (row["map"][0] for row in starter.compute([decode_image(wide), decode_image(changed)]))
    difference = np.abs(before - after).astype(np.float64).sum(axis=(0, 2))
    assert difference.argmax() == 6 and difference[6] > 3 * difference[0]
