"""The examples of "Over HTTP" in docs/jobs.md, run as they stand, and its words held to what is so."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from manyeyes.service.app import create_app
from manyeyes.service.jobs.serving import claimed
from manyeyes.service.routes import job_events
from manyeyes.service.schemas.jobs import JobCall, JobLabels, JobLog, JobOut, JobState
from manyeyes.service.settings import ServiceSettings
from tests.service.jobs.over_http.conftest import PAINT, photo


@pytest.fixture
def section(root: Path) -> str:
    text = (root / "docs" / "jobs.md").read_text("utf-8").partition("\n## Over HTTP\n")[2]
    return text.partition("\n## ")[0]


@pytest.mark.slow
def test_the_examples_follow_one_another(
    section: str, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    serving: Callable[[ServiceSettings], AbstractContextManager[str]],
) -> None:  # fmt: skip
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed here, and the examples are for curl")
    monkeypatch.setenv("JOBS_KEY_ID", "an-id")
    monkeypatch.setenv("JOBS_SECRET", "a-secret-of-buckets")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", section, flags=re.M | re.S)
    buckets = {
        name: told | {"endpoint": s3.meta.endpoint_url} for name, told in yaml.safe_load(shown).items()
    }
    (tmp_path / "buckets.yaml").write_text(yaml.safe_dump(buckets))
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "paint.yaml").write_text(json.dumps(PAINT))
    for colour in ("red", "blue", "green"):
        s3.put_object(Bucket="photos", Key=f"2026/{colour}.png", Body=photo(colour))
        s3.put_object(Bucket="photos", Key=f"2026/{colour}.txt", Body=f"a {colour} wall".encode())
    settings = ServiceSettings(
        recipes_dir=tmp_path / "recipes",
        store_url=f"sqlite:///{tmp_path}/service.db",
        buckets_file=tmp_path / "buckets.yaml",
    )
    (example,) = re.findall(r"^```bash\n(.*?)^```$", section, flags=re.M | re.S)
    with serving(settings) as url:
        script = "set -e\n" + example.replace("http://127.0.0.1:8000", url)
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=True)
    stream, _, rest = done.stdout.rpartition("\n\n")
    assert "event: end\ndata: " in stream
    answers, rest = [], rest.strip()
    while rest:
        told, end = json.JSONDecoder().raw_decode(rest)
        answers.append(told)
        rest = rest[end:].strip()
    job, labels, log = answers
    assert JobOut.model_validate(job).status == "completed"
    assert job["metadata"] == {"team": "catalogue"}
    assert [row["label"] for row in JobLabels.model_validate(labels).data and labels["data"]] == [
        "blue",
        None,
    ]
    assert labels["has_more"]
    assert JobLog.model_validate(log).data[-1].message == "the job is completed"


def test_what_it_says_is_so(section: str) -> None:
    app = create_app(ServiceSettings())
    listed = set(re.findall(r"^\| `([A-Z]+) (/v1/jobs[^`]*)` \| (\w+) \|", section, flags=re.M))
    described = app.openapi()["paths"]
    known = {
        (method.upper(), path.replace("{job_id}", "{id}"))
        for path, operations in described.items()
        if path.startswith("/v1/jobs")
        for method in operations
    }
    assert {(method, path) for method, path, _ in listed} == known
    for name in JobCall.model_fields:
        assert f"`{name}`" in section or f'"{name}"' in section, name
    for status in JobState.__args__:  # type: ignore[attr-defined]
        assert f"`{status}`" in section
    assert f"Comments every {job_events.HEARTBEAT_S:.0f} seconds" in section
    assert f"after {job_events.MAX_STREAM_S / 60:.0f} minutes" in section
    assert claimed.MAX_CRASHES == 5 and "after five deaths" in section
