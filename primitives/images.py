"""Images decoded once for every primitive: RGB, upright, 8 bits, with what the file says of itself.

Files come from anywhere, so nothing about them is believed: what is opened is a regular file, the header's size is
checked before any pixel is decoded, only six formats are tried, and a file that ends early is refused.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat as modes
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.errors import (
    EmptyItem,
    ImageTooLarge,
    InvalidItem,
    ItemError,
    UndecodableImage,
    UnreadableItem,
    UnsupportedFormat,
)
from manyeyes.primitives.base import DecodedImage
from manyeyes.primitives.exif import orientation, read_exif
from manyeyes.primitives.truncation import ends_early
from manyeyes.settings import Limits

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from manyeyes.types import ImageSource

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# Pillow warns of damage that it forgives, such as broken EXIF, and nobody can act on it. What it does not forgive is an
# error here, and its warning of a decompression bomb is another class. A filter for good, since those of
# `warnings.catch_warnings` are not safe with threads.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")

_MAGIC: Final = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"GIF8", b"BM", b"II*\0", b"MM\0*")

# Pillow loads pixels lazily and not thread-safely; the same object may be in several items.
_lazy_pixels = threading.Lock()


def decode_image(
    source: ImageSource,
    limits: Limits | None = None,
    *,
    least_side: int | None = None,
) -> DecodedImage:
    """Return an image decoded: RGB, upright, alpha flattened on white, 8 bits a channel, frame 0 of an animation.

    source: the bytes of an image file, a path to one, or a PIL image. least_side: the shorter side, in pixels, to which
    a JPEG may be reduced on decoding, which costs a fraction of decoding all of it; by default none is.
    Raises an ItemError: UnreadableItem, EmptyItem, UnsupportedFormat, UndecodableImage, ImageTooLarge or InvalidItem.
    """
    limits = limits if limits is not None else Limits()
    if isinstance(source, bytes):
        return _decode_bytes(source, limits, least_side)
    if isinstance(source, str | os.PathLike):
        return _decode_bytes(read_file(source, limits)[0], limits, least_side)
    return _decode_pil(check_pil(source, limits))


def reduction_of(decoded: DecodedImage, least_side: int | None) -> int:
    """Return by how much an image would be reduced on decoding, if it may be down to a side: 1, 2, 4 or 8."""
    return _reduction((decoded.width, decoded.height), least_side) if decoded.format == "JPEG" else 1


def _reduction(size: tuple[int, int], least_side: int | None) -> int:
    """JPEGs are coded in blocks of 8 × 8 pixels, of which the decoder can make 4 × 4, 2 × 2 or a single one."""
    if least_side is None:
        return 1
    return next((factor for factor in (8, 4, 2) if min(size) // factor >= least_side), 1)


def stat_file(path: str | os.PathLike[str], limits: Limits) -> os.stat_result:
    """Return the stat of a regular file of acceptable size, without opening it: a pipe would wait, a device might act.

    Raises UnreadableItem, EmptyItem or ImageTooLarge.
    """
    try:
        stat = os.stat(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    _check_stat(path, stat, limits)
    return stat


def read_file(path: str | os.PathLike[str], limits: Limits) -> tuple[bytes, os.stat_result]:
    """Return the bytes of a regular file, and its stat, which was the same before and after reading.

    Raises UnreadableItem, EmptyItem or ImageTooLarge.
    """
    stat_file(path, limits)
    try:
        # Not blocking, should a pipe have taken the file's place since; then fstat tells.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb", buffering=0) as stream:
            before = os.fstat(descriptor)
            _check_stat(path, before, limits)
            data = stream.read(limits.max_bytes + 1) or b""
            while len(data) < before.st_size and (more := stream.read(limits.max_bytes + 1 - len(data))):
                data += more
            after = os.fstat(descriptor)
    except ItemError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or len(
        data
    ) != after.st_size:
        raise UnreadableItem(f"{_shown(path)} changed while it was read; label it when it is complete")
    return data, after


def full_path(path: str | os.PathLike[str]) -> str:
    """Return a path that does not depend on the working directory.

    It is not normalised: that costs more than the file's stat, and another spelling only means one more reading.
    """
    name = os.fsdecode(path)
    return name if name.startswith("/") else os.path.join(os.getcwd(), name)


def check_pil(image: Any, limits: Limits) -> PILImage:
    """Return the argument if it is a PIL image of acceptable size.

    Raises InvalidItem or ImageTooLarge.
    """
    from PIL.Image import Image

    if not isinstance(image, Image):
        raise InvalidItem(f"an image is bytes, a path or a PIL image, got {type(image).__name__}")
    _check_pixels(image.width, image.height, limits)
    return image


def digest_pil(image: PILImage) -> bytes:
    """Return the content digest of a PIL image: 16 bytes over mode, size, pixels, palette, transparency and EXIF.

    Raises UndecodableImage if the pixels, which PIL may not have read yet, are damaged.
    """
    exif = sorted(read_exif(image).items())
    with _lazy_pixels:
        _load(image)
        palette = image.palette.tobytes() if image.palette is not None else b""
        told = (
            image.mode,
            image.size,
            palette,
            image.info.get("transparency"),
            image.format,
            orientation(image),
            exif,
        )
        digest = hashlib.blake2b(repr(told).encode(errors="replace"), digest_size=16, person=b"pil")
        digest.update(image.tobytes())
    return digest.digest()


def _decode_bytes(data: bytes, limits: Limits, least_side: int | None) -> DecodedImage:
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise EmptyItem("the image has 0 bytes")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes; at most {limits.max_bytes} are allowed")
    try:
        image = pillows_open()(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the image's header claims too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        if data.startswith(_MAGIC):
            raise UndecodableImage(
                f"the image's header is damaged or cut; it begins with {data[:8]!r}"
            ) from error
        raise UnsupportedFormat(
            f"the data is not an image that can be read; it begins with {data[:8]!r}. Allowed: {', '.join(FORMATS)}"
        ) from error
    except Exception as error:  # decoders meet hostile bytes here, and raise whatever they trip over
        raise UndecodableImage(f"the image's header is damaged: {type(error).__name__}: {error}") from error
    with image:
        _check_pixels(image.width, image.height, limits)
        if ends_early(data, image.format or ""):
            raise UndecodableImage(
                f"the {image.format} file ends early, after {len(data)} bytes: its end is missing"
            )
        # Asking a PNG for its EXIF loads the pixels, and swallowing what goes wrong there would pass a damaged file
        # off as a sound one; a TIFF has forgotten its EXIF once it is loaded.
        exif = read_exif(image) if image.format == "TIFF" else None
        whole = image.size
        factor = _reduction(whole, least_side) if image.format == "JPEG" else 1
        if factor > 1:
            image.draft(None, (whole[0] // factor, whole[1] // factor))  # in whatever mode it is
        _load(image)
        exif = read_exif(image) if exif is None else exif
        # The TIFF reader knows the upright size only now.
        _check_pixels(image.width, image.height, limits)
        return _decoded(image, exif, whole=whole if factor > 1 else None)


def pillows_open() -> Callable[..., PILImage]:
    """Return Pillow's own `open`; ultralytics replaces it by one that installs a package for an unknown format."""
    from PIL import Image

    own: Callable[..., PILImage] = getattr(
        sys.modules.get("ultralytics.utils.patches"), "_image_open", Image.open
    )
    return own


def _decode_pil(image: PILImage) -> DecodedImage:
    exif = read_exif(image) if image.format == "TIFF" else None
    with _lazy_pixels:
        _load(image)
    exif = read_exif(image) if exif is None else exif
    return _decoded(image, exif)


def _load(image: PILImage) -> None:
    from PIL import Image

    try:
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"the image decodes to too many pixels: {error}") from error
    except Exception as error:  # as in _decode_bytes
        raise UndecodableImage(
            f"the image's data is damaged or ends early: {type(error).__name__}: {error}"
        ) from error


def _decoded(
    image: PILImage, exif: Mapping[str, str | int | float], *, whole: tuple[int, int] | None = None
) -> DecodedImage:
    """whole: the size of the image as stored, where the pixels are reduced."""
    try:
        turned = orientation(image)
        pixels = _upright(_to_rgb(image), turned)
    except Exception as error:  # as in _decode_bytes
        raise UndecodableImage(
            f"the image cannot be converted from mode {image.mode} to RGB: {error}"
        ) from error
    kind = "JPEG" if image.format == "MPO" else image.format or ""
    width, height = pixels.size if whole is None else whole[::-1] if turned >= 5 else whole
    return DecodedImage(pixels=pixels, width=width, height=height, format=kind, exif=exif)


def _to_rgb(image: PILImage) -> PILImage:
    from PIL import Image

    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return one channel of deep values as 8 bits.

    Integers are read as 16 bits deep (Pillow's mode "I" has 32, but holds what was 16 in the file), floats up to 1 as
    fractions and above as 8 bits deep; what lies outside is clipped and NaN is black.
    """
    if np.issubdtype(values.dtype, np.floating):
        finite = np.nan_to_num(values.astype(np.float64), nan=0.0)
        scaled = finite * 255 if finite.max(initial=0.0) <= 1 else finite
        return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return ((np.clip(values.astype(np.int64), 0, 65535) + 128) // 257).astype(np.uint8)


def _upright(image: PILImage, turned: int) -> PILImage:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[turned]) if turned in turns else image


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    from PIL import Image

    # Pillow only warns above its own limit; here that is an error too.
    allowed = min(limits.max_pixels, Image.MAX_IMAGE_PIXELS or limits.max_pixels)
    if width * height > allowed:
        raise ImageTooLarge(f"the image has {width} × {height} pixels; at most {allowed} are allowed")
    if width < 1 or height < 1:
        raise UndecodableImage(f"the image has {width} × {height} pixels")


def _check_stat(path: str | os.PathLike[str], stat: os.stat_result, limits: Limits) -> None:
    if not modes.S_ISREG(stat.st_mode):
        what = next(name for check, name in _KINDS if check(stat.st_mode))
        raise UnreadableItem(f"{_shown(path)} is {what}, not a file")
    if stat.st_size == 0:
        raise EmptyItem(f"{_shown(path)} has 0 bytes")
    if stat.st_size > limits.max_bytes:
        raise ImageTooLarge(
            f"{_shown(path)} has {stat.st_size} bytes; at most {limits.max_bytes} are allowed"
        )


_KINDS: Final[tuple[tuple[Callable[[int], bool], str], ...]] = (
    (modes.S_ISDIR, "a directory"),
    (modes.S_ISFIFO, "a named pipe"),
    (modes.S_ISSOCK, "a socket"),
    (lambda mode: True, "a device"),
)


def _unreadable(path: str | os.PathLike[str], error: Exception) -> UnreadableItem:
    reasons = {
        errno.ENOENT: "there is no such file",
        errno.ENOTDIR: "there is no such file: a part of the path is not a directory",
        errno.EACCES: "no permission to read it",
        errno.ELOOP: "its symbolic links go round in a loop",
        errno.ENAMETOOLONG: "the name is too long",
    }
    number = error.errno if isinstance(error, OSError) else None
    return UnreadableItem(f"cannot read {_shown(path)}: {reasons.get(number or 0, str(error))}")


def _shown(path: str | os.PathLike[str]) -> str:
    return ascii(os.fspath(path)) if len(os.fspath(path)) <= 200 else f"{ascii(os.fspath(path))[:200]}…"
