"""The memory in which Pillow keeps an image's pixels, without a copy, through the Arrow C data interface.

``tobytes`` would cost as much as a tenth of decoding a small photograph.
Source: https://arrow.apache.org/docs/format/CDataInterface.html
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


class _Array(ctypes.Structure):
    """The C structure ArrowArray, as far as it is needed here."""


_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
]

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


def copy_pixels(image: PILImage, address: int) -> bool:
    """Copy the pixels of an RGB image to an address, four bytes each, as ``tobytes("raw", "RGBX")`` has them.

    Returns False, and copies nothing, where Pillow cannot give its memory: an older one, or a large image in pieces.
    """
    n_bytes = image.width * image.height * 4
    try:
        held: Any = image.__arrow_c_array__()  # keeps the memory alive
        array = _Array.from_address(_pointer(held[1], b"arrow_array"))
        pixels = array.children[0].contents
    except (AttributeError, MemoryError, ValueError):
        return False
    if array.offset or pixels.offset or pixels.length != n_bytes or pixels.n_buffers != 2:
        return False
    ctypes.memmove(address, pixels.buffers[1], n_bytes)
    return True
