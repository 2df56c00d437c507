"""An image that a caller has at hand, as the bytes of a file."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from manyeyes.client.pixels import is_array, png_bytes
from manyeyes.errors import ImageTooLarge, InvalidItem, ItemError, UndecodableImage, UnreadableItem

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

MAX_IMAGE_BYTES: Final = 64 * 2**20
"""What a service takes of one image unless its operator says otherwise."""

# PNG keeps the pixels of these modes as they are; TIFF does so for every other one.
_PNG_MODES: Final = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})


def image_bytes(image: Any, *, max_bytes: int) -> bytes:
    """Return an image as the bytes of a file. Raises UnreadableItem, ImageTooLarge or InvalidItem."""
    if isinstance(image, (bytes, bytearray, memoryview)):
        data = bytes(image)
    elif isinstance(image, (str, os.PathLike)):
        data = _file_bytes(Path(os.fspath(image)), max_bytes)
    elif is_pil(image):
        data = _encoded(image)
    elif is_array(image):
        data = png_bytes(image, max_bytes=max_bytes)
    else:
        raise InvalidItem(
            f"an image must be bytes, a path, an address, a PIL image or a NumPy array, got {type(image).__name__}"
        )
    if len(data) > max_bytes:
        raise _too_large("the image", len(data), max_bytes)
    return data


def _file_bytes(path: Path, max_bytes: int) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
            raise UnreadableItem(f"{path} is {kind}; name a regular file")
        if status.st_size > max_bytes:
            raise _too_large(str(path), status.st_size, max_bytes)
        return path.read_bytes()
    except ItemError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL character
        raise UnreadableItem(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _too_large(what: str, n_bytes: int, max_bytes: int) -> ImageTooLarge:
    return ImageTooLarge(f"{what} holds {n_bytes:,} bytes; an image may hold {max_bytes:,}. Make it smaller")


def _encoded(image: PILImage) -> bytes:
    # Without loss, so that the service sees the pixels that are here.
    stream = io.BytesIO()
    try:
        image.load()  # PIL reads pixels late, and says only now that the file is damaged.
    except (OSError, ValueError, SyntaxError) as error:
        raise UndecodableImage(f"the PIL image's data is damaged or ends early: {error}") from error
    try:
        image.save(stream, format="PNG" if image.mode in _PNG_MODES else "TIFF", exif=image.getexif())
    except (OSError, ValueError) as error:
        raise InvalidItem(
            f"the PIL image of mode {image.mode} cannot be written as a file: {error}"
        ) from error
    return stream.getvalue()


def is_pil(given: Any) -> TypeGuard[PILImage]:
    """Return whether something is a PIL image."""
    # By its looks: importing PIL here would make the SDK depend on it.
    return hasattr(given, "getexif") and hasattr(given, "save") and hasattr(given, "mode")
