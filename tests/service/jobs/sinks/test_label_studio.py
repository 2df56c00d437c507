"""A real Label Studio imports the tasks, and its SDK finds nothing wrong with the predictions."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from manyeyes.service.jobs.sinks.export import export
from tests.service.jobs.sinks.conftest import Made
from tests.service.label_studio.conftest import LabelStudio, label_studio

__all__ = ["label_studio"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

VALIDATE = """
import json, sys
from label_studio_sdk.label_interface import LabelInterface
told = json.load(sys.stdin)
interface = LabelInterface(told["config"])
interface.validate()
predictions = [one for task in told["tasks"] for one in task["predictions"]]
wrong = [interface.validate_prediction(one, return_errors=True) for one in predictions]
wrong += [[] if interface.validate_task({"data": task["data"]}) else ["task"] for task in told["tasks"]]
print(json.dumps(wrong))
"""


@pytest.mark.parametrize("kind", ["labels", "boxes"])
def test_tasks_are_imported_with_their_predictions(
    label_studio: LabelStudio, paint: Made, boxed: Made, tmp_path: Path, kind: str
) -> None:
    made = paint if kind == "labels" else boxed
    out = tmp_path / "tasks"
    report = export(made, str(out), format="labelstudio", options={"shard_rows": 8, "abstained": True})
    files = sorted(out.glob("tasks-*.json"))
    parts = [json.loads(path.read_text("utf-8")) for path in files]
    assert sum(map(len, parts)) == report.rows and all(len(part) <= 8 for part in parts)
    config = (out / "config.xml").read_text("utf-8")
    tasks: list[dict[str, Any]] = [task for part in parts for task in part]
    done = subprocess.run(
        [label_studio.python, "-c", VALIDATE],
        input=json.dumps({"config": config, "tasks": tasks}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [wrong for wrong in json.loads(done.stdout) if wrong] == []
    with label_studio.http as http:
        answer = http.post("/api/projects", json={"title": kind, "label_config": config})
        assert answer.status_code == 201, answer.text
        number = answer.json()["id"]
        for path in files:
            with path.open("rb") as stream:
                answer = http.post(
                    f"/api/projects/{number}/import",
                    files={"file": (path.name, stream, "application/json")},
                )
            assert answer.status_code == 201, answer.text
        listed = http.get(f"/api/tasks?project={number}&page_size=100&fields=all").json()["tasks"]
        stored = http.get(f"/api/predictions?project={number}").json()
    assert len(listed) == len(stored) == report.rows
    by_task = {one["task"]: one for one in stored}
    wanted = {row.id: label for row, label in made.given}
    n_boxes = 0
    for task in listed:
        label, prediction = wanted[task["data"]["id"]], by_task[task["id"]]
        assert prediction["score"] == pytest.approx(label.confidence, abs=1e-6)
        assert prediction["model_version"].startswith(made.recipe.name)
        chosen = [one["value"]["choices"] for one in prediction["result"] if one["type"] == "choices"]
        assert chosen == ([[label.label]] if label.label else [])
        n_boxes += sum(one["type"] == "rectanglelabels" for one in prediction["result"])
        if task["data"]["image"]:
            place = task["data"]["image"].removeprefix("/data/local-files/?d=tasks/")
            assert (out / place).is_file()
    assert n_boxes == report.boxes
