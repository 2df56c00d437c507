"""The examples in docs/models_http.md and docs/label_studio.md, run as they stand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from manyeyes import Item
from manyeyes.search import Finder
from manyeyes.service.intake.label_config import read_label_config
from manyeyes.service.schemas.features import DetectAnswer, EmbedAnswer
from manyeyes.service.schemas.label_studio import BackendPredictions
from manyeyes.service.schemas.search import SearchAnswer
from manyeyes.service.settings import ServiceSettings

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the examples are for curl")
KEY = "the-key-of-the-service"


def blocks(root: Path, page: str, language: str) -> list[str]:
    text = (root / "docs" / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def run(example: str, url: str) -> Any:
    done = subprocess.run(
        ["bash", "-c", example.replace("http://127.0.0.1:8000", url)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env=os.environ | {"MANYEYES_KEY": KEY},
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_models_over_http(
    root: Path,
    working_directory: Path,
    serving: Callable[[ServiceSettings], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(f"{colour}.png")
    finder = Finder()
    photos = [Item(f"{colour}.png", image=f"{colour}.png") for colour in ("red", "blue")]
    finder.index(photos).save(working_directory / "indexes" / "photos")
    page = "models_http.md"
    with serving(ServiceSettings(indexes_dir=Path("indexes"), store_url="none")) as url:
        one, form, boxes, search = (run(example, url) for example in blocks(root, page, "bash"))
        (example,) = blocks(root, page, "python")
        exec(compile(example.replace("http://127.0.0.1:8000", url), page, "exec"), {"__name__": "example"})
    assert [row.status for row in EmbedAnswer.model_validate(one).embeddings] == ["embedded", "error"]
    assert [row.id for row in EmbedAnswer.model_validate(form).embeddings] == ["red.png", "blue.png"]
    assert DetectAnswer.model_validate(boxes).detections[0].status == "looked"
    assert SearchAnswer.model_validate(search).results[0].matches[0].id in ("red.png", "blue.png")
    told = capsys.readouterr().out.splitlines()
    assert told == ["2 384", "['clip', 'text', 'detector', 'toy']"]


def test_label_studio(root: Path, working_directory: Path, serving: Callable[[ServiceSettings], Any]) -> None:
    page = "label_studio.md"
    Path("recipes").mkdir()
    Path("recipes/paint.yaml").write_text(blocks(root, page, "yaml")[0])
    with serving(ServiceSettings(recipes_dir=Path("recipes"), api_keys=KEY, store_url="none")) as url:
        refused, predicted = (run(example, url) for example in blocks(root, page, "bash"))
    assert refused["status"] == 422
    assert "no choice for 'blue'" in refused["detail"]
    (shown,) = blocks(root, page, "json")
    expected = BackendPredictions.model_validate_json(shown)
    answer = BackendPredictions.model_validate(predicted)
    for made, told in zip(answer.results, expected.results, strict=True):
        assert [one.value for one in made.result or ()] == [one.value for one in told.result or ()]
        assert made.score == pytest.approx(told.score, abs=0.21)
    (config,) = blocks(root, page, "xml")
    read = read_label_config(config)
    assert dict(read.fields) == {"image": "image", "text": "title"}
    assert [one.kind for one in read.controls] == ["choices", "rectanglelabels"]
    assert read.controls[0].match(["red", "blue"]) == {"red": "Red", "blue": "blue"}
