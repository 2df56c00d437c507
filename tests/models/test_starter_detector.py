"""The starter detector: its scenes, its scores, its network, and the committed checkpoint."""

import hashlib
import json
import pickletools
import zipfile
from pathlib import Path

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2", reason="scenes need OpenCV, which comes with the detect extra")

from manyeyes.models.starter.detector_scores import (  # noqa: E402
    Detections,
    average_precisions,
    held_out_collages,
    mean_average_precision,
    overlap,
    presence,
)
from manyeyes.models.starter.scene_sources import (  # noqa: E402
    CLASSES,
    LabeledPhoto,
    Photo,
    Sources,
    decode,
    find_outline,
    load_sources,
)
from manyeyes.models.starter.scenes import Scene, build_scene, collage, letterbox, zoom  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
CHECKPOINT = ROOT / "models" / "starter" / "detector.pt"
PERSON = CLASSES.index("person")
FLOOR = 0.35  # mAP50 of the committed weights, less what 80 scenes vary by
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="needs ../shared/data, which is not part of the project"
)


def jpeg(colour: tuple[int, int, int], *, side: int = 64, thing: bool = False) -> bytes:
    """A flat picture, or one with a darker disc in its middle."""
    image = np.full((side, side, 3), colour, np.uint8)
    if thing:
        cv2.circle(image, (side // 2, side // 2), side // 4, (20, 30, 200), -1)
    return bytes(cv2.imencode(".png", image)[1])


@pytest.fixture
def sources() -> Sources:
    rng = np.random.default_rng(0)
    photos = {
        i: [Photo(jpeg((i * 7, 90, 200), thing=True), i, cut=i % 2 == 0)] for i in range(1, len(CLASSES))
    }
    scenes = [
        LabeledPhoto(
            rng.integers(0, 255, (120, 160, 3), dtype=np.uint8),
            np.array([[10, 10, 60, 110], [70, 20, 150, 90]], np.float32),
            np.array([PERSON, CLASSES.index("dog")]),
        )
    ]
    return Sources({PERSON: [], **photos}, scenes, [jpeg((200, 220, 230), side=100)])


def test_a_seed_gives_the_same_scene_again(sources: Sources) -> None:
    for index in range(20):
        first, second = (build_scene(sources, seed=(3, index), size=96) for _ in range(2))
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.boxes, second.boxes)
        np.testing.assert_array_equal(first.classes, second.classes)


def test_seeds_give_different_scenes(sources: Sources) -> None:
    images = {build_scene(sources, seed=(3, index), size=96).image.tobytes() for index in range(20)}
    assert len(images) == 20


def test_boxes_lie_inside_and_have_a_size_and_a_class(sources: Sources) -> None:
    seen = 0
    for index in range(150):
        scene = build_scene(sources, seed=(4, index), size=96)
        assert scene.image.shape == (96, 96, 3) and scene.image.dtype == np.uint8
        assert scene.boxes.shape == (len(scene.classes), 4) and scene.boxes.dtype == np.float32
        assert (scene.boxes >= 0).all() and (scene.boxes <= 96).all()
        assert (scene.boxes[:, 2:] - scene.boxes[:, :2] >= 5).all()
        assert ((scene.classes >= 0) & (scene.classes < len(CLASSES))).all()
        seen += len(scene.classes)
    assert seen > 150


def test_a_collage_shows_what_its_boxes_say(sources: Sources) -> None:
    rng = np.random.default_rng(5)
    scene = collage(sources, rng, 128)
    background = decode(sources.backgrounds[0])[0, 0].astype(int)
    for x0, y0, x1, y1 in scene.boxes.astype(int):
        middle = scene.image[(y0 + y1) // 2, (x0 + x1) // 2].astype(int)
        assert np.abs(middle - background).max() > 15


def test_letterbox_keeps_the_shape_and_moves_the_boxes(sources: Sources) -> None:
    scene = letterbox(sources.scenes[0], 160, scale=1.0)
    np.testing.assert_allclose(scene.boxes[0], [10, 30, 60, 130])
    assert (scene.image[:20] == 114).all() and (scene.image[140:] == 114).all()


def test_zoom_drops_what_it_leaves_out(sources: Sources) -> None:
    counts = {len(zoom(sources.scenes[0], np.random.default_rng(i), 96).classes) for i in range(60)}
    assert counts >= {1, 2}


def test_outline_finds_the_thing_in_the_middle() -> None:
    mask = find_outline(decode(jpeg((230, 230, 230), side=128, thing=True)))
    ys, xs = np.nonzero(mask)
    # The disc spans a quarter to three quarters of the picture.
    assert abs(xs.min() - 24) <= 3 and abs(xs.max() - 72) <= 3 and abs(ys.min() - 24) <= 3


def test_outline_of_a_plain_picture_is_all_of_it() -> None:
    assert (find_outline(decode(jpeg((230, 230, 230)))) == 255).all()


def test_decode_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="no image"):
        decode(b"not an image")


def scene_of(*boxes: tuple[float, float, float, float], classes: list[int]) -> Scene:
    return Scene(
        np.zeros((8, 8, 3), np.uint8), np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64)
    )


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Detections(
        table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int64)
    )


def test_overlap_by_hand() -> None:
    a = np.array([[0, 0, 2, 2]], np.float32)
    b = np.array([[1, 0, 3, 2], [5, 5, 6, 6], [0, 0, 2, 2]], np.float32)
    np.testing.assert_allclose(overlap(a, b), [[1 / 3, 0, 1]], rtol=1e-6)


def test_average_precision_by_hand() -> None:
    truth = [scene_of((0, 0, 4, 4), (4, 4, 8, 8), classes=[0, 0])]
    # right, wrong, right: precision 1 up to recall 1/2, then 2/3.
    detections = [found((0, 0, 4, 4, 0.9, 0), (0, 4, 4, 8, 0.8, 0), (4, 4, 8, 8, 0.7, 0))]
    value, count = average_precisions(truth, detections)[0]
    assert count == 2
    assert value == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_a_second_detection_of_the_same_thing_is_wrong() -> None:
    truth = [scene_of((0, 0, 4, 4), classes=[1])]
    once = average_precisions(truth, [found((0, 0, 4, 4, 0.9, 1))])
    twice = average_precisions([*truth, *truth], [found((0, 0, 4, 4, 0.9, 1), (0, 0, 4, 4, 0.8, 1)), found()])
    assert once[1] == (1.0, 1)
    assert twice[1][0] == pytest.approx(51 / 101)


def test_nothing_found_scores_zero_and_nothing_there_is_not_scored() -> None:
    precisions = average_precisions([scene_of((0, 0, 4, 4), classes=[2])], [found((0, 0, 4, 4, 0.9, 5))])
    assert precisions == {2: (0.0, 1)}
    assert np.isnan(mean_average_precision(average_precisions([scene_of(classes=[])], [found()])))


def test_presence_counts_images() -> None:
    truth = [scene_of((0, 0, 4, 4), classes=[0]), scene_of(classes=[]), scene_of((0, 0, 4, 4), classes=[0])]
    detections = [found((0, 0, 1, 1, 0.9, 0)), found((0, 0, 1, 1, 0.9, 0)), found((0, 0, 4, 4, 0.1, 0))]
    assert presence(truth, detections, class_id=0, score=0.5) == pytest.approx((0.5, 0.5, 1 / 3))


def test_described_checkpoint_is_the_committed_one() -> None:
    described = json.loads(CHECKPOINT.with_suffix(".json").read_text(encoding="utf-8"))
    content = CHECKPOINT.read_bytes()
    assert hashlib.sha256(content).hexdigest() == described["sha256"]
    assert tuple(described["classes"]) == CLASSES
    assert sum(file.stat().st_size for file in CHECKPOINT.parent.iterdir() if file.is_file()) <= 25e6


def test_checkpoint_holds_no_paths_and_no_code_of_ours() -> None:
    with zipfile.ZipFile(CHECKPOINT) as archive:
        member = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        program = archive.read(member)
    texts = [arg for _, arg, _ in pickletools.genops(program) if isinstance(arg, str)]
    assert not [text for text in texts if text.startswith("/") or ":\\" in text]
    assert not [text for text in texts if "manyeyes" in text]


@pytest.fixture(scope="module")
def detect(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    pytest.importorskip("ultralytics", reason="needs the detect extra")
    from manyeyes.models.starter.detector_network import IMGSZ, detector, quiet_ultralytics

    quiet_ultralytics(tmp_path_factory.mktemp("ultralytics"))
    return detector(CHECKPOINT, imgsz=IMGSZ)


@pytest.mark.slow
def test_backbone_matches_the_weights_it_came_from() -> None:
    """The first layers of our graph compute what timm's EfficientNet-Lite0 computes, up to its last features."""
    pytest.importorskip("ultralytics", reason="needs the detect extra")
    from manyeyes.models.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    import timm
    import torch

    from manyeyes.models.starter.detector_network import build
    from manyeyes.models.weights import find_weights

    path = find_weights("efficientnet-lite0")
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    state = torch.load(path, map_location="cpu", weights_only=True)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    ours = build(CLASSES, backbone=path).eval()
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = theirs.forward_features((pixels * 255 - 127) / 128)
        value = pixels
        for layer in list(ours.model)[:5]:
            value = layer(value)
    torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.slow
@needs_data
def test_held_out_collages_score_what_the_card_says(detect) -> None:  # type: ignore[no-untyped-def]
    scenes = held_out_collages(load_sources(DATA, "held_out"), n_scenes=80, size=256)
    precisions = average_precisions(scenes, detect([scene.image for scene in scenes]))
    assert mean_average_precision(precisions) >= FLOOR


@pytest.mark.slow
@needs_data
def test_splits_share_no_photograph() -> None:
    train, held_out = (load_sources(DATA, split) for split in ("train", "held_out"))
    for mine, theirs in (
        (
            {p.data for group in train.photos.values() for p in group},
            {p.data for g in held_out.photos.values() for p in g},
        ),
        (set(train.backgrounds), set(held_out.backgrounds)),
    ):
        assert mine and theirs and not mine & theirs
    assert len(train.scenes) == 192 and len(held_out.scenes) == 64


@pytest.mark.slow
def test_people_in_ordinary_photographs_are_found(detect) -> None:  # type: ignore[no-untyped-def]
    data = pytest.importorskip("skimage.data")
    (people,) = detect([data.astronaut()])
    assert people.scores[people.classes == PERSON].max(initial=0) >= 0.4
