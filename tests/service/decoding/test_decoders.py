"""Decoding in processes of their own: the same pixels, and whatever a file does there, it is one item's error."""

from __future__ import annotations

import gc
import io
import os
import signal
import struct
import subprocess
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from manyeyes.errors import ImageTooLarge, ItemError, UndecodableImage, UnsupportedFormat
from manyeyes.primitives.base import DecodedImage
from manyeyes.primitives.images import decode_image
from manyeyes.service.decoding.decoders import Decoders, Proportionate, decoder_for
from manyeyes.service.settings import ServiceSettings
from manyeyes.settings import Limits

LIMITS = Limits(max_pixels=30_000_000)


def make(module: str = "manyeyes.service.decoding.process", n: int = 1, timeout_s: float = 10.0) -> Decoders:
    return Decoders(n_processes=n, memory_bytes=2**30, timeout_s=timeout_s, limits=LIMITS, module=module)


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    made = make()
    yield made
    made.close()


@pytest.fixture(scope="module")
def hostile() -> Iterator[Decoders]:
    made = make("tests.service.decoding.hostile", timeout_s=0.6)
    yield made
    made.close()


def image(kind: str, mode: str = "RGB", size: tuple[int, int] = (61, 47), **options: object) -> bytes:
    rng = np.random.default_rng(sum(size))
    bands = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4, "LA": 2, "P": 1, "1": 1, "I;16": 2}[mode]
    pixels = rng.integers(0, 255, (size[1], size[0] * bands), dtype=np.uint8)
    made = Image.new(mode, size) if mode == "1" else Image.frombytes(mode, size, pixels.tobytes())
    if mode == "P":
        made.putpalette(rng.integers(0, 255, 768, dtype=np.uint8).tobytes())
    stream = io.BytesIO()
    made.save(stream, kind, **options)  # type: ignore[arg-type]
    return stream.getvalue()


def outcome(decode: Callable[..., DecodedImage], data: bytes, least_side: int | None = None) -> object:
    try:
        with warnings.catch_warnings():
            # As in the service; here they would be errors, and only in this process.
            warnings.simplefilter("ignore", UserWarning)
            made = decode(data, LIMITS, least_side=least_side)
    except ItemError as error:
        return type(error), str(error)
    pixels = made.pixels
    return pixels.mode, pixels.size, pixels.tobytes(), made.width, made.height, made.format, dict(made.exif)


def exif() -> Image.Exif:
    made = Image.Exif()
    made[0x0112], made[0x010F], made[0x0132] = 6, "Ünïcode\0x", "2024:01:02 03:04:05"
    made.get_ifd(0x8769)[0x829A] = 0.004
    made.get_ifd(0x8825).update({1: "N", 2: (52.0, 30.0, 1.5), 3: "E", 4: (13.0, 24.0, 0.0)})
    return made


FILES = {
    **{f"jpeg {mode}": image("JPEG", mode) for mode in ("L", "RGB", "CMYK")},
    "jpeg large": image("JPEG", size=(1600, 1200), quality=90),
    "jpeg exif": image("JPEG", exif=exif()),
    "jpeg progressive": image("JPEG", progressive=True),
    "jpeg cut": image("JPEG")[:-40],
    **{f"png {mode}": image("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")},
    "png transparent": image("PNG", "P", transparency=3),
    "png exif": image("PNG", exif=exif()),
    "png cut": image("PNG")[:-30],
    **{f"webp {mode}": image("WEBP", mode) for mode in ("RGB", "RGBA")},
    "webp lossless": image("WEBP", lossless=True, exif=exif()),
    "gif": image("GIF", "P"),
    "gif animated": image("GIF", "P", save_all=True, append_images=[Image.new("P", (61, 47))]),
    "bmp": image("BMP"),
    **{
        f"tiff {how}": image("TIFF", compression=how)
        for how in ("raw", "tiff_lzw", "tiff_deflate", "jpeg", "packbits")
    },
    "tiff exif": image("TIFF", exif=exif()),
    "tiff i16": image("TIFF", "I;16"),
    "too large": b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + struct.pack(">IIBBBBB", 9999, 9999, 8, 2, 0, 0, 0)
    + struct.pack(">I", zlib.crc32(b"IHDR" + struct.pack(">IIBBBBB", 9999, 9999, 8, 2, 0, 0, 0))),
    "no image": b"<svg/>",
    "damaged": b"\x89PNG\r\n\x1a\nxxxx",
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("least_side", [None, 16, 224])
@pytest.mark.parametrize("name", FILES)
def test_what_comes_out_is_the_same_bit_for_bit(
    decoders: Decoders, name: str, least_side: int | None
) -> None:
    assert outcome(decoders, FILES[name], least_side) == outcome(decode_image, FILES[name], least_side)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_told_in_the_same_words(decoders: Decoders, data: st.DataObject) -> None:
    file = bytearray(FILES[data.draw(st.sampled_from(sorted(FILES)))] or b"x")
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    assert outcome(decoders, bytes(file)) == outcome(decode_image, bytes(file))


def test_large_images_come_in_pieces_and_their_memory_goes_back(decoders: Decoders) -> None:
    data = image("PNG", "L", size=(6000, 4500))
    assert outcome(decoders, data) == outcome(decode_image, data)
    gc.collect()
    before = shared_bytes()
    assert outcome(decoders, FILES["jpeg large"]) == outcome(decode_image, FILES["jpeg large"])
    assert before < 40 * 2**20


def shared_bytes() -> int:
    """Return how much memory this process shares with others, in bytes."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssShmem"))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"crash", "signal 11"),
        (b"loop", ""),  # its time of computing ends, or that on the clock
        (b"sleep", "did not come to an end"),
        (b"memory", ""),
        (b"exit", "status 3"),
        (b"lie size", "a size that there cannot be"),
        (b"lie zero", "a size that there cannot be"),
        (b"lie json", "no JSON"),
        (b"lie list", "no object"),
        (b"lie exif", "no EXIF"),
        (b"lie less", "more or less"),
        (b"lie more", "more or less"),
    ],
)
def test_whatever_a_decoder_does_is_one_items_error(hostile: Decoders, data: bytes, told: str) -> None:
    started = time.perf_counter()
    with pytest.raises(UndecodableImage) as caught:
        hostile(data, LIMITS)
    assert told in str(caught.value)
    assert time.perf_counter() - started < 5
    good = FILES["jpeg exif"]
    assert outcome(hostile, good) == outcome(decode_image, good)
    assert len(hostile.process_ids) == 1


def test_an_error_of_another_kind_is_not_believed(hostile: Decoders) -> None:
    with pytest.raises(UndecodableImage):
        hostile(b"lie kind", LIMITS)


def test_a_decoder_can_open_nothing_and_knows_nothing(
    hostile: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANYEYES_API_KEYS", "a-key-that-is-long-enough")
    hostile.close()
    with pytest.raises(UnsupportedFormat) as caught:
        hostile(b"open", LIMITS)
    assert "opened []" in str(caught.value)
    assert "in /" in str(caught.value)
    assert "MANYEYES" not in str(caught.value)
    (child,) = hostile.process_ids
    with open(f"/proc/{child}/limits") as limits:
        told = {line[:26].strip(): line[26:].split()[0] for line in limits}
    assert told["Max core file size"] == "0"
    assert int(told["Max address space"]) < 2 * 2**30


def test_one_that_was_killed_while_idle_costs_nothing(decoders: Decoders) -> None:
    decoders(FILES["gif"], LIMITS)
    (child,) = decoders.process_ids
    os.kill(child, signal.SIGKILL)
    while Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    assert outcome(decoders, FILES["gif"]) == outcome(decode_image, FILES["gif"])
    assert decoders.process_ids != [child]


def test_threads_share_a_few_processes() -> None:
    decoders = make(n=2)
    names = [name for name in FILES if FILES[name]] * 4
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda name: outcome(decoders, FILES[name]), names))
    assert got == [outcome(decode_image, FILES[name]) for name in names]
    assert 1 <= len(decoders.process_ids) <= 2
    children = decoders.process_ids
    decoders.close()
    assert not any(os.path.exists(f"/proc/{child}") for child in children)


def test_what_is_no_callers_is_decoded_here(decoders: Decoders, tmp_path: object) -> None:
    (path := tmp_path / "a.png").write_bytes(FILES["png RGB"])  # type: ignore[operator]
    assert decoders(path, LIMITS).pixels.tobytes() == decode_image(FILES["png RGB"]).pixels.tobytes()


def test_a_process_that_cannot_start_says_so() -> None:
    from manyeyes.errors import PrimitiveFailed

    decoders = make("no.such.module")
    for _ in range(3):
        with pytest.raises(PrimitiveFailed, match="could be started"):
            decoders(FILES["gif"], LIMITS)


def test_equal_settings_share_processes() -> None:
    one, other = ServiceSettings(decode_timeout_s=7), ServiceSettings(decode_timeout_s=7, port=1)
    assert decoder_for(one, one.limits) is decoder_for(other, other.limits)
    in_thread = decoder_for(ServiceSettings(decode="thread"), Limits())
    assert isinstance(in_thread, Proportionate)
    assert in_thread.decode is decode_image


def test_a_small_file_is_no_large_image() -> None:
    decode = Proportionate(decode_image)
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    with pytest.raises(
        ImageTooLarge, match=r"9000 × 9000 pixels; at most 12000000 are allowed of a file of 9,"
    ):
        decode(bomb.getvalue(), Limits())
    page = io.BytesIO()
    Image.new("1", (2480, 3508), 1).save(page, "PNG")
    assert decode(page.getvalue(), Limits()).width == 2480
    with pytest.raises(ImageTooLarge, match=r"at most 100 are allowed$"):
        decode(page.getvalue(), Limits(max_pixels=100))


def test_a_photograph_has_few_scans() -> None:
    decode = Proportionate(decode_image)
    assert decode(FILES["jpeg progressive"], Limits()).width == 61
    data = FILES["jpeg progressive"]
    last = data.rindex(b"\xff\xda")
    with pytest.raises(ImageTooLarge, match="scans; at most 100"):
        decode(data[:-2] + data[last:-2] * 100 + b"\xff\xd9", Limits())


@pytest.mark.parametrize("busy", [False, True])
def test_no_process_outlives_a_service_that_was_killed(busy: bool) -> None:
    program = (
        "import sys, threading\n"
        "from tests.service.decoding.test_decoders import FILES, LIMITS, make\n"
        "decoders = make('tests.service.decoding.hostile', timeout_s=0.6)\n"
        "decoders(FILES['gif'], LIMITS)\n"
        "print(*decoders.process_ids, flush=True)\n"
        f"decoders(b'loop', LIMITS) if {busy} else sys.stdin.read()\n"
    )
    service = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    with service:
        assert service.stdout is not None
        child = int(service.stdout.readline())
        service.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.05)
