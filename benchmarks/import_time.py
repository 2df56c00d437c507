"""How long `import manyeyes` takes in a new process, the best of several, beside the numpy that it stands on.

python -m benchmarks.import_time [--json] [--quick]
"""

from __future__ import annotations

import subprocess
import sys

from benchmarks.bars import arguments, at_most, show


def best_import_s(module: str, *, n_runs: int) -> tuple[float, bool]:
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
    """Print the figures; return 1 where one misses its goal."""
    options = arguments(__doc__).parse_args()
    n_runs = 3 if options.quick else 10
    ours, torch = best_import_s("manyeyes", n_runs=n_runs)
    numpy, _ = best_import_s("numpy", n_runs=n_runs)
    bars = [
        at_most("import manyeyes", ours, 0.3, unit="s", peer=f"import numpy alone: {numpy:.3f} s"),
        at_most("import manyeyes: torch loaded", torch, 0),
    ]
    return show("The front door", bars, as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
