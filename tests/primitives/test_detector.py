"""Detectors: a third-party export on real photographs, a YOLO of our own making, pins, and what is refused."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from manyeyes.errors import ModelNotFound, WeightsMismatch
from manyeyes.models.weights import file_sha256
from manyeyes.primitives import detector as module
from manyeyes.primitives.base import DecodedImage
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.detector import DTYPE, Detector, DetectorSpec, build
from manyeyes.primitives.extractor import Extractor
from manyeyes.primitives.images import decode_image
from manyeyes.types import Item


def detector(**options: object) -> Detector:
    made = build("detector", DetectorSpec(kind="detector", **options))["detector"]  # type: ignore[arg-type]
    assert isinstance(made, Detector)
    return made


def packaged(package: str, name: str) -> Path:
    return next(Path(str(file.locate())) for file in metadata.files(package) or [] if file.name == name)


@pytest.fixture(scope="session")
def onnx() -> str:
    return str(packaged("nudenet", "320n.onnx"))


@pytest.fixture(scope="session")
def zidane() -> DecodedImage:
    """Two men, 1280 × 720."""
    return decode_image(packaged("ultralytics", "zidane.jpg"))


@pytest.fixture(scope="session")
def yolo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A YOLO with random weights that is bold enough to report something."""
    module._ultralytics()
    import torch
    from ultralytics import YOLO

    torch.manual_seed(0)
    model = YOLO("yolo11n.yaml")
    for level in model.model.model[-1].cv3:
        level[-1].bias.data += 8
    path = tmp_path_factory.mktemp("yolo") / "random.pt"
    model.save(path)
    return path


@pytest.mark.slow
def test_a_third_partys_export_finds_faces(onnx: str, astronaut: DecodedImage, zidane: DecodedImage) -> None:
    primitive = detector(model=onnx)
    names = primitive.info["names"]
    woman, men = primitive.compute([astronaut, zidane])
    faces = [row for row in woman if names[row["label"]] == "FACE_FEMALE"]
    assert len(faces) == 1
    x0, y0, x1, y1 = faces[0]["box"]
    # Her face, in pixels of the photograph.
    assert x0 < 224 < x1
    assert y0 < 120 < y1
    assert x1 - x0 < 160
    assert "FACE_MALE" in {names[row["label"]] for row in men}


@pytest.mark.slow
@pytest.mark.parametrize("which", ["onnx", "yolo"])
def test_boxes_are_those_of_ultralytics(
    which: str, zidane: DecodedImage, astronaut: DecodedImage, request: pytest.FixtureRequest
) -> None:
    """The same boxes as its own predict gives for the whole photograph: colours and scaling are right."""
    from ultralytics import YOLO

    path = str(request.getfixturevalue(which))
    rows = detector(model=path).compute([zidane, astronaut])
    plain = YOLO(path, task="detect")
    for image, found in zip((zidane, astronaut), rows, strict=True):
        boxes = plain.predict(image.pixels, conf=0.25, iou=0.5, verbose=False)[0].boxes
        assert len(found) == len(boxes) > 0
        assert found["score"] == pytest.approx(np.sort(boxes.conf.numpy())[::-1], abs=1e-5)
        for box, label, score in zip(boxes.xyxy.numpy(), boxes.cls.numpy(), boxes.conf.numpy(), strict=True):
            alike = found[(found["label"] == label) & (abs(found["score"] - score) < 1e-5)]
            # A pixel of the reduced image is two of the photograph.
            assert min(abs(row["box"] - box).max() for row in alike) < 1


@pytest.mark.slow
def test_one_model_looks_with_any_confidence_and_overlap(yolo: Path, zidane: DecodedImage) -> None:
    from ultralytics import YOLO

    asked = [(0.25, 0.5), (0.6, 0.5), (0.25, 0.9), (0.05, 0.3), (0.25, 0.5)]
    made = [detector(model=str(yolo), confidence=confidence, iou=iou) for confidence, iou in asked]
    assert len({id(one._workers) for one in made}) == 1
    assert len({one.version for one in made}) == 4
    rows = [one.compute([zidane])[0] for one in made]
    assert rows[0].tobytes() == rows[-1].tobytes()
    for (confidence, iou), found in zip(asked, rows, strict=True):
        plain = YOLO(str(yolo)).predict(zidane.pixels, conf=confidence, iou=iou, verbose=False)[0].boxes
        assert found["score"] == pytest.approx(np.sort(plain.conf.numpy())[::-1], abs=1e-5)


@pytest.mark.slow
def test_rows_are_what_is_documented(yolo: Path, photos: list[DecodedImage]) -> None:
    primitive = detector(model=str(yolo), image_size=320)
    rows = primitive.compute(photos)
    assert max(len(row) for row in rows) > 0
    for image, row in zip(photos, rows, strict=True):
        assert row.dtype == DTYPE
        assert (np.diff(row["score"]) <= 0).all()
        assert ((row["score"] >= 0.25) & (row["score"] <= 1)).all()
        assert ((row["label"] >= 0) & (row["label"] < len(primitive.info["names"]))).all()
        assert ((row["fraction"] >= 0) & (row["fraction"] <= 1)).all()
        assert (row["fraction"][:, :2] <= row["fraction"][:, 2:]).all()
        size = np.array([image.width, image.height] * 2)
        assert row["box"] == pytest.approx(row["fraction"] * size, rel=1e-5, abs=1e-3)


@pytest.mark.slow
def test_options_matter(yolo: Path, astronaut: DecodedImage) -> None:
    few = detector(model=str(yolo), image_size=320, confidence=0.9)
    many = detector(model=str(yolo), image_size=320, confidence=0.01)
    assert len(few.compute([astronaut])[0]) <= len(many.compute([astronaut])[0])
    versions = {
        detector(model=str(yolo), **options).version
        for options in ({}, {"confidence": 0.9}, {"iou": 0.4}, {"image_size": 320})
    }
    assert len(versions) == 4


@pytest.mark.slow
def test_many_threads_ask_one_detector(yolo: Path, photos: list[DecodedImage]) -> None:
    primitive = detector(model=str(yolo), image_size=320)
    wanted = [row.tobytes() for row in primitive.compute(photos)]
    results: list[list[bytes]] = []
    threads = [
        threading.Thread(target=lambda: results.append([row.tobytes() for row in primitive.compute(photos)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [wanted] * 4


@pytest.mark.slow
def test_through_the_extractor(onnx: str, zidane: DecodedImage, cache: Cache) -> None:
    items = [
        Item("men", image=zidane.pixels),
        Item("red", image=Image.new("RGB", (64, 64), "red")),
        Item("t", text="x"),
    ]
    specs = {"detector": DetectorSpec(kind="detector", model=onnx)}
    for passes in (1, 0):
        extractor = Extractor.for_specs(specs, cache=cache)
        block = extractor.extract(items, ["detector"])["detector"]
        assert block.present.tolist() == [True, True, False]
        assert block.offsets is not None
        counts = np.diff(block.offsets).tolist()
        assert counts[0] >= 1
        assert counts[1:] == [0, 0]
        assert "FACE_MALE" in extractor.info("detector")["names"]
        assert extractor.counter.total == passes


# --- files that are not what was meant -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_pin_is_checked_before_loading(yolo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert file_sha256(yolo) in detector(model=str(yolo), sha256=file_sha256(yolo)).version
    monkeypatch.setattr(module, "_ultralytics", lambda: pytest.fail("the file was about to be loaded"))
    with pytest.raises(WeightsMismatch, match=file_sha256(yolo)):
        detector(model=str(yolo), sha256="0" * 64).setup()


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.slow
def test_a_pickle_is_not_run(tmp_path: Path, yolo: Path) -> None:
    import torch

    evil = tmp_path / "evil.pt"
    content = torch.load(yolo, weights_only=False)
    torch.save({**content, "extra": Evil(tmp_path / "pwned")}, evil)
    with pytest.raises(WeightsMismatch, match="pin its sha256"):
        detector(model=str(evil)).setup()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.slow
def test_a_damaged_file(tmp_path: Path, yolo: Path, onnx: str) -> None:
    for source in (yolo, Path(onnx)):
        damaged = tmp_path / f"damaged{source.suffix}"
        damaged.write_bytes(source.read_bytes()[:50_000])
        with pytest.raises(WeightsMismatch, match="damaged"):
            detector(model=str(damaged)).setup()


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("yolo11n", "MANYEYES_ALLOW_DOWNLOADS=1"),
        ("yolo11n.pt", "MANYEYES_ALLOW_DOWNLOADS=1"),
        ("/nowhere/yolo.pt", "/nowhere/yolo.pt"),
        ("some/model.engine", r"\.pt or \.onnx"),
    ],
)
def test_what_is_not_there(model: str, words: str) -> None:
    with pytest.raises(ModelNotFound, match=words):
        detector(model=model).setup()


@pytest.mark.slow
def test_a_name_is_found_among_the_operators_weights(manyeyes_home: Path, yolo: Path) -> None:
    (manyeyes_home / "weights").mkdir(parents=True)
    (manyeyes_home / "weights" / "mine.pt").write_bytes(yolo.read_bytes())
    assert detector(model="mine").version.split("/")[1] == file_sha256(yolo)


def test_the_starter_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own: dict[str, object] = {"confidence": 0.31}  # the usual one may have been loaded by another test
    monkeypatch.setattr(module, "STARTER_FILE", tmp_path / "detector.pt")
    with pytest.raises(ModelNotFound, match="starter"):
        detector(**own).setup()
    (tmp_path / "detector.pt").write_bytes(b"not what was trained")
    (tmp_path / "detector.json").write_text(json.dumps({"sha256": "0" * 64, "classes": ["cat", "dog"]}))
    assert detector(**own).info["names"] == ["cat", "dog"]
    with pytest.raises(WeightsMismatch, match="0" * 64):
        detector(**own).setup()


@pytest.mark.parametrize("options", [{"confidence": 0}, {"confidence": 1.1}, {"iou": 0}, {"image_size": 8}])
def test_options_have_bounds(options: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        DetectorSpec(kind="detector", **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_libraries_keep_to_themselves(manyeyes_home: Path, onnx: str, tmp_path: Path) -> None:
    """Nothing in the user's folder, no reports, no installation, in a process without any variables set."""
    program = (
        "import sys\n"
        "from manyeyes.primitives.detector import DetectorSpec, build\n"
        "build('d', DetectorSpec(kind='detector', model=sys.argv[1]))['d'].setup()\n"
        "from ultralytics import settings\n"
        "from ultralytics.utils import AUTOINSTALL, ONLINE, USER_CONFIG_DIR\n"
        "print(settings['sync'], AUTOINSTALL, ONLINE, USER_CONFIG_DIR)\n"
    )
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith(("YOLO_", "ORT_", "XDG_"))
    }
    (tmp_path / "user").mkdir()
    plain["HOME"] = str(tmp_path / "user")
    done = subprocess.run(
        [sys.executable, "-c", program, onnx],
        env=plain,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    said = done.stdout.strip().splitlines()[-1]
    assert said == f"False False False {manyeyes_home / 'ultralytics' / 'Ultralytics'}"
    assert [path for path in (tmp_path / "user").rglob("*") if path.is_file()] == []


def in_child(path: str) -> None:
    assert len(detector(model=path).compute([decode_image(Image.new("RGB", (64, 64)))])) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_process_gets_a_model_of_its_own(onnx: str) -> None:
    """The parent's engine has threads that the child lacks, so the child must not even destroy it."""
    in_child(onnx)
    time.sleep(1)  # until the engine's threads have gone to sleep: then its end would wait for them
    child = multiprocessing.get_context("fork").Process(target=in_child, args=(onnx,))
    child.start()
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.slow
def test_pillow_is_left_alone(yolo: Path) -> None:
    """Ultralytics would answer a file that is no image by installing a package."""
    from PIL import UnidentifiedImageError

    detector(model=str(yolo)).setup()
    assert Image.open.__module__ == "PIL.Image"
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"I am no image"))
    program = (
        "import ultralytics\n"
        "from manyeyes.errors import UnsupportedFormat\n"
        "from manyeyes.primitives.images import decode_image\n"
        "try:\n"
        "    decode_image(b'I am no image')\n"
        "except UnsupportedFormat:\n"
        "    print('told as it is')\n"
    )
    shield = "from manyeyes.models.torchvision_ops import ensure_torchvision\nensure_torchvision()\n"
    done = subprocess.run(
        [sys.executable, "-c", shield + program], check=True, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "told as it is"
