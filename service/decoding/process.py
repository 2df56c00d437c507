"""The process that decodes images for the service: it reads requests, writes pixels into shared memory, and no more.

Once it is set up it can open nothing: no file, no socket, no program. What it says is numbers and JSON, which the other
side checks; a file that takes it over gains the images that this one process decodes, and a pipe to nowhere.
"""

from __future__ import annotations

import ctypes
import io
import json
import math
import mmap
import os
import resource
import socket
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from manyeyes.errors import ItemError
from manyeyes.primitives.base import DecodedImage
from manyeyes.primitives.images import decode_image
from manyeyes.service.decoding.pillow_memory import copy_pixels
from manyeyes.settings import Limits

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

REQUEST: Final = struct.Struct("<QQQq")
"""Bytes of the file, which lie in the shared memory; the limits of bytes and pixels; the least side, or -1."""
REPLY: Final = struct.Struct("<BIIII")
"""DONE or FAILED; width and height of the pixels, and as stored. JSON follows in the same packet."""
MAX_REPLY_BYTES: Final = 2**16
READY: Final = b"ready"
DONE: Final = 0
FAILED: Final = 1
BYTES_A_PIXEL: Final = 4
"""RGB and one byte of nothing, as Pillow keeps it, so that nothing is taken apart and put together again."""

_SOCKET: Final = 3
_MEMORY: Final = 4
_STRIP_PIXELS: Final = 2**20
# What decoding imports on its way, all in advance, since no file can be opened later.
_PLUGINS: Final = (
    "BmpImagePlugin", "ExifTags", "GifImagePlugin", "GimpGradientFile", "GimpPaletteFile", "ImageChops", "ImageColor",
    "ImageFile", "ImageMode", "ImageOps", "ImagePalette", "ImageSequence", "JpegImagePlugin", "JpegPresets",
    "MpoImagePlugin", "PaletteFile", "PngImagePlugin", "TiffImagePlugin", "TiffTags", "WebPImagePlugin",
)  # fmt: skip
_ENCODINGS: Final = (
    "ascii",
    "cp1252",
    "idna",
    "latin-1",
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
)


def main(memory_bytes: int, timeout_s: float, decode: Callable[..., DecodedImage] = decode_image) -> None:
    """Serve requests on the socket at descriptor 3, with the shared memory at descriptor 4, until it is closed.

    memory_bytes: address space of the whole process beside that memory. timeout_s: of computing, for one image.
    """
    _get_everything_ready()
    memory = mmap.mmap(_MEMORY, os.fstat(_MEMORY).st_size)
    _give_up_rights(memory_bytes + len(memory))
    with socket.socket(fileno=_SOCKET) as channel:
        channel.sendall(READY)
        while request := channel.recv(REQUEST.size):  # a packet, or nothing once the other side has closed
            # The limit counts from the start of the process; the next one begins when this image ends.
            resource.setrlimit(
                resource.RLIMIT_CPU, (math.ceil(_computed_s() + timeout_s), resource.RLIM_INFINITY)
            )
            channel.sendall(_answer(decode, memory, *REQUEST.unpack(request)))


def _answer(
    decode: Callable[..., DecodedImage],
    memory: mmap.mmap,
    n_bytes: int,
    max_bytes: int,
    max_pixels: int,
    side: int,
) -> bytes:
    try:
        data = memory[:n_bytes]
        limits = Limits(max_bytes=max_bytes, max_pixels=max_pixels)
        decoded = decode(data, limits, least_side=side if side >= 0 else None)
        _write(decoded.pixels, memory)
    except ItemError as error:
        said = json.dumps({"code": error.code, "message": str(error)}).encode()
        return REPLY.pack(FAILED, 0, 0, 0, 0) + said
    said = json.dumps({"format": decoded.format, "exif": dict(decoded.exif)}).encode()
    return REPLY.pack(DONE, *decoded.pixels.size, decoded.width, decoded.height) + said


def _write(pixels: PILImage, memory: mmap.mmap) -> None:
    if copy_pixels(pixels, ctypes.addressof(ctypes.c_char.from_buffer(memory))):
        return
    # In strips, so that a large image is not in memory twice.
    width, height = pixels.size
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = pixels.crop((0, top, width, min(height, top + rows))).tobytes("raw", "RGBX")
        start = top * width * BYTES_A_PIXEL
        memory[start : start + len(strip)] = strip


def _computed_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _get_everything_ready() -> None:
    """Import and use whatever decoding may need."""
    from importlib import import_module

    from PIL import Image

    for name in _PLUGINS:
        import_module(f"PIL.{name}")
    for encoding in _ENCODINGS:
        "a".encode(encoding).decode(encoding)
    Image.init()
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        for mode in ("RGB", "RGBA", "L", "P", "CMYK", "I;16"):
            stream = io.BytesIO()
            try:
                Image.new(mode, (9, 9)).save(stream, kind, exif=exif)
            except (OSError, ValueError, KeyError):  # not every format has every mode
                continue
            for data in (stream.getvalue(), stream.getvalue()[:-9]):
                try:
                    decode_image(data, least_side=2)
                except ItemError:
                    continue


def _give_up_rights(memory_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Descriptors 0 to 4 are there; a sixth, of whatever kind, cannot be.
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MEMORY + 1, _MEMORY + 1))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
