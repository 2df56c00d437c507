"""Values of many items at once, with types that may differ from item to item, and expressions evaluated over them.

Logic has three values. A missing value, a comparison of different types and a division by zero are *unknown*; unknown
spreads as in SQL, so ``brand == 'x' or price < 10`` is true where the brand matches, even if the price is missing.
An LF votes only where its condition is known to be true. ``x == None`` is always known: true where x is missing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from manyeyes.lfs.syntax import (
    Binary,
    Call,
    Choices,
    Comparison,
    Constant,
    Label,
    Logic,
    Node,
    Unary,
    Variable,
)

MISSING, TRUTH, NUMBER, TEXT = 0, 1, 2, 3

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Column:
    """One value an item.

    kind: uint8, shape (n_items,); MISSING, TRUTH, NUMBER or TEXT.
    number: float64, shape (n_items,); the number, or 1 and 0 for true and false; 0 elsewhere.
    code: int64, shape (n_items,); index into words where the value is a text; 0 elsewhere.
    words: the different texts, each once, so that work on texts is done once a text and not once an item.
    """

    kind: npt.NDArray[np.uint8]
    number: npt.NDArray[np.float64]
    code: npt.NDArray[np.int64]
    words: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.kind)

    @classmethod
    def of(cls, values: Sequence[object]) -> Column:
        """Make a column from Python values: str, bool, int, float; None, NaN and anything else are missing."""
        n = len(values)
        types = set(map(type, values))
        if types <= {str}:
            return cls.texts(values)  # type: ignore[arg-type]
        if types <= {float}:
            return cls.numbers(np.array(values, dtype=np.float64))
        kind_of = {python_type: _kind(python_type) for python_type in types}
        kinds = np.fromiter(map(kind_of.__getitem__, map(type, values)), dtype=np.uint8, count=n)
        number = np.zeros(n)
        numeric = np.flatnonzero((kinds == NUMBER) | (kinds == TRUTH))
        number[numeric] = [_as_float(values[i]) for i in numeric.tolist()]
        kinds[np.isnan(number)] = MISSING
        number[np.isnan(number)] = 0.0
        code = np.zeros(n, dtype=np.int64)
        textual = np.flatnonzero(kinds == TEXT)
        texts = cls.texts([str(values[i]) for i in textual.tolist()])
        code[textual] = texts.code
        return cls(kinds, number, code, texts.words)

    @classmethod
    def texts(cls, values: Sequence[str]) -> Column:
        """Make a column of texts."""
        table: dict[str, int] = {}
        code = np.fromiter(
            (table.setdefault(v, len(table)) for v in values), dtype=np.int64, count=len(values)
        )
        return cls(np.full(len(values), TEXT, np.uint8), np.zeros(len(values)), code, tuple(table))

    @classmethod
    def numbers(cls, values: npt.ArrayLike) -> Column:
        """Make a column of numbers; NaN is missing."""
        number = np.asarray(values, dtype=np.float64)
        known = ~np.isnan(number)
        kind = np.where(known, NUMBER, MISSING).astype(np.uint8)
        return cls(kind, np.where(known, number, 0.0), np.zeros(len(number), dtype=np.int64))

    @classmethod
    def truths(cls, values: Mask, known: Mask | bool = True) -> Column:
        """Make a column of true and false; missing where it is not known which."""
        kind = np.where(known, TRUTH, MISSING).astype(np.uint8)
        kind = np.broadcast_to(kind, values.shape)
        return cls(kind, (values & known).astype(np.float64), np.zeros(len(values), dtype=np.int64))

    @classmethod
    def constant(cls, value: object, n: int) -> Column:
        """Make a column of one value."""
        one = cls.of([value])
        return cls(np.repeat(one.kind, n), np.repeat(one.number, n), np.repeat(one.code, n), one.words)

    @property
    def true(self) -> Mask:
        """Bool, shape (n_items,); where the value is known to be true."""
        return np.asarray((self.kind == TRUTH) & (self.number != 0))

    @property
    def false(self) -> Mask:
        """Bool, shape (n_items,); where the value is known to be false."""
        return np.asarray((self.kind == TRUTH) & (self.number == 0))

    def missing(self) -> Mask:
        return np.asarray(self.kind == MISSING)

    def or_else(self, other: Column) -> Column:
        """Return this column with its missing values taken from another."""
        absent = self.missing()
        words, (left, right) = _one_dictionary(self, other)
        return Column(
            np.where(absent, other.kind, self.kind),
            np.where(absent, other.number, self.number),
            np.where(absent, right, left),
            words,
        )

    def map_texts(self, function: Callable[[str], object]) -> Column:
        """Apply a function to every different text; missing where the value is not a text."""
        if not self.words:
            return Column.constant(None, len(self))
        results = Column.of([function(word) for word in self.words])
        is_text = self.kind == TEXT
        code = np.where(is_text, self.code, 0)
        return Column(
            np.where(is_text, results.kind[code], MISSING).astype(np.uint8),
            np.where(is_text, results.number[code], 0.0),
            np.where(is_text, results.code[code], 0),
            results.words,
        )

    def map_pairs(self, other: Column, function: Callable[[str, str], bool]) -> Column:
        """Apply a condition to every different pair of texts; missing where either value is not a text."""
        both = (self.kind == TEXT) & (other.kind == TEXT)
        values = np.zeros(len(self), dtype=np.bool_)
        if both.any():
            n_words = len(other.words)
            pairs, inverse = np.unique(self.code[both] * n_words + other.code[both], return_inverse=True)
            verdicts = [
                function(self.words[i], other.words[j])
                for i, j in zip((pairs // n_words).tolist(), (pairs % n_words).tolist(), strict=True)
            ]
            values[both] = np.array(verdicts, dtype=np.bool_)[inverse]
        return Column.truths(values, both)


def _kind(python_type: type) -> int:
    if issubclass(python_type, (bool, np.bool_)):
        return TRUTH
    if issubclass(python_type, (int, float, np.integer, np.floating)):
        return NUMBER
    return TEXT if issubclass(python_type, str) else MISSING


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an int that no float can hold
        return float("inf") if value > 0 else float("-inf")


def _one_dictionary(
    left: Column, right: Column, *, ordered: bool = False
) -> tuple[tuple[str, ...], tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Return the texts of two columns, and both columns' codes into them; ordered: codes order as the texts do."""
    words = dict.fromkeys(left.words) | dict.fromkeys(right.words)
    place = {word: i for i, word in enumerate(sorted(words) if ordered else words)}
    codes = []
    for column in (left, right):
        translated = np.array([place[word] for word in column.words] or [0], dtype=np.int64)
        codes.append(np.where(column.kind == TEXT, translated[column.code], 0))
    return tuple(place), (codes[0], codes[1])


_COMPARE: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ARITHMETIC: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
    "%": np.mod,
}


class Source(Protocol):
    """Where an expression finds its values; one for each kind of LF."""

    def variable(self, name: str) -> Column:
        """Return the values of a bare name."""

    def call(self, function: str, arguments: Sequence[str | Column]) -> Column:
        """Return what a function gives. arguments: a str for a label, a field or a pattern; else a Column."""


class Evaluation:
    """Expressions over one source of values; what several of them have in common is computed once."""

    def __init__(self, source: Source, n_items: int) -> None:
        self.source = source
        self.n_items = n_items
        self._done: dict[Node, Column] = {}

    def value(self, node: Node) -> Column:
        """Return the value of an expression for every item."""
        # Constants stay out: True, 1 and 1.0 are equal as keys, but not the same value here.
        if isinstance(node, Constant):
            return Column.constant(node.value, self.n_items)
        if node not in self._done:
            self._done[node] = self._compute(node)
        return self._done[node]

    def _compute(self, node: Node) -> Column:
        match node:
            case Variable(name):
                return self.source.variable(name)
            case Call(function, arguments):
                return self.source.call(function, [self._argument(argument) for argument in arguments])
            case Unary("not", operand):
                value = self.value(operand)
                return Column.truths(value.false, value.true | value.false)
            case Unary(_, operand):
                value = self.value(operand)
                return Column.numbers(np.where(value.kind == NUMBER, -value.number, np.nan))
            case Binary(sign, left, right):
                return _arithmetic(sign, self.value(left), self.value(right))
            case Comparison(operators, operands):
                pairs = zip(operators, operands, operands[1:], strict=False)
                return _all([self._pair(sign, left, right) for sign, left, right in pairs])
            case Logic("and", operands):
                return _all([self.value(operand) for operand in operands])
            case Logic(_, operands):
                return _any([self.value(operand) for operand in operands])
            case _:
                raise TypeError(f"{type(node).__name__} has no value of its own")

    def _argument(self, node: Node) -> str | Column:
        return node.name if isinstance(node, Label) else self.value(node)

    def _pair(self, sign: str, left: Node, right: Node) -> Column:
        if isinstance(right, Choices):
            found = self._among(self.value(left), right)
        elif sign in ("in", "not in"):
            found = self.value(right).map_pairs(self.value(left), operator.contains)
        elif left == Constant(None) or right == Constant(None):
            absent = self.value(right if left == Constant(None) else left).missing()
            return Column.truths(absent if sign == "==" else ~absent)
        else:
            return _compare(sign, self.value(left), self.value(right))
        return Column.truths(found.false, found.true | found.false) if sign == "not in" else found

    def _among(self, value: Column, choices: Choices) -> Column:
        # Only choices of the value's own type count: a 2 is known not to be among (1, 'a').
        found = np.zeros(self.n_items, dtype=np.bool_)
        known = np.zeros(self.n_items, dtype=np.bool_)
        for choice in choices.values:
            same = _compare("==", value, self.value(choice))
            found |= same.true
            known |= ~same.missing()
        return Column.truths(found, known)


def _compare(sign: str, left: Column, right: Column) -> Column:
    same_type = (left.kind == right.kind) & (left.kind != MISSING)
    ordered = sign not in ("==", "!=")
    if ordered:
        same_type &= left.kind != TRUTH
    values = _COMPARE[sign](left.number, right.number)
    is_text = left.kind == TEXT
    if is_text.any():
        _, (left_code, right_code) = _one_dictionary(left, right, ordered=ordered)
        values = np.where(is_text, _COMPARE[sign](left_code, right_code), values)
    return Column.truths(values, same_type)


def _arithmetic(sign: str, left: Column, right: Column) -> Column:
    known = (left.kind == NUMBER) & (right.kind == NUMBER)
    with np.errstate(all="ignore"):
        result = _ARITHMETIC[sign](left.number, right.number)
    return Column.numbers(np.where(known & np.isfinite(result), result, np.nan))


def _all(columns: Sequence[Column]) -> Column:
    """Kleene's and: false where any is false, true where all are true, else unknown."""
    true = np.logical_and.reduce([column.true for column in columns])
    false = np.logical_or.reduce([column.false for column in columns])
    return Column.truths(true, true | false)


def _any(columns: Sequence[Column]) -> Column:
    """Kleene's or: true where any is true, false where all are false, else unknown."""
    true = np.logical_or.reduce([column.true for column in columns])
    false = np.logical_and.reduce([column.false for column in columns])
    return Column.truths(true, true | false)
