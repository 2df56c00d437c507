"""The examples of docs/api.md, run as they stand, one after the other, against a service started as it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manyeyes.service.settings import ServiceSettings


def test_the_examples_follow_one_another(
    root: Path, working_directory: Path, serving: Callable[[ServiceSettings], Any]
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed here, and the examples are for curl")
    text = (root / "docs" / "api.md").read_text("utf-8")
    examples = re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    settings = ServiceSettings(
        api_keys="the-operators-own-key", store_url=f"sqlite:///{working_directory}/service.db"
    )
    with serving(settings) as url:
        # Each answer ends where the next one begins.
        script = "set -e\n" + "\n".join(examples).replace("http://127.0.0.1:8000", url)
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=True)
    answers, rest = [], done.stdout
    while rest := rest.strip():
        told, end = json.JSONDecoder().raw_decode(rest)
        answers.append(told)
        rest = rest[end:]
    assert not [told for told in answers if "status" in told], "no answer is a problem document"
    key, first, second, diff, active, labels, explained, compared, model, once, again, audit = answers
    assert key["secret"].startswith("me_")
    assert (first["number"], second["number"], active["number"]) == (1, 2, 2)
    assert diff["lfs"]["changed"][0]["name"] == "says_red"
    assert [row["label"] for row in labels["data"]] == ["blue", "red"]
    assert explained["top"] == "red"
    assert len(compared["label_models"]) == 2
    assert model["is_active"]
    assert once == again
    assert {line["action"] for line in audit["data"]} == {"recipe.create", "recipe.activate"}
