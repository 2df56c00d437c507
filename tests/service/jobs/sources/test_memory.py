"""Memory does not grow with what is listed; ``benchmarks/batch_listing.py`` measures it up to a million rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.batch_listing import lay, many_keys, measured

SMALL, LARGE = 10_000, 150_000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bucket", "jsonl", "update"])
def test_memory_stays_flat(kind: str, tmp_path: Path) -> None:
    peaks = []
    for n_rows in (SMALL, LARGE):
        lay(kind, n_rows, str(tmp_path))
        with many_keys(n_rows) as address:
            peaks.append(measured(kind, n_rows, str(tmp_path), address)["peak"])
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < 200 * 2**20
