"""Frames of real videos, made here with PyAV, and of files that are none or end early."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from manyeyes.errors import InvalidRequest, ItemError, UndecodableVideo, VideoTooLarge
from manyeyes.settings import Limits
from manyeyes.sources import Broken, read_items
from manyeyes.types import Item
from manyeyes.video_packets import NEVER, PacketReader
from manyeyes.videos import Frame, Sampling, frame_items, frames, shown_time

av = pytest.importorskip("av")

Make = Callable[..., Path]
EVERY = Sampling(every_s=1)


def colour(i: int) -> tuple[int, int, int]:
    return (200, 30, 30) if i % 20 < 10 else (30, 30, 200)


def write(
    path: Path,
    *,
    n: int = 50,
    rate: int = 10,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    sound_s: int = 0,
) -> Path:
    """Write a video that is red for a second, then blue, in turn."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 10
        sound = container.add_stream("aac", rate=8000) if sound_s else None
        for i in range(n):
            pixels = np.full((size[1], size[0], 3), colour(i), dtype=np.uint8)
            pixels[:, : size[0] // 4] = 255  # white on the left
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 8000 * sound_s), dtype=np.float32), format="fltp", layout="mono"
            )
            silence.rate = 8000
            container.mux(sound.encode(silence))
            container.mux(sound.encode())
    return path


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda name="clip.mp4", **told: write(tmp_path / name, **told)


def times(path: Path, sampling: Sampling) -> list[float]:
    return [frame.time_s for frame in frames(path, sampling=sampling)]


def is_red(frame: Frame) -> bool:
    red, _, blue = frame.image.getpixel((frame.image.width - 5, 5))  # type: ignore[misc]
    return bool(red > blue)


CONTAINERS = [
    ("clip.mp4", "libx264"),
    ("clip.mov", "libx264"),
    ("clip.mkv", "libx265"),
    ("clip.webm", "libvpx"),
    ("clip.avi", "mpeg4"),
    ("clip.ts", "libx264"),
]


@pytest.mark.parametrize(("name", "codec"), CONTAINERS)
def test_a_frame_every_so_often(make: Make, name: str, codec: str) -> None:
    path = make(name, codec=codec)
    found = list(frames(path, sampling=Sampling(every_s=0.5)))
    assert [frame.time_s for frame in found] == [k / 2 for k in range(10)]
    assert [frame.number for frame in found] == list(range(0, 50, 5))
    assert [is_red(frame) for frame in found] == [True, True, False, False] * 2 + [True, True]
    assert {(frame.image.mode, frame.image.size) for frame in found} == {("RGB", (64, 48))}
    assert not [
        f for f in frame_items(path, name=name, sampling=EVERY, limits=Limits()) if isinstance(f, ItemError)
    ]


def test_times_that_no_frame_has(make: Make) -> None:
    path = make(rate=10)
    assert times(path, Sampling(every_s=0.25)) == pytest.approx(
        [0, 0.3, 0.5, 0.8, 1, 1.3, 1.5, 1.8, 2, 2.3, 2.5, 2.8, 3, 3.3, 3.5, 3.8, 4, 4.3, 4.5, 4.8]
    )
    assert len(times(path, Sampling(every_s=0.01))) == 50  # each frame once
    assert times(path, Sampling(every_s=60)) == [0]


def test_so_many_frames(make: Make) -> None:
    path = make()
    assert times(path, Sampling(n_frames=5)) == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert times(path, Sampling(n_frames=1)) == [2.5]
    assert (
        len(times(path, Sampling(n_frames=500))) == 49
    )  # all but the one before the middle of the first part


def test_keyframes(make: Make) -> None:
    path = make()
    with av.open(str(path)) as container:
        keys = [float(p.pts * p.time_base) for p in container.demux(video=0) if p.is_keyframe]
    assert 5 <= len(keys) < 20
    found = list(frames(path, sampling=Sampling(keyframes=True)))
    assert [frame.time_s for frame in found] == keys
    assert [is_red(frame) for frame in found] == [t % 2 < 1 for t in keys]


GROUPS = [
    ("libx264", "x.mp4", {"bf": "3"}),
    ("libx264", "x.mkv", {"x264-params": "open-gop=1:bframes=3:b-adapt=0"}),
    ("libx265", "x.mp4", {"x265-params": "log-level=none:open-gop=1:bframes=4"}),
    ("mpeg2video", "x.mpg", {"bf": "2"}),
    ("mpeg2video", "x.ts", {"bf": "2"}),
    ("libvpx", "x.webm", {}),
    ("mpeg4", "x.avi", {"bf": "2"}),
]


@pytest.mark.parametrize(("codec", "name", "options"), GROUPS, ids=lambda told: str(told)[:30])
@pytest.mark.parametrize("gop", [7, 40])
def test_passing_over_groups_changes_no_frame(
    tmp_path: Path, codec: str, name: str, options: dict[str, str], gop: int
) -> None:
    """Noise that moves: a frame that lacked what it is told from would not look the same."""
    path, rng = tmp_path / name, np.random.default_rng(3)
    scene = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        stream.codec_context.gop_size = gop
        for i in range(200):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.roll(scene, 2 * i, 1)), "rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        every = [(f.time, f.to_image().tobytes()) for f in container.decode(video=0) if not f.is_corrupt]
    start = every[0][0]
    for sampling in (
        Sampling(every_s=1.3),
        Sampling(every_s=3.01),
        Sampling(every_s=0.1),
        Sampling(n_frames=2),
    ):
        found = list(frames(path, sampling=sampling))
        assert len(found) >= 2
        for frame in found:
            time, pixels = every[frame.number]
            assert time - start == pytest.approx(frame.time_s, abs=1e-5)
            assert frame.image.tobytes() == pixels
        wanted = [k * (sampling.every_s or 0) for k in range(len(found))]
        if sampling.every_s is not None:
            first = [next(n for n, (t, _) in enumerate(every) if t - start >= w - 1e-6) for w in wanted]
            assert [frame.number for frame in found] == first


def test_only_groups_with_a_wanted_frame_are_decoded(make: Make) -> None:
    path = make(n=400)
    for wanted_s, most in ((0.0, 400), (39.0, 40), (NEVER, 30)):
        with av.open(str(path)) as container:
            reader = PacketReader(container, container.streams.video[0])
            for _ in reader.decoded():
                reader.wanted_s = max(reader.wanted_s, wanted_s)
            assert reader.n_frames <= most
            assert reader.ended_s == pytest.approx(39.9)
    assert times(path, Sampling(every_s=13)) == [0, 13, 26, 39]


def test_items_are_named_by_their_times(make: Make) -> None:
    path = make(rate=10)
    items = list(
        frame_items(
            path,
            name="a/clip.mp4",
            sampling=Sampling(every_s=1.5),
            limits=Limits(),
            text="said",
            metadata={"shop": "x", "frame": "of mine"},
        )
    )
    assert [item.id for item in items if isinstance(item, Item)] == [
        "a/clip.mp4#t=0",
        "a/clip.mp4#t=1.5",
        "a/clip.mp4#t=3",
        "a/clip.mp4#t=4.5",
    ]
    item = items[1]
    assert isinstance(item, Item) and item.text == "said"
    assert item.metadata == {"shop": "x", "video": "a/clip.mp4", "time_s": 1.5, "frame": 15}


def test_reading_again_gives_the_same_pixels(make: Make) -> None:
    path = make(size=(320, 240))
    first, second = (
        [frame.image.tobytes() for frame in frames(path, sampling=Sampling(every_s=0.3))] for _ in range(2)
    )
    assert first == second


def test_large_frames_are_reduced(make: Make) -> None:
    path = make(size=(640, 360))
    found = next(frames(path, sampling=Sampling(every_s=1, max_side=160)))
    assert found.image.size == (160, 90)


def test_a_turned_video_is_upright(make: Make) -> None:
    """A telephone held upright writes frames that lie, and a matrix that says so."""
    path = make()
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    turn = [0, 0x10000, 0, -0x10000, 0, 0, 48 << 16, 0, 0x40000000]  # a quarter clockwise
    data[at : at + 36] = struct.pack(">9i", *turn)
    path.write_bytes(data)
    image = next(frames(path, sampling=EVERY)).image
    assert image.size == (48, 64)
    assert min(image.getpixel((24, 3))) > 200  # type: ignore[type-var, arg-type]  # what was left is on top
    assert max(image.getpixel((24, 60))) < 230  # type: ignore[type-var, arg-type]


def test_sound_that_lasts_longer_is_no_damage(make: Make) -> None:
    for name in ("clip.mp4", "clip.mkv"):
        assert len(times(make(name, n=20, sound_s=8), EVERY)) == 2


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.webm"])
def test_a_video_that_ends_early_is_an_error_after_its_frames(make: Make, name: str) -> None:
    options = {"movflags": "faststart"} if name.endswith("mp4") else {}
    path = make(
        name, n=300, size=(160, 120), options=options, codec="libvpx" if name.endswith("webm") else "libx264"
    )
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    found = list(frame_items(path, name=name, sampling=EVERY, limits=Limits()))
    assert isinstance(found[-1], UndecodableVideo)
    assert 5 < len(found) < 30 and all(isinstance(item, Item) for item in found[:-1])


def test_damage_in_the_middle(make: Make) -> None:
    path = make(n=300, size=(160, 120), options={"movflags": "faststart"})
    data, rng = bytearray(path.read_bytes()), random.Random(1)
    for i in range(len(data) // 2, len(data) // 2 + 600):
        data[i] = rng.randrange(256)
    path.write_bytes(data)
    found = list(frame_items(path, name="c", sampling=EVERY, limits=Limits()))
    errors = [item for item in found if isinstance(item, ItemError)]
    assert errors == [found[-1]] or not errors  # a decoder may make do
    assert len(found) > 5


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_item"),
        (b"hello" * 1000, "undecodable_video"),
        (PLAYLIST, "undecodable_video"),
        ("ffconcat version 1.0\nfile {}\n", "undecodable_video"),
        (b"RIFF\x10\x00\x00\x00AVI LIST", "undecodable_video"),
        (b"\x1a\x45\xdf\xa3" + b"\xff" * 500, "undecodable_video"),
    ],
)
def test_what_is_no_video(make: Make, tmp_path: Path, content: bytes | str, code: str) -> None:
    secret = make("secret.ts")
    path = tmp_path / "clip.mp4"
    path.write_bytes(content if isinstance(content, bytes) else content.format(secret).encode())
    (found,) = frame_items(path, name="clip.mp4", sampling=EVERY, limits=Limits())
    assert isinstance(found, ItemError) and found.code == code


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.mp4", tmp_path):
        (found,) = frame_items(path, name="x", sampling=EVERY, limits=Limits())
        assert isinstance(found, ItemError) and found.code == "unreadable_item"


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 8000), dtype=np.float32), format="fltp", layout="mono"
        )
        silence.rate = 8000
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    with pytest.raises(UndecodableVideo, match="holds no video"):
        times(path, EVERY)


def test_limits(make: Make) -> None:
    path = make()
    with pytest.raises(VideoTooLarge, match="5 s; at most 3 s"):
        times(path, Sampling(every_s=1, max_duration_s=3))
    with pytest.raises(VideoTooLarge, match="64 × 48 pixels"):
        list(frames(path, sampling=EVERY, limits=Limits(max_pixels=1000)))
    found = list(frame_items(path, name="c", sampling=Sampling(every_s=1, max_frames=3), limits=Limits()))
    assert len(found) == 4 and isinstance(found[3], VideoTooLarge)


@pytest.mark.parametrize(
    "told",
    [{}, {"every_s": 1, "n_frames": 2}, {"every_s": 0}, {"every_s": float("nan")}, {"n_frames": 0}],
)
def test_sampling_that_says_nothing(told: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        Sampling(**told)


def test_shown_times() -> None:
    assert [shown_time(t) for t in (0, 0.04, 1 / 3, 10, 3599.9996)] == ["0", "0.04", "0.333", "10", "3600"]


def test_a_folder_with_videos(make: Make, tmp_path: Path) -> None:
    make("clips/a.mp4", n=20)
    make("clips/deep/b.MP4", n=20)
    (tmp_path / "clips/a.json").write_text('{"shop": "x"}')
    (tmp_path / "clips/a.txt").write_text("a title")
    (tmp_path / "clips/broken.mp4").write_bytes(b"nothing")
    (tmp_path / "clips/code.ts").write_text("const x = 1;")
    (tmp_path / "clips/note.txt").write_text("a text")
    skipped: Counter[str] = Counter()
    reads = list(read_items([tmp_path / "clips"], videos=EVERY, skipped=skipped))
    assert [(read.id, isinstance(read, Broken)) for read in reads] == [
        ("a.mp4#t=0", False),
        ("a.mp4#t=1", False),
        ("broken.mp4", True),
        ("deep/b.MP4#t=0", False),
        ("deep/b.MP4#t=1", False),
        ("note.txt", False),
    ]
    first = reads[0]
    assert isinstance(first, Item) and (first.text, first.metadata["shop"]) == ("a title", "x")
    assert dict(skipped) == {".ts": 1} or dict(skipped) == {"video (--video-every reads it)": 1}
    passed: Counter[str] = Counter()
    without = list(read_items([tmp_path / "clips"], skipped=passed))
    assert [read.id for read in without] == ["a.txt", "note.txt"]
    assert passed["video (--video-every reads it)"] == 4


def test_frames_are_decoded_as_they_are_asked_for(make: Make) -> None:
    path = make(n=3000, rate=30, size=(320, 240))
    stream = frames(path, sampling=Sampling(every_s=0.1))
    assert next(stream).time_s == 0
    stream.close()  # type: ignore[attr-defined]
    path.unlink()


MEASURE = """
import resource, sys
from pathlib import Path
from manyeyes.videos import Sampling, frames
n = sum(1 for _ in frames(Path(sys.argv[1]), sampling=Sampling(every_s=0.01)))
print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(make: Make) -> None:
    peaks = []
    for n in (200, 2000):
        path = make(f"{n}.mp4", n=n, size=(640, 360))
        told = subprocess.run(
            [sys.executable, "-c", MEASURE, str(path)],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout.split()
        assert int(told[0]) == n
        peaks.append(int(told[1]))
    assert peaks[1] < peaks[0] + 30_000  # KiB; the frames of the longer one alone take 1,300,000
