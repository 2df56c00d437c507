"""The examples in docs/service.md, run as they stand against a service that was started as it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from manyeyes.service.schemas.labels import LabelAnswer
from manyeyes.service.settings import ENV_PREFIX, ServiceSettings


def _blocks(root: Path, language: str) -> list[str]:
    text = (root / "docs" / "service.md").read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def documented(
    root: Path, working_directory: Path, serving: Callable[[ServiceSettings], Any]
) -> Iterator[Callable[[str], str]]:
    """Return what puts the running service's address into an example; the files that the page speaks of are here."""
    (working_directory / "recipes").mkdir()
    (working_directory / "recipes" / "paint.yaml").write_text(_blocks(root, "yaml")[0])
    for colour in ("red", "blue"):
        Image.new("RGB", (8, 8), colour).save(f"{colour}.png")
    with serving(ServiceSettings(recipes_dir=Path("recipes"))) as url:
        yield lambda text: text.replace("http://127.0.0.1:8000", url)


def test_the_curl_examples(root: Path, documented: Callable[[str], str]) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed here, and the examples are for curl")
    examples = _blocks(root, "bash")
    assert len(examples) == 3
    labels = []
    for example in examples:
        done = subprocess.run(
            ["bash", "-c", documented(example)], capture_output=True, text=True, timeout=60, check=True
        )
        told = json.loads(done.stdout)
        LabelAnswer.model_validate(told)
        labels.append([(row["id"], row["label"]) for row in told["labels"]])
    assert labels == [
        [("coat", "blue"), ("vase", "red")],
        [("red.png", "red")],
        [("r", "red"), ("b", None)],
    ]


def test_the_python_examples(
    root: Path, documented: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    examples = _blocks(root, "python")
    assert len(examples) == 4
    for example in examples:
        exec(compile(documented(example), "docs/service.md", "exec"), {"__name__": "example"})
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == ["coat labeled blue", "red.png abstained None", "item-2 labeled red"]
    assert told[4] == "['red', 'blue']"
    assert Path("recipes/paint.label_model/label_model.json").is_file()


def test_the_answer_that_is_shown_has_the_shape_that_is_promised(root: Path) -> None:
    (answer,) = _blocks(root, "json")
    LabelAnswer.model_validate_json(answer)


def test_every_setting_is_listed(root: Path) -> None:
    text = (root / "docs" / "service.md").read_text("utf-8")
    for name in ServiceSettings.model_fields:
        assert f"`{ENV_PREFIX}{name.upper()}`" in text
