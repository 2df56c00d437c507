"""EXIF as plain names and values. It is written by anybody, so whatever cannot be understood is left out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

_ORIENTATION: Final = 0x0112
_EXIF_IFD: Final = 0x8769
_GPS_IFD: Final = 0x8825
_LONGEST: Final = 64


def orientation(image: PILImage) -> int:
    """Return the EXIF orientation, 1 to 8; 1 (upright) where there is none that makes sense."""
    value = _directory(image, None).get(_ORIENTATION)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def read_exif(image: PILImage) -> dict[str, str | int | float]:
    """Return what an image's EXIF says, for those of these names that are there and make sense:

    camera_make, camera_model: str. taken_at: str, ``YYYY-MM-DDTHH:MM:SS``. orientation: int, 1 to 8. latitude,
    longitude: float, degrees, north and east positive. focal_length: float, mm. exposure: float, seconds. iso: int.
    """
    main, details, gps = (_directory(image, ifd) for ifd in (None, _EXIF_IFD, _GPS_IFD))
    candidates: dict[str, tuple[Callable[..., str | int | float | None], tuple[Any, ...]]] = {
        "camera_make": (_text, (main.get(0x010F),)),
        "camera_model": (_text, (main.get(0x0110),)),
        "taken_at": (_time, (details.get(0x9003) or main.get(0x0132),)),
        "orientation": (_whole, (main.get(_ORIENTATION), 1, 8)),
        "latitude": (_degrees, (gps.get(2), gps.get(1), "S", 90)),
        "longitude": (_degrees, (gps.get(4), gps.get(3), "W", 180)),
        "focal_length": (_positive, (details.get(0x920A),)),
        "exposure": (_positive, (details.get(0x829A),)),
        "iso": (_whole, (details.get(0x8827), 1, 2**31 - 1)),
    }
    found: dict[str, str | int | float] = {}
    for name, (parse, arguments) in candidates.items():
        try:
            value = parse(*arguments)
        except (ArithmeticError, AttributeError, TypeError, ValueError, LookupError):
            continue
        if value is not None:
            found[name] = value
    return found


def _directory(image: PILImage, ifd: int | None) -> Mapping[int, Any]:
    """Return one directory of tags; empty if there is none, or it is damaged."""
    try:
        exif = image.getexif()
        return dict(exif) if ifd is None else dict(exif.get_ifd(ifd))
    # Hostile EXIF makes Pillow raise nearly anything, and the pixels are none the worse for it.
    except Exception:
        return {}


def _text(value: Any) -> str | None:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    clean = "".join(letter for letter in value.split("\0")[0] if letter.isprintable()).strip()
    return clean[:_LONGEST] or None


def _time(value: Any) -> str | None:
    parts = re.fullmatch(
        r"(\d{4})[:\-](\d\d)[:\-](\d\d)[ T](\d\d):(\d\d):(\d\d)", (_text(value) or "")[:19], re.ASCII
    )
    if parts is None or parts[1] == "0000":
        return None
    year, month, day, hour, minute, second = parts.groups()
    return f"{year}-{month}-{day}T{hour}:{minute}:{second}"


def _number(value: Any) -> float:
    number = float(value[0] if isinstance(value, tuple) else value)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def _positive(value: Any) -> float | None:
    number = _number(value)
    return number if 0 < number < 1e9 else None


def _whole(value: Any, low: int, high: int) -> int | None:
    number = int(_number(value))
    return number if low <= number <= high else None


def _degrees(value: Any, reference: Any, negative: str, limit: int) -> float | None:
    degrees, minutes, seconds = (_number(part) for part in value)
    number = degrees + minutes / 60 + seconds / 3600
    if not 0 <= number <= limit:
        return None
    return -number if (_text(reference) or "").upper() == negative else number
