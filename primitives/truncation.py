"""Whether an image file ends before its format says so.

Decoders differ in what they forgive: libjpeg paints what is missing grey, a PNG without its last chunk passes unseen.
A file that was cut in transfer is not what somebody wanted labeled, so its end is looked for in the bytes themselves.
"""

from __future__ import annotations

import re
from typing import Final

# In the coded data of a scan FF is followed by 00, or is a restart marker, or fills up to the next marker.
_NEXT_MARKER: Final = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)
_PNG_END: Final = b"IEND\xaeB`\x82"
_EOI: Final = 0xD9
_SOS: Final = 0xDA
_WITHOUT_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD9)})


def ends_early(data: bytes, kind: str) -> bool:
    """Return whether the bytes of an image file lack the end of its first image.

    kind: Pillow's name of the format; for GIF, BMP and TIFF the decoder itself notices, and this returns False.

    >>> ends_early(b"\\x89PNG\\r\\n\\x1a\\n, cut", "PNG")
    True
    """
    if kind in ("JPEG", "MPO"):
        return _jpeg_ends_early(data)
    if kind == "PNG":
        return data.rfind(_PNG_END) < 0
    if kind == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return False


def _jpeg_ends_early(data: bytes) -> bool:
    """Walk the segments: thumbnails inside them have end markers of their own, which must not count."""
    position = 2
    while (found := _NEXT_MARKER.search(data, position)) is not None:
        marker, position = found[1][0], found.end()
        if marker == _EOI:
            return False
        if marker == _SOS:  # from here on FF D9 is the end and nothing else: coded data stuff every FF
            return data.find(b"\xff\xd9", position) < 0
        if marker not in _WITHOUT_LENGTH:
            position += int.from_bytes(data[position : position + 2], "big")
    return True
