"""Text in images, read by the real models."""

from __future__ import annotations

import socket
import subprocess
import sys
from importlib import metadata
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydantic import ValidationError

from manyeyes.errors import MissingDependency, ModelNotFound, WeightsMismatch
from manyeyes.labeler import Labeler, extractor_for
from manyeyes.models.weights import file_sha256
from manyeyes.primitives import ocr_models
from manyeyes.primitives.base import Rows
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.images import decode_image
from manyeyes.primitives.lines import joined
from manyeyes.primitives.ocr import DTYPE, KIND, Ocr, OcrSpec
from manyeyes.recipe import Recipe
from manyeyes.types import Item

SLOW = pytest.mark.slow


def page(*lines: str, size: tuple[int, int] = (420, 200), at: int = 20, ground: str = "white") -> Image.Image:
    image = Image.new("RGB", size, ground)
    font = ImageFont.load_default(size=20)
    for i, line in enumerate(lines):
        ImageDraw.Draw(image).text((at, 20 + 50 * i), line, fill="black", font=font)
    return image


def read(*images: Image.Image, **options: Any) -> list[Rows]:
    primitive = KIND.build("ocr", OcrSpec(kind="ocr", **options))["ocr"]
    primitive.setup()
    return list(primitive.compute([decode_image(image) for image in images]))


@SLOW
def test_lines_stand_in_order_with_their_boxes() -> None:
    (rows,) = read(page("Summer sale", "invoice 4711", "fragile: glass"))
    assert joined(rows) == ["Summer sale", "invoice 4711", "fragile: glass"]
    assert rows.dtype == DTYPE and (rows["score"] > 0.8).all()
    x0, y0, x1, y1 = rows["box"][1]
    assert 10 < x0 < 30 and 60 < y0 < 80 and 100 < x1 < 220 and 85 < y1 < 110
    assert rows["fraction"] == pytest.approx(rows["box"] / [420, 200, 420, 200])


@SLOW
def test_boxes_are_told_in_pixels_of_the_image_as_it_is() -> None:
    small, large = page("Summer sale"), page("Summer sale").resize((1680, 800))
    (a,), (b,) = read(small, max_side=400), read(large, max_side=800)
    assert joined(a) == joined(b) == ["Summer sale"]
    assert b["box"] == pytest.approx(4 * a["box"], abs=25)
    assert b["fraction"] == pytest.approx(a["fraction"], abs=0.03)


@SLOW
def test_a_line_is_of_any_length() -> None:
    written = "the quick brown fox jumps over the lazy dog while six big wizards make toxic brew"
    (rows,) = read(page(written, size=(1_000, 80)))
    assert joined(rows) == [written]
    assert len(rows) == 2 and (rows["line"] == 0).all() and rows["score"][0] == rows["score"][1]


@SLOW
def test_nothing_written_nothing_read() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    for rows in read(page(), Image.new("RGB", (1, 1)), Image.new("RGB", (700, 3)), noise):
        assert len(rows) == 0 and rows.dtype == DTYPE


@SLOW
def test_lines_that_are_not_sure_enough_are_left_out() -> None:
    blurred = page("Summer sale").resize((60, 28)).resize((420, 200))
    ((all_of_them,), (sure,)) = read(blurred, min_score=0.0), read(blurred, min_score=0.999)
    assert len(sure) <= len(all_of_them) and (sure["score"] >= 0.999).all()


@SLOW
def test_upside_down_and_photographed(astronaut: Any) -> None:
    (turned,) = read(page("Summer sale today").rotate(180))
    assert joined(turned) == ["Summer sale today"]
    photo = astronaut.pixels.copy()
    ImageDraw.Draw(photo).text((250, 300), "cotton", fill="white", font=ImageFont.load_default(size=24))
    assert "cotton" in "\n".join(joined(read(photo)[0])).lower()


@SLOW
def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("something wants to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    reader = ocr_models.load_reader(min_side=300)
    assert [line.text for line in reader(np.asarray(page("Summer sale")))] == ["Summer sale"]


@SLOW
def test_it_says_nothing_and_keeps_to_one_core_an_image(capfd: pytest.CaptureFixture[str]) -> None:
    program = (
        "import gc, numpy as np\n"
        "from manyeyes.primitives.ocr_models import load_reader\n"
        "read = load_reader(min_side=300)\n"
        "read(np.full((90, 90, 3), 255, np.uint8))\n"
        "from rapidocr.inference_engine.onnxruntime import OrtInferSession\n"
        "sessions = [o.session for o in gc.get_objects() if isinstance(o, OrtInferSession)]\n"
        "assert sessions\n"
        "assert all(s.get_session_options().intra_op_num_threads == 1 for s in sessions)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    assert capfd.readouterr() == ("", "")


@SLOW
def test_labeling_functions_read_it_and_an_edit_runs_no_model(cache: Cache) -> None:
    def recipe_of(*lfs: dict[str, Any]) -> Recipe:
        named = [{"name": f"lf{i}", **lf} for i, lf in enumerate(lfs)]
        return Recipe.parse({"name": "r", "classes": ["offer", "warning"], "lfs": named})

    items = [
        Item("sale", image=page("red sale")),
        Item("danger", image=page("DANGER", "high voltage")),
        Item("blank", image=page()),
        Item("no image", text="sale danger red"),
    ]
    recipe = recipe_of(
        {"kind": "keyword", "on": "ocr", "any": "sale", "vote": "offer"},
        {"kind": "regex", "on": "ocr", "pattern": "high.voltage|dang", "vote": "warning"},
        {"kind": "keyword", "on": "ocr", "none": "danger", "vote": "offer"},
        {"kind": "dictionary", "on": "ocr", "words": {"warning": ["high voltage"], "offer": ["sale"]}},
        {
            "kind": "prompt",
            "on": "ocr",
            "using": "toy",
            "prompts": {"offer": "red", "warning": "blue"},
            "threshold": 0.9,
        },
        {"kind": "metadata", "using": ["text_facts@ocr"], "when": "capitals > 0.3", "vote": "warning"},
    )
    labeler = Labeler(recipe, extractor=extractor_for(recipe, cache=cache))
    votes, errors, _ = labeler.votes(items)
    assert not errors
    assert votes.classes.tolist() == [
        [0, -1, 0, 0, 0, -1],
        [-1, 1, -1, 1, -1, 1],
        [-1, -1, 0, -1, -1, -1],
        [-1, -1, -1, -1, -1, -1],
    ]
    assert labeler.counter.passes["ocr"] > 0
    edited = recipe_of({"kind": "keyword", "on": "ocr", "any": "voltage", "vote": "warning"})
    again = Labeler(edited, extractor=extractor_for(edited, cache=cache))
    assert again.votes(items)[0].classes[:, 0].tolist() == [-1, 1, -1, -1]
    assert again.counter.total == 0


def test_the_version_is_known_without_loading_anything() -> None:
    program = (
        "import sys\n"
        "from manyeyes.primitives.ocr import KIND, OcrSpec\n"
        "print(KIND.build('ocr', OcrSpec(kind='ocr'))['ocr'].version)\n"
        "assert not {'rapidocr', 'onnxruntime', 'cv2'} & set(sys.modules)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, timeout=60, capture_output=True, text=True
    )
    assert told.stdout.startswith(f"ocr/rapidocr {metadata.version('rapidocr')}/")


def test_versions_follow_what_changes_the_lines() -> None:
    options = [{}, {"min_score": 0.4}, {"max_side": 1000}, {"min_side": 700}]
    assert len({Ocr("ocr", OcrSpec(kind="ocr", **some)).version for some in options}) == 4  # type: ignore[arg-type]


def test_a_pinned_recogniser() -> None:
    digest = file_sha256(ocr_models.model_files()["Rec"])
    assert Ocr("ocr", OcrSpec(kind="ocr", sha256=digest)).version
    with pytest.raises(WeightsMismatch, match="pins"):
        _ = Ocr("ocr", OcrSpec(kind="ocr", sha256="0" * 64)).version


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(_: str) -> Any:
        raise metadata.PackageNotFoundError

    ocr_models.model_files.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(ocr_models.metadata, "files", nothing)
        with pytest.raises(MissingDependency, match=r"manyeyes\[ocr\]"):
            ocr_models.model_files()
        patched.setattr(ocr_models.metadata, "files", lambda _: [])
        with pytest.raises(ModelNotFound, match="carries no models for Det and Cls and Rec"):
            ocr_models.model_files()
    ocr_models.model_files.cache_clear()


@pytest.mark.parametrize(
    "options", [{"model": "tesseract"}, {"min_score": 2}, {"max_side": 10}, {"min_side": 9_999}]
)
def test_what_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OcrSpec(kind="ocr", **options)
