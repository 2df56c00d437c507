"""Videos as items: frames sampled from a file while it is decoded, one at a time, each with its time.

A file is believed last, as an image is: only common containers are tried, none of them may name another file or an
address, and what is damaged or ends early is an error of that video, after the frames that came before.

PyAV (BSD) does the work; its wheels carry an FFmpeg that is built under the GPL. The extra is ``[video]``.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from manyeyes.errors import (
    EmptyItem,
    InvalidRequest,
    ItemError,
    MissingDependency,
    UndecodableVideo,
    UnreadableItem,
    VideoTooLarge,
)
from manyeyes.settings import Limits
from manyeyes.types import Item, MetadataValue
from manyeyes.video_packets import EPSILON_S, NEVER, PacketReader

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

SUFFIXES: Final = frozenset(
    {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".3gp", ".flv"}
    | {".ogv", ".wmv"}
)
_FORMATS: Final = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,ogg,asf"
_SMALL_PX: Final = 384
_LEAST_SLACK_S: Final = 1.0
_SLACK: Final = 0.05


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a video are items: one every so many seconds, so many in all, or those that stand alone.

    every_s: seconds; the first frame at or after each multiple. n_frames: evenly spread, each in the middle of its
        part.
    keyframes: only frames that are stored whole, which decodes nothing else: the quickest, at the encoder's own times.
    max_side: pixels of a frame's longer side; a larger one is reduced, so that many frames fit in memory.
    max_duration_s, max_frames: of one video; a longer one is an error.
    Raises InvalidRequest unless exactly one of the first three is given.
    """

    every_s: float | None = None
    n_frames: int | None = None
    keyframes: bool = False
    max_side: int = 768
    max_duration_s: float = 4 * 3600.0
    max_frames: int = 20_000

    def __post_init__(self) -> None:
        said = [self.every_s is not None, self.n_frames is not None, self.keyframes]
        if sum(said) != 1:
            raise InvalidRequest(
                f"frames are taken every so many seconds, so many in all, or at keyframes: one of them, got {sum(said)}"
            )
        if self.every_s is not None and not (math.isfinite(self.every_s) and self.every_s > 0):
            raise InvalidRequest(f"frames are taken every 0.5, 1, … seconds, got {self.every_s}")
        if self.n_frames is not None and self.n_frames < 1:
            raise InvalidRequest(f"at least one frame is taken of each video, got {self.n_frames}")

    def due(self, duration_s: float | None) -> Iterator[float] | None:
        """Return the times from which on a frame is taken, ascending; None where every frame that comes is.

        Raises UndecodableVideo if they hang on a duration that is not known.
        """
        if self.every_s is not None:
            every_s = self.every_s
            return (k * every_s for k in count())
        if self.n_frames is None:
            return None
        if duration_s is None:
            raise UndecodableVideo("the file does not say how long it is; take a frame every second instead")
        n = self.n_frames
        return ((k + 0.5) * duration_s / n for k in range(n))


class Frame(NamedTuple):
    """One frame. time_s: from the start of the video. number: how many frames come before it."""

    image: PILImage
    time_s: float
    number: int


def frame_items(
    path: Path,
    *,
    name: str,
    sampling: Sampling,
    limits: Limits,
    text: str | None = None,
    metadata: Mapping[str, MetadataValue] | None = None,
) -> Iterator[Item | ItemError]:
    """Yield the sampled frames of a video as items, and in the end what is wrong with it, if anything is.

    An item is named ``clip.mp4#t=12.5``; its metadata holds ``video`` (the name), ``time_s`` and ``frame``, beside what
    is given. At most one frame is held at a time. Raises MissingDependency without PyAV.
    """
    last = None
    try:
        for frame in frames(path, sampling=sampling, limits=limits):
            frame_id = f"{name}#t={shown_time(frame.time_s)}"
            if frame_id == last:
                continue
            last = frame_id
            told: dict[str, MetadataValue] = {
                **(metadata or {}),
                "video": name,
                "time_s": frame.time_s,
                "frame": frame.number,
            }
            yield Item(id=frame_id, image=frame.image, text=text, metadata=told)
    except ItemError as error:
        yield error


def frames(path: Path, *, sampling: Sampling, limits: Limits | None = None) -> Iterator[Frame]:
    """Yield the sampled frames of a video, upright RGB, in order of time.

    Raises an ItemError when the file turns out to be damaged, cut or too large, MissingDependency without PyAV.
    """
    limits = limits or Limits()
    try:
        import av
    except ImportError as error:
        raise MissingDependency(
            "videos are read with PyAV, which is not installed; run pip install 'manyeyes[video]'"
        ) from error
    reached = 0.0
    try:
        if not path.is_file():
            raise UnreadableItem(f"{path} is not a regular file; name a video")
        if path.stat().st_size == 0:
            raise EmptyItem(f"{path} has 0 bytes")
        # Through a file object and with no protocol: a playlist inside could name files and addresses.
        options = {"format_whitelist": _FORMATS, "protocol_whitelist": "none"}
        with path.open("rb") as stream, av.open(stream, options=options) as container:
            for frame in _sampled(container, sampling, limits):
                reached = frame.time_s
                yield frame
    except (av.FFmpegError, EOFError) as error:
        where = f" after {reached:.1f} s" if reached else ""
        raise UndecodableVideo(
            f"{path} is damaged{where}, or no video that can be read: {_told(error)}"
        ) from error
    except OSError as error:
        raise UnreadableItem(f"{path} cannot be read: {error.strerror or error}") from error


def clip_of(item: Item) -> str | None:
    """Return the name of the video that an item is a frame of, None if it is not a decoded frame."""
    name = item.metadata.get("video")
    decoded = item.image is not None and not isinstance(item.image, bytes | str | os.PathLike)
    return name if decoded and isinstance(name, str) and item.id.startswith(f"{name}#t=") else None


def with_small_image(item: Item) -> Item:
    """Return a frame with a small JPEG in place of its pixels, to be kept and shown."""
    image: Any = item.image
    small = image.copy()
    small.thumbnail((_SMALL_PX, _SMALL_PX))
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=80)
    return replace(item, image=stream.getvalue())


def may_be_video(path: Path) -> bool:
    """Return whether a file with a video's suffix may be one: ``.ts`` and ``.mts`` are also those of TypeScript."""
    if path.suffix.lower() not in (".ts", ".mts"):
        return True
    try:
        with path.open("rb") as stream:
            head = stream.read(5)
    except OSError:
        return True  # Reading it says what is wrong.
    return b"\x47" in (head[:1], head[4:5])


def shown_time(seconds: float) -> str:
    """Return a time as ids name it: seconds with at most three decimals.

    >>> shown_time(12.5), shown_time(3.0), shown_time(1 / 3)
    ('12.5', '3', '0.333')
    """
    return f"{seconds:.3f}".rstrip("0").rstrip(".")


def _sampled(container: Any, sampling: Sampling, limits: Limits) -> Iterator[Frame]:
    if not container.streams.video:
        raise UndecodableVideo("the file holds no video")
    stream = container.streams.video[0]
    _check_size(stream.codec_context.width, stream.codec_context.height, limits)
    duration_s = _duration_s(container, stream)
    if duration_s is not None and duration_s > sampling.max_duration_s:
        raise _too_long(duration_s, sampling)
    stream.thread_type = "AUTO"
    reading = PacketReader(container, stream, keyframes=sampling.keyframes)
    due = sampling.due(duration_s)
    if due is not None:
        reading.wanted_s = next(due)
    taken = 0
    for frame, time_s, number in reading.decoded():
        if time_s > sampling.max_duration_s:
            raise _too_long(time_s, sampling)
        if due is not None:
            if time_s < reading.wanted_s - EPSILON_S:
                continue
            while reading.wanted_s <= time_s + EPSILON_S:
                reading.wanted_s = next(due, NEVER)
        if taken == sampling.max_frames:
            raise VideoTooLarge(
                f"the video gives more than {sampling.max_frames:,} frames; take them further apart, or cut it"
            )
        taken += 1
        _check_size(frame.width, frame.height, limits)
        yield Frame(_upright(frame, stream, sampling.max_side), time_s, number)
    if not reading.n_frames:
        raise UndecodableVideo("no frame of the video can be decoded")
    if duration_s is not None and reading.ended_s < duration_s - max(_LEAST_SLACK_S, _SLACK * duration_s):
        raise UndecodableVideo(f"the video ends early: after {reading.ended_s:.1f} s of {duration_s:.1f} s")


def _duration_s(container: Any, stream: Any) -> float | None:
    """Return how long the video itself lasts, None where the file does not say."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    told = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if told:
        return 3600 * int(told[1]) + 60 * int(told[2]) + float(told[3])
    # Of a file with sound, this may be how long that lasts.
    alone = len(container.streams) == 1 and container.duration is not None
    return container.duration / 1e6 if alone else None


def _upright(frame: Any, stream: Any, max_side: int) -> PILImage:
    """Return a frame as it is meant to be seen: square pixels, turned, its longer side at most so long."""
    ratio = stream.codec_context.sample_aspect_ratio or 1
    width, height = frame.width * float(ratio), float(frame.height)
    shrink = min(1.0, max_side / max(width, height))
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    image: PILImage = frame.reformat(width=size[0], height=size[1], format="rgb24").to_image()
    turned = round(frame.rotation / 90) * 90 % 360
    return image.rotate(turned, expand=True) if turned else image


def _check_size(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.max_pixels:
        raise VideoTooLarge(
            f"a frame of the video has {width} × {height} pixels; at most {limits.max_pixels} are allowed"
        )


def _too_long(seconds: float, sampling: Sampling) -> VideoTooLarge:
    return VideoTooLarge(
        f"the video lasts {seconds:,.0f} s; at most {sampling.max_duration_s:,.0f} s are allowed. Cut it"
    )


def _told(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
