"""``import manyeyes`` stays light: nobody waits for torch to read a label.

benchmarks/import_time.py prints the time.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {
    "cv2", "fastapi", "lmdb", "matplotlib", "onnxruntime", "open_clip", "pandas", "PIL", "pyarrow", "scipy", "skimage",
    "sklearn", "timm", "torch", "torchvision", "transformers", "ultralytics", "uvicorn",
}  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """Return the top-level modules in a fresh process after some code."""
    told = (
        f"{code}\nimport json, sys\nprint(json.dumps(sorted(set(n.partition('.')[0] for n in sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "code",
    [
        "import manyeyes",
        "from manyeyes import *",
        "from manyeyes import Client, AsyncClient",
        "from manyeyes import Recipe; Recipe.warm_start(['cat', 'dog'])",
        "import manyeyes.cli",
    ],
)
def test_no_model_library_is_loaded(code: str) -> None:
    assert loaded_by(code) & HEAVY == set()


def test_the_front_door_loads_neither_http_nor_validation() -> None:
    assert loaded_by("import manyeyes") & {"httpx", "pydantic", "typer", "rich", "yaml"} == set()


def test_it_takes_a_moment() -> None:
    """A ceiling far above the figure, for a busy machine: what it guards against costs seconds."""
    code = "import time; t = time.perf_counter(); import manyeyes; print(time.perf_counter() - t)"
    took_s = min(
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    )
    assert took_s < 2.0
