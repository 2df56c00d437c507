"""What it costs that images of callers are decoded in processes of their own, beside decoding in threads.

Both decode the same photographs of COCO128, in turns: cut to 500 × 375 pixels (JPEG, quality 90), and as they are. Time
is that of one image after the other, and of as many at once as there are cores; medians over the rounds.
"""

from __future__ import annotations

import io
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

from PIL import Image

from benchmarks.bars import Bar, arguments, at_most, show, told
from manyeyes.primitives.base import DecodedImage
from manyeyes.primitives.images import decode_image
from manyeyes.service.decoding.decoders import Decoders
from manyeyes.settings import Limits

Decoded = Callable[[bytes], DecodedImage]


def photographs(data: Path, n: int) -> tuple[list[bytes], list[bytes]]:
    """Return n photographs cut to 500 × 375 pixels, and as they are."""
    small, whole = [], []
    with ZipFile(data / "coco128.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))[:n]
        for name in names:
            photo = archive.read(name)
            stream = io.BytesIO()
            image = Image.open(io.BytesIO(photo)).convert("RGB")
            image.resize((500, 375), Image.Resampling.LANCZOS).save(stream, "JPEG", quality=90)
            small.append(stream.getvalue())
            whole.append(photo)
    return small, whole


def seconds(decode: Decoded, photos: Sequence[bytes], n_threads: int) -> float:
    """Return the seconds that an image takes, with so many threads."""
    with ThreadPoolExecutor(n_threads) as pool:
        started = time.perf_counter()
        for _ in pool.map(lambda photo: decode(photo).width, photos):
            pass
        return (time.perf_counter() - started) / len(photos)


def compare(
    name: str, photos: Sequence[bytes], decoders: Decoders, rounds: int, *, goal: float | None
) -> list[Bar]:
    """Return what processes take more than threads, as a share."""
    bars = []
    for n_threads in sorted({1, len(os.sched_getaffinity(0))}):
        seconds(decoders, photos, n_threads)
        seconds(decode_image, photos, n_threads)
        turns = [
            (seconds(decode_image, photos, n_threads), seconds(decoders, photos, n_threads))
            for _ in range(rounds)
        ]
        thread, process = (statistics.median(turn[which] for turn in turns) for which in (0, 1))
        more = statistics.median(process / thread for thread, process in turns) - 1
        what = f"decode, {name}, {n_threads} at once"
        bars.append(told(f"{what}: in threads", thread * 1e3, unit="ms"))
        bars.append(told(f"{what}: in processes", process * 1e3, unit="ms"))
        title = f"{what}: processes take more, as a share"
        bars.append(told(title, more) if goal is None else at_most(title, more, goal, peer="in threads"))
    return bars


def main() -> int:
    """Measure, and print the bars."""
    options = arguments(__doc__).parse_args()
    small, whole = photographs(options.data, 32 if options.quick else 128)
    rounds = 5 if options.quick else 21
    decoders = Decoders(
        n_processes=len(os.sched_getaffinity(0)), memory_bytes=2**30, timeout_s=10, limits=Limits()
    )
    for photo in (*small, *whole):
        assert decoders(photo).pixels.tobytes() == decode_image(photo).pixels.tobytes()
    bars = compare("500 × 375", small, decoders, rounds, goal=0.10)
    bars += compare("640 × 480", whole, decoders, rounds, goal=None)
    bars.append(told("decode: start of a process", _start_s(), unit="s"))
    decoders.close()
    return show("Decoding in processes of their own", bars, as_json=options.json)


def _start_s() -> float:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    times = []
    for _ in range(3):
        decoders = Decoders(n_processes=1, memory_bytes=2**30, timeout_s=10, limits=Limits())
        started = time.perf_counter()
        decoders(stream.getvalue())
        times.append(time.perf_counter() - started)
        decoders.close()
    return statistics.median(times)


if __name__ == "__main__":
    sys.exit(main())
