"""Detectors of other kinds: open vocabularies, segmentation, large images in tiles; ultralytics' own networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from manyeyes.errors import InvalidRecipe, ModelNotFound, WeightsMismatch
from manyeyes.primitives import detector as module
from manyeyes.primitives.base import DecodedImage
from manyeyes.primitives.detection import _without_margins
from manyeyes.primitives.detector import Detector, DetectorSpec, build
from manyeyes.primitives.images import decode_image

pytestmark = pytest.mark.slow


def detector(**options: Any) -> Detector:
    made = build("detector", DetectorSpec(kind="detector", image_size=320, **options))["detector"]
    assert isinstance(made, Detector)
    return made


@pytest.fixture(scope="session")
def save(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Save one of ultralytics' architectures with random weights that are bold enough to report something."""
    module._ultralytics()
    import torch
    import ultralytics

    def save(architecture: str, change: Callable[[Any], None] | None = None, name: str | None = None) -> Path:
        torch.manual_seed(0)
        kind = {"yoloe": ultralytics.YOLOE, "yolov": ultralytics.YOLOWorld}.get(
            architecture[:5], ultralytics.YOLO
        )
        model = kind(f"{architecture}.yaml")
        head = model.model.model[-1]
        for level in getattr(head, "cv4", []) if "yolo11" not in architecture else head.cv3:
            (level if hasattr(level, "bias") else level[-1]).bias.data += 12
        if architecture.startswith("yoloe"):
            for level in head.cv3:  # else nothing in the image tells one word from another
                level[-1].weight.data *= 1_000
        if change is not None:
            change(model.model)
        path = tmp_path_factory.mktemp("saved") / f"{name or architecture}.pt"
        model.save(path)
        return path

    return save


@pytest.fixture(scope="session")
def clip_512(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """Make a folder with a small CLIP of random weights whose texts have so many numbers."""
    from manyeyes.models.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    import open_clip
    import torch
    from safetensors.torch import save_file

    def make(dim: int) -> str:
        folder = tmp_path_factory.mktemp("words")
        config = {
            "embed_dim": dim,
            "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
            "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
        }
        torch.manual_seed(dim)
        model = open_clip.CLIP(dim, config["vision_cfg"], config["text_cfg"])  # type: ignore[arg-type]
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors, folder / "open_clip_model.safetensors")
        return str(folder)

    return make


# --- segmentation -----------------------------------------------------------------------------------------------------


def with_masks(network: Any) -> None:
    """Make masks that are more than nothing."""
    head = network.model[-1]
    head.proto.cv3.conv.weight.data *= 20
    for level in head.cv4:
        level[-1].bias.data += 1


@pytest.fixture(scope="session")
def segmenter(save: Callable[..., Path]) -> Path:
    return save("yolo11n-seg", with_masks)


def test_masks_are_shares_of_the_image(segmenter: Path, astronaut: DecodedImage) -> None:
    """As large as the polygons' own pixels, in a photograph that the canvas of the model does not fit."""
    from ultralytics import YOLO

    wide = decode_image(astronaut.pixels.crop((0, 100, 512, 300)))
    found = detector(model=str(segmenter)).compute([wide])[0]
    plain = YOLO(segmenter).predict(
        np.asarray(wide.pixels)[..., ::-1], conf=0.25, iou=0.5, imgsz=320, retina_masks=True, verbose=False
    )[0]
    assert len(found) == len(plain) > 0
    shares = np.sort(plain.masks.data.numpy().mean(axis=(1, 2)))
    assert ((found["mask"] > 0) & (found["mask"] <= 1)).all()
    assert np.sort(found["mask"]) == pytest.approx(shares, abs=0.03)


def test_a_detector_without_masks_says_so(save: Callable[..., Path], astronaut: DecodedImage) -> None:
    found = detector(model=str(save("yolo11n"))).compute([astronaut])[0]
    assert len(found) > 0
    assert np.isnan(found["mask"]).all()


def test_margins_of_the_canvas_are_no_part_of_the_image() -> None:
    masks = np.zeros((1, 192, 320), dtype=bool)
    masks[:, 16:176] = True  # an image of 640 × 320 on a canvas of whole strides
    assert _without_margins(masks, (320, 640)).shape == (1, 160, 320)
    assert _without_margins(masks, (320, 640)).all()
    assert _without_margins(masks, (192, 320)).shape == masks.shape
    assert _without_margins(np.zeros((2, 320, 320)), (1, 4000)).shape == (2, 1, 320)


# --- classes ----------------------------------------------------------------------------------------------------------


def test_a_closed_vocabulary_can_be_narrowed(segmenter: Path, astronaut: DecodedImage) -> None:
    everything = detector(model=str(segmenter))
    rows = everything.compute([astronaut])[0]
    label = int(rows["label"][0])
    wanted = detector(model=str(segmenter), classes=["79", str(label)])
    assert wanted.info["names"] == ["79", str(label)]
    assert wanted.version != everything.version
    found = wanted.compute([astronaut])[0]
    assert set(found["label"]) == {1}
    assert len(found) == (rows["label"] == label).sum()
    with pytest.raises(InvalidRecipe, match=r"no 'dgo'.*YOLO-World"):
        detector(model=str(segmenter), classes=["dgo"]).setup()


def test_a_starter_of_fewer_classes() -> None:
    own = build("detector", DetectorSpec(kind="detector"))["detector"]
    few = build("detector", DetectorSpec(kind="detector", classes=("dog", "person")))["detector"]
    assert few.info["names"] == ["dog", "person"]
    assert few.version != own.version
    with pytest.raises(InvalidRecipe, match="did you mean 'person'"):
        assert build("detector", DetectorSpec(kind="detector", classes=("persn",)))["detector"].info


OPEN = ["yolov8s-worldv2", "yoloe-11s", "yoloe-11s-seg"]


@pytest.mark.parametrize("architecture", OPEN)
def test_words_become_classes(
    architecture: str, save: Callable[..., Path], clip_512: Callable[[int], str], astronaut: DecodedImage
) -> None:
    change = with_masks_of_yoloe if architecture.endswith("seg") else None
    path = save(architecture, change, name="mine")  # no name from which ultralytics could guess what it is
    words = ["red hat", "dog", "space suit"]
    encoder = clip_512(512)
    primitive = detector(model=str(path), classes=words, text_encoder=encoder)
    rows = primitive.compute([astronaut])[0]
    assert primitive.info["names"] == words
    assert len(rows) > 0
    assert set(rows["label"]) <= {0, 1, 2}
    assert np.isnan(rows["mask"]).all() == (not architecture.endswith("seg"))
    again = detector(model=str(path), classes=words[::-1], text_encoder=encoder)
    assert again.version != primitive.version
    plain = told_by_hand(architecture, path, words, encoder).predict(
        astronaut.pixels, conf=0.25, iou=0.5, imgsz=320, verbose=False
    )[0]
    assert rows["score"] == pytest.approx(np.sort(plain.boxes.conf.numpy())[::-1], abs=1e-5)
    assert np.sort(rows["label"]).tolist() == np.sort(plain.boxes.cls.numpy()).tolist()
    with pytest.raises(WeightsMismatch, match="32 numbers a word"):
        detector(model=str(path), classes=words, text_encoder=clip_512(32)).setup()


def told_by_hand(architecture: str, path: Path, words: list[str], encoder: str) -> Any:
    """Set the classes as ultralytics would, had it the text encoder."""
    import torch
    import ultralytics

    from manyeyes.primitives.clip import ClipSpec
    from manyeyes.primitives.clip import build as build_clip

    texts = build_clip("clip", ClipSpec(kind="clip", model=encoder))["clip.text"]
    words_seen = torch.from_numpy(np.concatenate([row["embedding"] for row in texts.compute(words)]))[None]
    if architecture.startswith("yoloe"):
        model = ultralytics.YOLOE(path)
        model.set_classes(words, model.model.model[-1].get_tpe(words_seen).detach())
        return model
    model = ultralytics.YOLOWorld(path)
    model.model.txt_feats, model.model.names = words_seen, dict(enumerate(words))
    model.model.model[-1].nc = len(words)
    return model


def with_masks_of_yoloe(network: Any) -> None:
    head = network.model[-1]
    head.proto.cv3.conv.weight.data *= 20
    for level in head.cv5:
        level[-1].bias.data += 1


@pytest.mark.parametrize("architecture", OPEN)
def test_words_without_their_encoder_say_what_to_do(architecture: str, save: Callable[..., Path]) -> None:
    with pytest.raises(ModelNotFound, match=r"MANYEYES_ALLOW_DOWNLOADS=1.*text_encoder.*set_classes"):
        detector(model=str(save(architecture)), classes=["red hat"]).setup()


def test_a_yoloe_wants_words(save: Callable[..., Path]) -> None:
    with pytest.raises(InvalidRecipe, match="name what to look for"):
        detector(model=str(save("yoloe-11s"))).setup()


@pytest.mark.parametrize("architecture", ["yoloe-11s", "yolov8s-worldv2"])
def test_classes_that_were_saved_need_no_encoder(
    architecture: str, save: Callable[..., Path], astronaut: DecodedImage
) -> None:
    import torch

    def bake(network: Any) -> None:
        words = torch.nn.functional.normalize(torch.randn(1, 2, 512), dim=-1)
        if architecture.startswith("yoloe"):
            network.set_classes(["red hat", "dog"], words)
        else:
            network.txt_feats, network.names = words, {0: "red hat", 1: "dog"}
            network.model[-1].nc = 2

    path = str(save(architecture, bake))
    for classes in ((), ("red hat", "dog")):
        primitive = detector(model=path, classes=classes)
        assert primitive.info["names"] == ["red hat", "dog"]
        assert len(primitive.compute([astronaut])[0]) > 0


def test_classes_have_bounds() -> None:
    assert DetectorSpec(kind="detector", classes=("a", "b", "a")).classes == ("a", "b")
    for wrong in (["x" * 201], [""], [str(i) for i in range(501)]):
        with pytest.raises(ValidationError):
            DetectorSpec(kind="detector", classes=wrong)  # type: ignore[arg-type]


# --- tiles ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def crowd(astronaut: DecodedImage) -> DecodedImage:
    """Four small portraits far apart on a large grey canvas; one lies across the edges of tiles."""
    canvas = Image.new("RGB", (1600, 1200), (120, 120, 120))
    small = astronaut.pixels.resize((220, 220))
    for place in ((60, 80), (1300, 100), (690, 480), (1250, 900)):
        canvas.paste(small, place)
    return decode_image(canvas)


def test_small_objects_are_found_in_tiles(crowd: DecodedImage) -> None:
    from importlib import metadata

    onnx = next(str(f.locate()) for f in metadata.files("nudenet") or [] if f.name == "320n.onnx")
    whole = detector(model=onnx)
    tiled = detector(model=onnx, tile={"size": 480, "overlap": 0.5})
    assert whole.version != tiled.version != detector(model=onnx, tile=480).version
    faces = lambda rows: [r for r in rows if whole.info["names"][r["label"]].startswith("FACE")]  # noqa: E731
    assert faces(whole.compute([crowd])[0]) == []
    found = faces(tiled.compute([crowd])[0])
    centres = {tuple((np.round((r["box"][:2] + r["box"][2:]) / 2 / 100)).astype(int)) for r in found}
    assert len(found) == 4  # each once, though several tiles see it
    assert len(centres) == 4
    for row in found:
        assert row["box"] == pytest.approx(row["fraction"] * np.array([1600, 1200] * 2), abs=0.1)
        assert (row["box"][2:] - row["box"][:2]).max() < 120  # as large as a face in a portrait of 220 pixels
    alone = tiled.compute([tiled.prepare(crowd)])[0]
    assert alone.tobytes() == tiled.compute([crowd])[0].tobytes()


def test_tiles_leave_small_images_alone(save: Callable[..., Path], astronaut: DecodedImage) -> None:
    path = str(save("yolo11n"))
    assert (
        detector(model=path, tile=640).compute([astronaut])[0].tobytes()
        == detector(model=path).compute([astronaut])[0].tobytes()
    )
