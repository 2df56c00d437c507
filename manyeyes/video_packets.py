"""One pass over a video file in which only those parts are decoded that a wanted frame lies in.

A video is stored in groups of pictures: a frame that stands alone, and others that are told by their differences.
Reading the packets of a group costs next to nothing beside decoding them, so a group's packets wait until it is known
whether anybody wants a frame of it. What is decoded is what decoding everything would have given.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from manyeyes.errors import UndecodableVideo

EPSILON_S: Final = 1e-6
"""Times are fractions and wanted times are floats: a microsecond early is in time."""
_MOST_WAITING: Final = 1_024
_MOST_WAITING_BYTES: Final = 32 * 2**20


class PacketReader:
    """Decodes a video stream in order. Set ``wanted_s`` while iterating: frames before it need not come.

    keyframes: only frames that stand alone come. n_frames: how many came so far. ended_s: how far the file was read.
    """

    def __init__(self, container: Any, stream: Any, *, keyframes: bool = False) -> None:
        self.wanted_s = 0.0
        self.n_frames = 0
        self.ended_s = 0.0
        self._container = container
        self._stream = stream
        self._keyframes = keyframes
        self._start: float | None = None
        self._last: float | None = None
        self._waiting: list[Any] | None = []  # None while the packets of the group are decoded as they come
        self._waiting_bytes = 0
        self._clean = True
        self._timed = True
        # The presentation times of the latest groups, each with how many frames came before it.
        self._groups: deque[tuple[int, list[int]]] = deque([(0, [])], maxlen=4)

    def decoded(self) -> Iterator[tuple[Any, float, int]]:
        """Yield sound frames with their times from the start in seconds, and their numbers among all frames.

        Raises UndecodableVideo at a packet that is cut.
        """
        for packet in self._container.demux(self._stream):
            if packet.is_corrupt:
                raise UndecodableVideo("the video breaks off, or a part of it is damaged")
            if not packet.size:  # at the end, asks the decoder for what it holds back
                yield from self._decode(packet)
                break
            if packet.is_keyframe:
                yield from self._begin_group(packet)
            self._note(packet)
            if self._keyframes:
                if packet.is_keyframe:
                    yield from self._decode(packet)
                continue
            if self._waiting is not None:
                self._waiting.append(packet)
                self._waiting_bytes += packet.size
                full = len(self._waiting) > _MOST_WAITING or self._waiting_bytes > _MOST_WAITING_BYTES
                if (
                    full
                    or not self._timed
                    or self._start is None
                    or self._last_s >= self.wanted_s - EPSILON_S
                ):
                    yield from self._decode_waiting()
                continue
            yield from self._decode(packet)
        self.ended_s = self._last_s

    @property
    def _last_s(self) -> float:
        """The latest time that a packet so far has, from the start in seconds."""
        if self._last is None:
            return 0.0
        return self._last - (self._start if self._start is not None else self._last)

    def _note(self, packet: Any) -> None:
        if packet.pts is None or packet.time_base is None:
            self._timed = False  # Without times, nothing can be passed over.
            return
        time = float(packet.pts * packet.time_base)
        self._last = time if self._last is None else max(self._last, time)
        bisect.insort(self._groups[-1][1], packet.pts)

    def _begin_group(self, packet: Any) -> Iterator[tuple[Any, float, int]]:
        """Decide what becomes of the group before this packet, and begin another."""
        if self._waiting and not self._keyframes:
            begins = None if packet.pts is None else float(packet.pts * packet.time_base)
            known = self._timed and self._start is not None and begins is not None
            # Frames of this group may be shown before its first, and hang on the group before.
            if not known or self.wanted_s < float(begins or 0) - float(self._start or 0) - EPSILON_S:
                yield from self._decode_waiting()
            elif not self._clean:
                self._stream.codec_context.flush_buffers()
                self._clean = True
        self._waiting, self._waiting_bytes = [], 0
        before, times = self._groups[-1]
        self._groups.append((before + len(times), []))

    def _decode_waiting(self) -> Iterator[tuple[Any, float, int]]:
        waiting, self._waiting = self._waiting or [], None
        for packet in waiting:
            yield from self._decode(packet)

    def _decode(self, packet: Any) -> Iterator[tuple[Any, float, int]]:
        self._clean = False
        for frame in packet.decode():
            if frame.is_corrupt or frame.time is None or (self._keyframes and not frame.key_frame):
                continue
            if self._start is None:
                self._start = frame.time
            number = self._number(frame.pts)
            self.n_frames += 1
            yield frame, max(0.0, round(frame.time - self._start, 6)), number

    def _number(self, pts: int) -> int:
        """Return how many frames are shown before one: all that were, have been read, or it could not be decoded."""
        if not self._timed:
            return self.n_frames
        for before, times in reversed(self._groups):
            if times and times[0] <= pts:
                return before + bisect.bisect_left(times, pts)
        return self.n_frames


NEVER: Final = math.inf
