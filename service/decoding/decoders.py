"""Images of callers, decoded in processes of their own: the same pixels, and a hostile file costs one item.

A decoder that crashes, runs on, or wants more memory than it may have is killed, the item whose image it was gets an
UndecodableImage, and the next image gets a new process. What comes back is read as numbers and pixels, never unpickled,
and checked like anything from outside.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
import queue
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SEAL, F_SEAL_SHRINK, fcntl
from functools import cache
from typing import Any, Final

from manyeyes.errors import ImageTooLarge, ItemError, PrimitiveFailed, UndecodableImage, by_code
from manyeyes.primitives.base import DecodedImage
from manyeyes.primitives.images import decode_image
from manyeyes.primitives.reading import Decode
from manyeyes.service.decoding.process import (
    BYTES_A_PIXEL,
    DONE,
    FAILED,
    MAX_REPLY_BYTES,
    READY,
    REPLY,
    REQUEST,
)
from manyeyes.service.decoding.settings import DecodeSettings
from manyeyes.settings import Limits
from manyeyes.types import ImageSource

log: Final = logging.getLogger("manyeyes.service.decoding")

_FREE_PIXELS: Final = 12_000_000
_PIXELS_A_BYTE: Final = 200
"""Photographs have one to forty, blank pages a hundred or so, bombs a thousand and more."""
_MAX_SCANS: Final = 100
"""Of a JPEG. Progressive ones have ten or so; each costs as much time as the whole image."""
_START_TIMEOUT_S: Final = 60.0
_KEPT_BYTES: Final = 16 * 2**20
"""Of the shared memory that stays with a process between images; what a large image needed beyond goes back."""

# The paths come from this process, so that the child finds the same package however this one was started; isolated, so
# that nothing in its environment or its folder can put another in its place.
_PROGRAM: Final = (
    "import json, sys\n"
    "sys.path[:] = json.loads(sys.argv.pop(1))\n"
    "import runpy\n"
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)\n"
)


class Decoders:
    """Decodes bytes as ``decode_image`` does, in processes that are started when they are needed. Safe with threads.

    n_processes: how many, and so how many images at once; further callers wait. memory_bytes, timeout_s: what one image
    may cost. limits: the largest that will be asked for. module: what the processes run; another one in tests.
    """

    def __init__(
        self,
        *,
        n_processes: int,
        memory_bytes: int,
        timeout_s: float,
        limits: Limits,
        module: str = "manyeyes.service.decoding.process",
    ) -> None:
        self._capacity = max(_KEPT_BYTES + mmap.PAGESIZE, limits.max_bytes, limits.max_pixels * BYTES_A_PIXEL)
        self._start = (module, memory_bytes, timeout_s, self._capacity)
        self._idle: queue.LifoQueue[_Child | None] = queue.LifoQueue()
        for _ in range(n_processes):
            self._idle.put(None)
        self._children: set[_Child] = set()
        self._lock = threading.Lock()
        weakref.finalize(self, _end_all, self._children)

    def __call__(
        self, source: ImageSource, limits: Limits | None = None, *, least_side: int | None = None
    ) -> DecodedImage:
        """Return an image decoded, bit for bit as ``decode_image`` does. Raises the same errors.

        Only bytes are decoded elsewhere: paths and PIL images are never a caller's.
        """
        limits = limits if limits is not None else Limits()
        if not isinstance(source, bytes) or not 0 < len(source) <= min(limits.max_bytes, self._capacity):
            return decode_image(source, limits, least_side=least_side)
        child = self._idle.get()
        try:
            if child is not None:
                try:
                    return child.decode(source, limits, least_side)
                except _Gone:  # while it had nothing to do, so it was no image's fault
                    self._forget(child)
                    child = None  # so that a start that fails leaves a free place
            child = self._begin()
            return child.decode(source, limits, least_side)
        except ItemError:
            raise
        except (_Broken, _Gone) as error:
            self._forget(child)
            child = None
            log.warning("a process that decodes images was replaced: the decoder %s", error)
            raise UndecodableImage(
                f"the image's decoder {error}; the image is damaged, or made to do harm"
            ) from error
        except BaseException:  # in the middle of a conversation, so this process cannot be talked to again
            self._forget(child)
            child = None
            raise
        finally:
            self._idle.put(child)

    @property
    def process_ids(self) -> list[int]:
        """The processes that run now."""
        with self._lock:
            return [child.process.pid for child in self._children]

    def close(self) -> None:
        """End the processes; the next image starts new ones."""
        with self._lock:
            _end_all(self._children)

    def _begin(self) -> _Child:
        child = _Child(*self._start)
        with self._lock:
            self._children.add(child)
        return child

    def _forget(self, child: _Child | None) -> None:
        if child is not None:
            with self._lock:
                self._children.discard(child)
            child.end()


class _Broken(Exception):
    """A decoding process did what it should not. The message follows "the image's decoder"."""


class _Gone(Exception):
    """A decoding process had ended before it was asked."""


class _Child:
    """One decoding process, with the memory that it shares with this one."""

    def __init__(self, module: str, memory_bytes: int, timeout_s: float, capacity: int) -> None:
        self._capacity = capacity
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        memory = os.memfd_create("manyeyes-decode", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        try:
            os.ftruncate(memory, capacity)  # takes no memory until it is written to
            # A child that could shrink it would make this process fault on reading.
            fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
            self._memory = mmap.mmap(memory, capacity)
            self.process = _start(module, [str(memory_bytes), str(timeout_s)], theirs.fileno(), memory)
        finally:
            os.close(memory)
            theirs.close()
        self._channel = ours
        ours.settimeout(_START_TIMEOUT_S)
        try:
            if self._receive() != READY:
                raise _Broken("said something else than it should")
            ours.settimeout(2 * timeout_s)
        except _Broken as error:
            self.end()
            # Not the image's fault: nothing of it has been read yet.
            raise PrimitiveFailed(f"no process that decodes images could be started: it {error}") from error

    def decode(self, data: bytes, limits: Limits, least_side: int | None) -> DecodedImage:
        """Have an image decoded. Raises an ItemError, or _Gone or _Broken if this process can be used no more."""
        from PIL import Image

        self._memory[: len(data)] = data
        used = len(data)
        try:
            columns, rows, width, height, said = self._ask(len(data), limits, least_side)
            n_bytes = columns * rows * BYTES_A_PIXEL
            used = max(used, n_bytes)
            with memoryview(self._memory) as memory, memory[:n_bytes] as pixels:
                image = Image.frombytes("RGB", (columns, rows), pixels, "raw", "RGBX")
        finally:
            if used > _KEPT_BYTES:
                self._memory.madvise(mmap.MADV_REMOVE, _KEPT_BYTES, self._capacity - _KEPT_BYTES)
        return DecodedImage(
            pixels=image, width=width, height=height, format=str(said.get("format", "")), exif=_exif(said)
        )

    def _ask(
        self, n_bytes: int, limits: Limits, least_side: int | None
    ) -> tuple[int, int, int, int, dict[str, Any]]:
        """Return the size of the pixels that are in the memory then, that of the image, and what is said of it."""
        side = -1 if least_side is None else least_side
        try:
            self._channel.send(REQUEST.pack(n_bytes, limits.max_bytes, limits.max_pixels, side))
        except OSError as error:
            raise _Gone from error
        reply = self._receive()
        if not REPLY.size <= len(reply) < MAX_REPLY_BYTES:
            raise _Broken("said more or less than there can be to say")
        status, columns, rows, width, height = REPLY.unpack_from(reply)
        said = _said(reply[REPLY.size :])
        if status == FAILED:
            raise _item_error(said)
        most = min(self._capacity // BYTES_A_PIXEL, limits.max_pixels)
        if status != DONE or not 0 < columns * rows <= most:
            raise _Broken("told of a size that there cannot be")
        return columns, rows, width, height, said

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._channel.close()  # the memory goes with the last image that is being copied from it

    def _receive(self) -> bytes:
        try:
            packet = self._channel.recv(MAX_REPLY_BYTES)
        except TimeoutError as error:
            raise _Broken("did not come to an end") from error
        except OSError as error:
            raise _Broken(f"cannot be reached ({error})") from error
        if not packet:
            raise _Broken(self._how_it_ended())
        return packet

    def _how_it_ended(self) -> str:
        try:
            status = self.process.wait(1)
        except subprocess.TimeoutExpired:
            return "went silent"
        return f"crashed (signal {-status})" if status < 0 else f"gave up (status {status})"


def _start(module: str, arguments: Sequence[str], channel: int, memory: int) -> subprocess.Popen[bytes]:
    """Start a process with nothing but a socket and a piece of memory: no environment, no files, no folder.

    Its descriptors are 3 and 4 there, which a small shell of Python sees to: no code may run between fork and exec.
    """
    place = (
        "import os, sys\n"
        f"os.dup2({channel}, 200); os.dup2({memory}, 201); os.dup2(200, 3); os.dup2(201, 4)\n"
        "os.closerange(5, 4096)\n"
    )
    environment = {
        "LC_ALL": "C.UTF-8",
        "MALLOC_ARENA_MAX": "1",
        # Else each image's memory is asked of the system anew, page by page, which takes longer than decoding.
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    environment |= {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-c",
            place + _PROGRAM,
            json.dumps([os.path.abspath(path) for path in sys.path]),
            module,
            *arguments,
        ],
        env=environment,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(channel, memory),
        process_group=0,  # an interrupt at the terminal is for the service, which finishes what it accepted
    )


def _said(data: bytes) -> dict[str, Any]:
    try:
        said = json.loads(data)
    except ValueError as error:
        raise _Broken("said something that is no JSON") from error
    if not isinstance(said, dict):
        raise _Broken("said something that is no object")
    return said


def _item_error(said: dict[str, Any]) -> ItemError:
    kind = by_code().get(str(said.get("code")), UndecodableImage)
    if not issubclass(kind, ItemError):
        kind = UndecodableImage
    return kind(str(said.get("message", "")))


def _exif(said: dict[str, Any]) -> dict[str, str | int | float]:
    exif = said.get("exif", {})
    if not isinstance(exif, dict) or not all(isinstance(value, (str, int, float)) for value in exif.values()):
        raise _Broken("said something that is no EXIF")
    return exif


def _end_all(children: set[_Child]) -> None:
    while children:
        children.pop().end()


class Proportionate:
    """Decodes small files to small images only: what a few bytes say on a hundred megapixels is no photograph.

    Up to ``_FREE_PIXELS`` a file may hold as little as it likes, above that a byte for ``_PIXELS_A_BYTE`` pixels.
    Nor may a JPEG go over its pixels more than ``_MAX_SCANS`` times.
    """

    def __init__(self, decode: Decode) -> None:
        self.decode = decode

    def __call__(
        self, source: ImageSource, limits: Limits | None = None, *, least_side: int | None = None
    ) -> DecodedImage:
        """Return an image decoded. Raises an ItemError; ImageTooLarge where a file is out of proportion."""
        limits = limits if limits is not None else Limits()
        if not isinstance(source, bytes):
            return self.decode(source, limits, least_side=least_side)
        # Markers cannot stand in coded data, so this counts scans, and those of thumbnails.
        if source.startswith(b"\xff\xd8") and (n_scans := source.count(b"\xff\xda")) > _MAX_SCANS:
            raise ImageTooLarge(f"the JPEG has {n_scans:,} scans; at most {_MAX_SCANS} are allowed")
        allowed = max(_FREE_PIXELS, _PIXELS_A_BYTE * len(source))
        if allowed >= limits.max_pixels:
            return self.decode(source, limits, least_side=least_side)
        try:
            return self.decode(source, replace(limits, max_pixels=allowed), least_side=least_side)
        except ImageTooLarge as error:
            raise ImageTooLarge(f"{error} of a file of {len(source):,} bytes") from error


def decoder_for(settings: DecodeSettings, limits: Limits) -> Decode:
    """Return what decodes images of callers, as the settings say; equal settings share their processes."""
    if settings.decode == "thread":
        return Proportionate(decode_image)
    n_processes = settings.decode_processes or min(8, len(os.sched_getaffinity(0)))
    return _shared(n_processes, int(settings.decode_memory), settings.decode_timeout_s, limits)


@cache
def _shared(n_processes: int, memory_bytes: int, timeout_s: float, limits: Limits) -> Decode:
    return Proportionate(
        Decoders(n_processes=n_processes, memory_bytes=memory_bytes, timeout_s=timeout_s, limits=limits)
    )
