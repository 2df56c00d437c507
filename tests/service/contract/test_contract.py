"""Whatever is sent, by anybody: every answer is one of those that the description names."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from manyeyes.service.settings import ServiceSettings

HERE = Path(__file__).parent


def run(
    url: str,
    folder: Path,
    *arguments: str,
    headers: Mapping[str, str] | None = None,
    max_examples: int,
    phases: str = "examples,coverage,fuzzing,stateful",
) -> str:
    """Run schemathesis with all of its checks; return what it says."""
    brought = [part for name, value in (headers or {}).items() for part in ("-H", f"{name}: {value}")]
    done = subprocess.run(
        [
            *(str(Path(sys.executable).with_name("schemathesis")), *arguments),
            *("run", f"{url}/openapi.json", "--checks", "all", "--seed", "1", "--no-color"),
            # The first call that needs a model waits for it. One worker: hypothesis cannot parse on two threads.
            *("--workers", "1", "--request-timeout", "120", "--max-response-time", "60"),
            *("--continue-on-failure", "--generation-database", "none", "--phases", phases),
            *("--max-examples", str(max_examples), *brought),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"NO_PROXY": "127.0.0.1", "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)},
    )
    assert done.returncode == 0, done.stdout[-12_000:] + done.stderr[-2_000:]
    return done.stdout


def counted(told: str) -> tuple[int, int]:
    """Return how many operations were tested, and how many calls were made."""
    operations, calls = re.search(r"Tested: (\d+)", told), re.search(r"(\d+) generated", told)
    assert operations is not None
    assert calls is not None
    return int(operations[1]), int(calls[1])


@pytest.mark.slow
@pytest.mark.parametrize("with_keys", [True, False])
def test_whatever_is_sent_the_answer_is_one_of_those_described(
    with_keys: bool,
    settings_of: Callable[..., ServiceSettings],
    serving: Callable[[ServiceSettings], Any],
    key: str,
    tmp_path: Path,
) -> None:
    with serving(settings_of(**({"api_keys": key} if with_keys else {}))) as url:
        told = run(
            url,
            tmp_path,
            *("--config-file", str(HERE / "schemathesis.toml")),
            headers={"Authorization": f"Bearer {key}"} if with_keys else {},
            max_examples=12 if with_keys else 4,
        )
        description = httpx.get(f"{url}/openapi.json", headers={"X-Api-Key": key}, trust_env=False).json()
    n_operations = sum(len(operations) for operations in description["paths"].values())
    operations, calls = counted(told)
    assert operations == n_operations >= 40
    assert calls > 30 * n_operations


@pytest.mark.slow
def test_the_examples_of_the_description_are_accepted(
    settings_of: Callable[..., ServiceSettings], serving: Callable[[ServiceSettings], Any], tmp_path: Path
) -> None:
    with serving(settings_of()) as url:
        told = run(url, tmp_path, max_examples=1, phases="examples")
    assert counted(told)[1] >= 10
