"""Memory that is kept between forward passes."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
from manyeyes.service.operations.allocator import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(3)
def work():
    for _ in range(20):
        np.ones(20 * 2**20 // 8)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_freed_memory_is_used_again_without_page_faults() -> None:
    faults = {}
    for how in ("kept", "as it is"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=False
        )
        if done.returncode == 3:
            pytest.skip("the allocator is not glibc's")
        assert done.returncode == 0, done.stderr
        faults[how] = int(done.stdout)
    assert faults["kept"] < 100
    assert faults["kept"] < faults["as it is"] or faults["as it is"] < 100
