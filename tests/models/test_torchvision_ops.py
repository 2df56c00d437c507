"""The operators that stand in for torchvision's compiled ones."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from manyeyes.models.torchvision_ops import nms, quantized_nms  # noqa: E402


def greedy_nms(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float) -> list[int]:
    """The textbook algorithm, one pair of boxes at a time."""

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
        return float(width * height / union)

    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if all(iou(boxes[j], boxes[i]) <= iou_threshold for j in kept):
            kept.append(i)
    return kept


def random_boxes(n_boxes: int, rng: np.random.Generator) -> np.ndarray:
    corner = rng.uniform(0, 60, (n_boxes, 2))
    return np.concatenate([corner, corner + rng.uniform(5, 40, (n_boxes, 2))], axis=1)


@pytest.mark.parametrize("iou_threshold", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("n_boxes", [1, 2, 17, 120])
def test_nms_agrees_with_the_textbook(n_boxes: int, iou_threshold: float) -> None:
    rng = np.random.default_rng(n_boxes)
    boxes, scores = random_boxes(n_boxes, rng), rng.uniform(size=n_boxes)
    kept = nms(torch.from_numpy(boxes), torch.from_numpy(scores), iou_threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == greedy_nms(boxes, scores, iou_threshold)


def test_scores_come_out_descending() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]])
    assert nms(boxes, torch.tensor([0.2, 0.9, 0.5]), 0.5).tolist() == [1, 2, 0]


def test_a_box_exactly_at_the_threshold_stays() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 1], [1, 0, 2, 1]])
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, 0.49).tolist() == [0]


def test_equal_scores_keep_their_order() -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [0, 0, 1, 1], [5, 5, 6, 6]])
    assert nms(boxes, torch.full((3,), 0.5), 0.5).tolist() == [0, 2]


def test_no_boxes() -> None:
    kept = nms(torch.empty(0, 4), torch.empty(0), 0.5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.int64


def test_empty_boxes_survive() -> None:
    assert nms(torch.zeros(2, 4), torch.tensor([0.5, 0.6]), 0.5).tolist() == [1, 0]


def test_half_precision_does_not_overflow() -> None:
    boxes = torch.tensor(
        [[0.0, 0, 1000, 1000], [0, 0, 1000, 999], [2000, 2000, 3000, 3000]], dtype=torch.float16
    )
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7], dtype=torch.float16), 0.5).tolist() == [0, 2]


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        nms(torch.zeros(3, 5), torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match="shape"):
        nms(torch.zeros(3, 4), torch.zeros(2), 0.5)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_quantized_boxes() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    quantized = torch.quantize_per_tensor(boxes, 1.0, 0, torch.quint8)
    scores = torch.quantize_per_tensor(torch.tensor([0.9, 0.8, 0.7]), 0.01, 0, torch.quint8)
    assert quantized_nms(quantized, scores, 0.5).tolist() == [0, 2]


def test_torchvision_imports_and_suppresses_afterwards() -> None:
    """In a fresh process, because whether torchvision was imported before decides what is tested."""
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    program = (
        "import torch\n"
        "from manyeyes.models.torchvision_ops import ensure_torchvision\n"
        "assert ensure_torchvision() == ensure_torchvision()\n"
        "import torchvision\n"
        "from torchvision.ops import batched_nms, nms, roi_align\n"
        "boxes = torch.tensor([[0., 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])\n"
        "scores = torch.tensor([.7, .9, .8])\n"
        "print(nms(boxes, scores, .5).tolist(), batched_nms(boxes, scores, torch.tensor([0, 1, 0]), .5).tolist())\n"
        "print(list(roi_align(torch.ones(1, 1, 8, 8), [torch.tensor([[0., 0, 4, 4]])], 2).shape))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:2] == ["[1, 2] [1, 2, 0]", "[1, 1, 2, 2]"]
