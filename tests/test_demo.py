"""The demo's bar: the photographs that two packages ship are labeled right with the starter models, with no hub."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from manyeyes.cli import app
from manyeyes.recipe import Recipe
from manyeyes.sinks import read_labels


def test_the_recipe_mixes_what_the_demo_says_it_mixes(root: Path) -> None:
    recipe = Recipe.load(root / "examples" / "demo.yaml")
    assert len(recipe.classes) >= 5
    assert {lf.kind for lf in recipe.lfs} >= {"prompt", "detect", "keyword", "metadata"}
    assert all(getattr(lf, "on", "") != "filename" for lf in recipe.lfs), (
        "a file's name would give the answer away"
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_enough_photographs_are_right_and_none_is_surely_wrong(root: Path, tmp_path: Path) -> None:
    demo = [sys.executable, str(root / "examples" / "demo.py")]
    subprocess.run([*demo, "gather", tmp_path], check=True)
    assert len(list((tmp_path / "photos").iterdir())) >= 12
    out, report = tmp_path / "labels.parquet", tmp_path / "report.html"
    arguments = ["label", tmp_path / "photos", tmp_path / "texts.csv", "--out", out, "--report", report]
    arguments += ["--recipe", root / "examples" / "demo.yaml"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "Using the starter clip and detector" in result.stderr
    assert all(label.status != "error" for label in read_labels(out))
    score = subprocess.run(
        [*demo, "score", out, root / "examples" / "demo_gold.csv"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert score.returncode == 0, score.stdout


def test_the_score_counts_what_is_wrong_and_sure(root: Path, tmp_path: Path) -> None:
    rows = ["id,label", *(f"photos/{i}.png,cat" for i in range(10))]
    (tmp_path / "gold.csv").write_text("\n".join(rows) + "\n")
    labels = [
        f'{{"id": "photos/{i}.png", "status": "labeled", "label": "cat", "confidence": 0.8' for i in range(10)
    ]
    labels[3] = labels[3].replace('"cat"', '"dog"')
    made_by = '"versions": {"recipe": "", "primitives": {}, "label_model": ""}}'
    rest = ', "probs": {}, "runner_up": null, "prior": 0, "reasons": [], ' + made_by

    def score() -> subprocess.CompletedProcess[str]:
        (tmp_path / "l.jsonl").write_text("\n".join(label + rest for label in labels) + "\n")
        command = [
            sys.executable,
            root / "examples" / "demo.py",
            "score",
            tmp_path / "l.jsonl",
            tmp_path / "gold.csv",
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    found = score()
    assert found.returncode == 0
    assert "9 of 10 photographs right" in found.stdout
    assert "photos/3.png: dog at 80%, expected cat" in found.stdout
    labels[3] = labels[3].replace("0.8", "0.95")
    assert score().returncode == 1
    labels[3] = labels[3].replace("0.95", "0.5")
    for i in (4, 5):
        labels[i] = labels[i].replace('"cat"', '"dog"')
    assert score().returncode == 1
