"""The tree of a ``when:`` expression, and how it is printed back to text.

Every node is immutable, hashable and compared by value, so that equal expressions are found and computed once.
"""

from __future__ import annotations

import keyword
from dataclasses import dataclass
from typing import Final, TypeAlias

Scalar: TypeAlias = "str | int | float | bool | None"


@dataclass(frozen=True, slots=True)
class Constant:
    """A text, a number, True, False or None."""

    value: Scalar


@dataclass(frozen=True, slots=True)
class Variable:
    """A bare name that stands for a value of the item."""

    name: str


@dataclass(frozen=True, slots=True)
class Label:
    """A name handed to a function, such as ``person`` in ``count(person)``; written bare or quoted."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the vocabulary with its arguments."""

    function: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Unary:
    """``not x`` or ``-x``."""

    operator: str
    operand: Node


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic: ``+ - * / %``."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True, slots=True)
class Comparison:
    """``a < b <= c``: operators[i] stands between operands[i] and operands[i + 1]."""

    operators: tuple[str, ...]
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Logic:
    """``a and b and …`` or ``a or b or …``."""

    operator: str
    operands: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choices:
    """The constants on the right of ``in``."""

    values: tuple[Constant, ...]


Node: TypeAlias = "Constant | Variable | Label | Call | Unary | Binary | Comparison | Logic | Choices"

# How tightly each form binds, loosest first, as in Python.
_STRENGTH: Final = {
    "or": 1,
    "and": 2,
    "not": 3,
    "compare": 4,
    "+": 5,
    "-": 5,
    "*": 6,
    "/": 6,
    "%": 6,
    "negative": 7,
}
_TIGHTEST: Final = 8


def to_text(node: Node) -> str:
    """Return the canonical text of an expression: parsing it gives back an equal tree.

    >>> to_text(Comparison((">=",), (Call("count", (Label("traffic light"),)), Constant(1))))
    "count('traffic light') >= 1"
    """
    return _print(node, 0)


def quotable(text: str) -> bool:
    """Tell whether a text can be written between quotes: not where it holds both kinds of them."""
    return _closes(text, "'") or _closes(text, '"')


def _closes(text: str, quote: str) -> bool:
    # Texts are raw, as in r'…': a backslash stands for itself, but it also keeps the quote after it from closing.
    escaped = False
    for character in text:
        if character == quote and not escaped:
            return False
        escaped = character == "\\" and not escaped
    return not escaped


def _quote(text: str) -> str:
    quote = "'" if _closes(text, "'") else '"'
    return f"{quote}{text}{quote}"


def _print(node: Node, around: int) -> str:
    strength, text = _forms(node)
    return text if strength > around else f"({text})"


def _forms(node: Node) -> tuple[int, str]:
    """Return how tightly a node binds, and its text without parentheses around it."""
    match node:
        case Constant(value):
            negative = (
                isinstance(value, (int, float)) and not isinstance(value, bool) and str(value).startswith("-")
            )
            return _STRENGTH["negative"] if negative else _TIGHTEST, _constant(value)
        case Variable(name):
            return _TIGHTEST, name
        case Label(name):
            bare = name.isidentifier() and name.isascii() and not keyword.iskeyword(name)
            return _TIGHTEST, name if bare else _quote(name)
        case Call(function, arguments):
            return _TIGHTEST, f"{function}({', '.join(_print(argument, 0) for argument in arguments)})"
        case Choices(values):
            inside = ", ".join(_constant(constant.value) for constant in values)
            return _TIGHTEST, f"({inside}{',' if len(values) == 1 else ''})"
        case Unary("not", operand):
            # `not not x` needs no parentheses, so the operand may bind as loosely as `not` itself.
            return _STRENGTH["not"], f"not {_print(operand, _STRENGTH['not'] - 1)}"
        case Unary(_, operand):
            # A number after a minus would become one negative number, which is another tree.
            bare_number = isinstance(operand, Constant)
            inner = f"({_print(operand, 0)})" if bare_number else _print(operand, _STRENGTH["negative"] - 1)
            return _STRENGTH["negative"], f"-{inner}"
        case Binary(operator, left, right):
            strength = _STRENGTH[operator]
            return strength, f"{_print(left, strength - 1)} {operator} {_print(right, strength)}"
        case Comparison(operators, operands):
            strength = _STRENGTH["compare"]
            parts = [_print(operands[0], strength)]
            for operator, operand in zip(operators, operands[1:], strict=True):
                parts += [operator, _print(operand, strength)]
            return strength, " ".join(parts)
        case Logic(operator, operands):
            strength = _STRENGTH[operator]
            return strength, f" {operator} ".join(_print(operand, strength) for operand in operands)


def _constant(value: Scalar) -> str:
    return _quote(value) if isinstance(value, str) else repr(value)
