"""How GPUs are counted, dealt to processes and filled, without one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyeyes.primitives.devices import fitting_pack, gpu_of, n_gpus


@pytest.mark.parametrize(
    ("shown", "wanted"),
    [(None, 3), ("", 0), ("0", 1), ("1,2", 2), ("-1", 0), ("0,-1,1", 1), ("0,1,2,3,4", 3)],
)
def test_gpus_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str | None, wanted: int
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    assert n_gpus(tmp_path) == wanted
    assert n_gpus(tmp_path / "nowhere") == 0


def test_each_process_gets_one() -> None:
    assert [gpu_of(worker, 4) for worker in range(5)] == ["cuda:0", "cuda:1", "cuda:2", "cuda:3", "cuda:0"]
    with pytest.raises(ValueError, match="no GPU"):
        gpu_of(0, 0)


@given(free=st.integers(0, 2**40), each=st.integers(0, 2**34), most=st.integers(1, 4096))
def test_a_pass_fits(free: int, each: int, most: int) -> None:
    pack = fitting_pack(free, each, most=most)
    assert 1 <= pack <= most
    assert pack & (pack - 1) == 0
    assert pack == 1 or pack * each * 2 <= free
    assert pack * 2 > most or pack * 2 * max(each, 1) * 2 > free  # the next larger one would not
