"""Files that take their decoder down, as an unknown bug of one would have it: each costs an item, never the service."""

from __future__ import annotations

import base64
import io
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.attacks.conftest import Victim, children, picture


def decoders_of(victim: Victim) -> list[int]:
    """Return the processes that decode."""
    found = []
    for child in children(victim.pid):
        try:
            line = Path(f"/proc/{child}/cmdline").read_bytes()
        except OSError:
            continue
        if b"manyeyes.service.decoding" in line:
            found.append(child)
    return found


def large_pictures(n: int) -> list[str]:
    """Return different pictures, each of which takes a while to decode."""
    noise = np.random.default_rng(0).integers(0, 255, (700, 700, 3), dtype=np.uint8)
    made = []
    for k in range(n):
        stream = io.BytesIO()
        Image.fromarray(np.roll(noise, k)).save(stream, "JPEG", quality=90)
        made.append(base64.b64encode(stream.getvalue()).decode())
    return made


def test_images_are_decoded_elsewhere(victim: Victim) -> None:
    victim.label({"image": picture()})
    decoders = decoders_of(victim)
    assert decoders
    for decoder in decoders:
        assert Path(f"/proc/{decoder}/environ").read_bytes().count(b"MANYEYES") == 0
        descriptors = {os.readlink(one) for one in Path(f"/proc/{decoder}/fd").iterdir()}
        assert all(
            one == "/dev/null" or one.startswith(("socket:", "/memfd:manyeyes-decode")) for one in descriptors
        ), descriptors


@pytest.mark.slow
def test_decoders_that_crash_in_the_middle(victim: Victim) -> None:
    pictures = large_pictures(60)
    done = threading.Event()
    killed: list[int] = []

    def kill() -> None:
        while not done.wait(0.1):
            for decoder in decoders_of(victim):
                os.kill(decoder, signal.SIGSEGV)
                killed.append(decoder)

    # Eight crashes are what an attacker has in as many calls; each takes a quarter of a second to make good.
    with victim.costs_little(max_s=30), ThreadPoolExecutor(1) as pool:
        answered = pool.submit(victim.codes, *[{"image": one} for one in pictures])
        killer = threading.Thread(target=kill)
        killer.start()
        try:
            codes = answered.result(timeout=30)
        finally:
            done.set()
            killer.join()
    assert killed
    assert set(codes) <= {None, "undecodable_image", "primitive_failed"}
    assert victim.codes({"image": pictures[0]}, {"image": picture()}) == [None, None]
