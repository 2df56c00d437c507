"""The small, safe language of ``when:``: Python's notation for conditions, read with ``ast`` and never run as Python.

Only what is listed here is understood: ``and or not``, comparisons (also chained), ``in``, ``+ - * / %``, constants,
tuples of constants on the right of ``in``, and calls of the functions that a vocabulary allows. A text between quotes
is raw: a backslash is a backslash. Everything else is an InvalidExpression that says where, what came and what is
allowed. Length and depth are limited, so that reading an expression from outside costs next to nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from manyeyes.errors import InvalidExpression
from manyeyes.lfs.reader import Reader
from manyeyes.lfs.syntax import Node, to_text
from manyeyes.lfs.vocabulary import Vocabulary

MAX_LENGTH: Final = 2_000


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that was read and checked. text: its canonical form. labels, variables: the names in it, sorted."""

    node: Node
    labels: tuple[str, ...]
    variables: tuple[str, ...]

    @property
    def text(self) -> str:
        return to_text(self.node)


def parse(source: str, vocabulary: Vocabulary) -> Expression:
    """Read an expression; ``parse(e.text, vocabulary) == e`` for every e that this returns.

    Raises InvalidExpression, and nothing else, on whatever it cannot use.
    """
    if not isinstance(source, str):
        raise InvalidExpression(f"an expression is a text, got {source!r}; put it between quotes")
    if len(source) > MAX_LENGTH:
        raise InvalidExpression(
            f"an expression has at most {MAX_LENGTH} characters, got {len(source)}; split the LF"
        )
    raw, origin = _with_raw_texts(source)
    reader = Reader(source, vocabulary, raw=raw, origin=origin)
    node = reader.read()
    return Expression(node, tuple(sorted(reader.labels)), tuple(sorted(reader.variables)))


def _with_raw_texts(source: str) -> tuple[str, list[int]]:
    """Return the source as ast shall read it, and for each of its characters the index that it had in the source.

    Leading blanks go, line ends become blanks, and every quoted text becomes a raw one, so that a pattern such as
    ``'\\bhat'`` means what it says and no escape is ever decoded.
    """
    flat = re.sub(r"[\n\r\t]", " ", source)
    characters: list[str] = []
    origin: list[int] = []
    i = len(flat) - len(flat.lstrip(" "))
    while i < len(flat):
        if flat[i] not in "'\"":
            characters.append(flat[i])
            origin.append(i)
            i += 1
            continue
        already_raw = (
            i > 0 and flat[i - 1] in "rR" and not (i > 1 and (flat[i - 2].isalnum() or flat[i - 2] == "_"))
        )
        if not already_raw:
            characters.append("r")
            origin.append(i)
        end = i + 1
        while end < len(flat) and flat[end] != flat[i]:
            end += 2 if flat[end] == "\\" else 1
        end = min(end + 1, len(flat))
        characters.extend(flat[i:end])
        origin.extend(range(i, end))
        i = end
    return "".join(characters).rstrip(" "), origin
