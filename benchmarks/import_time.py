"""How long ``import manyeyes`` takes in a new process: the best of several, and what of it is numpy.

python benchmarks/import_time.py [--json] [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

GOAL_S = 0.3


def best_import_s(module: str, n_runs: int) -> tuple[float, bool]:
    """Return the best time in seconds to import a module in a new process, and whether torch came with it."""
    code = (
        f"import time; t = time.perf_counter(); import {module}; t = time.perf_counter() - t\n"
        "import sys; print(t, 'torch' in sys.modules)"
    )
    best, torch = float("inf"), False
    for _ in range(n_runs):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        took, with_torch = done.stdout.split()
        best, torch = min(best, float(took)), torch or with_torch == "True"
    return best, torch


def main() -> int:
    """Print the figure, and return 1 where it misses its goal."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one line a bar, as JSON")
    parser.add_argument("--quick", action="store_true", help="3 runs instead of 10")
    options = parser.parse_args()
    n_runs = 3 if options.quick else 10
    ours, torch = best_import_s("manyeyes", n_runs)
    numpy, _ = best_import_s("numpy", n_runs)
    met = ours < GOAL_S and not torch
    if options.json:
        bar = {"bar": "import manyeyes", "figure": round(ours, 4), "goal": GOAL_S, "met": met}
        print(json.dumps(bar | {"peer": {"import numpy": round(numpy, 4)}, "unit": "s"}))
    else:
        print(f"import manyeyes   {ours:6.3f} s   goal < {GOAL_S} s   {'met' if met else 'MISSED'}")
        print(f"import numpy      {numpy:6.3f} s   a part of it")
        print(f"torch loaded      {torch}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
