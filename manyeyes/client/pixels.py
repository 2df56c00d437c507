"""Arrays of pixels as PNG files, without an image library: the SDK needs none.

Source: ISO/IEC 15948 (PNG), filter type 2, "up".
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final, TypeGuard

import numpy as np
import numpy.typing as npt

from manyeyes.errors import EmptyItem, ImageTooLarge, InvalidItem

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_COLOUR: Final = {1: 0, 2: 4, 3: 2, 4: 6}
"""Channels → PNG's colour type: grey, grey with alpha, RGB, RGBA."""
_UP: Final = 2
_MAX_SIDE: Final = 2**31 - 1


def is_array(given: Any) -> TypeGuard[npt.NDArray[np.uint8]]:
    """Return whether something is a NumPy array; ``png_bytes`` says whether it is one of pixels."""
    return isinstance(given, np.ndarray)


def png_bytes(pixels: npt.NDArray[Any], *, max_bytes: int | None = None) -> bytes:
    """Return pixels as a PNG file, without loss.

    pixels: uint8, shape (height, width) for grey, or (height, width, channels) with 1 channel (grey), 2 (grey and
    alpha), 3 (RGB) or 4 (RGBA). max_bytes: of the pixels, above which nothing is written.
    Raises InvalidItem for another dtype or shape, EmptyItem without pixels, ImageTooLarge.

    >>> png_bytes(np.zeros((1, 1, 3), np.uint8))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    if pixels.dtype != np.uint8:
        raise InvalidItem(
            f"an array of pixels is uint8, got {pixels.dtype}; write (array * 255).astype(np.uint8) where it is in"
            " [0, 1]"
        )
    shaped = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if shaped.ndim != 3 or shaped.shape[2] not in _COLOUR:
        raise InvalidItem(
            f"an array of pixels has the shape (height, width) or (height, width, 1 to 4 channels), got {pixels.shape};"
            " write array.transpose(1, 2, 0) where the channels come first, and pass the images of a batch one by one"
        )
    height, width, channels = shaped.shape
    if not height or not width:
        raise EmptyItem(f"the array of pixels has the shape {pixels.shape}, so it holds none")
    if height > _MAX_SIDE or width > _MAX_SIDE or (max_bytes is not None and pixels.nbytes > 8 * max_bytes):
        raise ImageTooLarge(f"the array holds {pixels.nbytes:,} bytes of pixels. Make it smaller")
    rows = shaped.reshape(height, width * channels)
    filtered = np.empty((height, width * channels + 1), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    # Differences to the row above, modulo 256: photographs become a third smaller than as they are.
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOUR[channels], 0, 0, 0)
    return b"".join(
        (
            _SIGNATURE,
            _chunk(b"IHDR", head),
            _chunk(b"IDAT", zlib.compress(filtered.data, 1)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
