"""Pictures in a terminal: two pixels a character, the upper half block in one colour on a ground of the other."""

from __future__ import annotations

from typing import Final

from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.text import Text

from manyeyes.errors import ItemError
from manyeyes.settings import Limits
from manyeyes.types import Item

_UPPER: Final = "▀"


def can_show(console: Console) -> bool:
    """Return whether a console shows colours fine enough for pictures."""
    return console.is_terminal and console.color_system in ("truecolor", "256")


def half_blocks(item: Item, *, columns: int, limits: Limits | None = None) -> Text | None:
    """Return an item's picture as lines of at most so many characters; None where it has none that can be read."""
    if item.image is None:
        return None
    from manyeyes.primitives.images import decode_image

    try:
        picture = decode_image(item.image, limits or Limits()).pixels.convert("RGB")
    except ItemError:
        return None
    picture.thumbnail((columns, columns))
    width, height = picture.size
    pixels = picture.tobytes()

    def colour(x: int, y: int) -> Color:
        at = 3 * (min(y, height - 1) * width + x)
        return Color.from_rgb(*pixels[at : at + 3])

    lines = Text(no_wrap=True)
    for y in range(0, height, 2):
        for x in range(width):
            lines.append(_UPPER, Style(color=colour(x, y), bgcolor=colour(x, y + 1)))
        lines.append("\n")
    return lines
