"""From Python's syntax tree to a checked tree of the ``when:`` language: what is not allowed by name stays out."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from manyeyes.errors import InvalidExpression, nearest
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
    quotable,
)
from manyeyes.lfs.vocabulary import (
    ALLOWED,
    ARITHMETIC,
    COMPARISONS,
    CONSTANT_SLIPS,
    REFUSED,
    SLIPS,
    SPOKEN,
    Type,
    Vocabulary,
)

MAX_DEPTH: Final = 50
MAX_NUMBER: Final = 1e15


class Reader:
    """Turns one source text into a checked tree and keeps the names that it meets.

    source: as written. raw: as ast shall read it. origin: for each character of raw, where it stands in the source.
    """

    def __init__(self, source: str, vocabulary: Vocabulary, *, raw: str, origin: list[int]) -> None:
        self.source = source
        self.vocabulary = vocabulary
        self.labels: set[str] = set()
        self.variables: set[str] = set()
        self.raw, self.origin = raw, origin
        self._bytes = self.raw.encode("utf-8", "surrogatepass")

    def read(self) -> Node:
        for position, character in enumerate(self.source):
            if not (character.isprintable() or character in "\n\r\t"):
                self.fail(f"character U+{ord(character):04X} cannot be part of an expression", position)
        if not self.raw.strip():
            raise InvalidExpression(
                f"the expression is empty; write a condition, such as {self._example()!r}, or leave the field out"
            )
        try:
            tree = ast.parse(self.raw, mode="eval")
        except SyntaxError as error:
            self._fail_syntax(error)
        except (ValueError, RecursionError, MemoryError):
            self.fail("the expression is nested too deep to be read; write it flatter", 0)
        node, kind = self.convert(tree.body, 1)
        self._expect("truth", kind, tree.body, "the whole expression")
        return node

    def fail(self, problem: str, position: int) -> NoReturn:
        """Raise InvalidExpression. position: index into the source."""
        start = max(0, position - 30)
        shown = self.source[start : position + 50]
        shown = ("…" if start else "") + shown + ("…" if position + 50 < len(self.source) else "")
        raise InvalidExpression(f"{problem} (at character {position + 1} of {shown!r})")

    def convert(self, tree: ast.expr, depth: int) -> tuple[Node, Type]:
        """Return a node and its type."""
        if depth > MAX_DEPTH:
            self.fail(
                f"the expression is nested deeper than {MAX_DEPTH} levels; write it flatter", self.at(tree)
            )
        handler = _HANDLERS.get(type(tree))
        if handler is None:
            problem = REFUSED.get(type(tree), f"{type(tree).__name__} is not part of the language")
            hint = self._method_hint(tree) if isinstance(tree, ast.Attribute) else ""
            self.fail(f"{problem}{hint}; allowed: {ALLOWED}, {self.vocabulary.signatures()}", self.at(tree))
        return handler(self, tree, depth + 1)

    def at(self, tree: ast.expr) -> int:
        """Return where a node starts in the source."""
        before = self._bytes[: tree.col_offset].decode("utf-8", "surrogatepass")
        return self.origin[min(len(before), len(self.origin) - 1)]

    def segment(self, tree: ast.expr) -> str:
        """Return the source text of a node."""
        upto = len(self._bytes[: tree.end_col_offset].decode("utf-8", "surrogatepass"))
        return self.source[self.at(tree) : self.origin[upto - 1] + 1]

    def _logic(self, tree: ast.BoolOp, depth: int) -> tuple[Node, Type]:
        operator = "and" if isinstance(tree.op, ast.And) else "or"
        operands = []
        for value in tree.values:
            node, kind = self.convert(value, depth)
            self._expect("truth", kind, value, f"each side of {operator!r}")
            operands.append(node)
        return Logic(operator, tuple(operands)), "truth"

    def _unary(self, tree: ast.UnaryOp, depth: int) -> tuple[Node, Type]:
        if type(tree.op) in REFUSED:
            self.fail(f"{REFUSED[type(tree.op)]}; allowed: {ALLOWED}", self.at(tree))
        node, kind = self.convert(tree.operand, depth)
        if isinstance(tree.op, ast.Not):
            self._expect("truth", kind, tree.operand, "what follows 'not'")
            return Unary("not", node), "truth"
        self._expect("number", kind, tree.operand, "what follows '-'")
        literal = isinstance(tree.operand, ast.Constant) and isinstance(node, Constant)
        if literal and isinstance(node, Constant) and isinstance(node.value, (int, float)):
            # `-(1)` and `-1` are the same to ast, and the same number here.
            return Constant(-node.value), "number"
        return Unary("-", node), "number"

    def _binary(self, tree: ast.BinOp, depth: int) -> tuple[Node, Type]:
        operator = ARITHMETIC.get(type(tree.op))
        if operator is None:
            self.fail(f"{REFUSED[type(tree.op)]}; allowed: {ALLOWED}", self.at(tree.right))
        sides = []
        for side in (tree.left, tree.right):
            node, kind = self.convert(side, depth)
            self._expect("number", kind, side, f"each side of {operator!r}")
            sides.append(node)
        return Binary(operator, sides[0], sides[1]), "number"

    def _compare(self, tree: ast.Compare, depth: int) -> tuple[Node, Type]:
        trees = [tree.left, *tree.comparators]
        operators, nodes, kinds = [], [], []
        for i, operand in enumerate(trees):
            follows_in = i > 0 and isinstance(tree.ops[i - 1], (ast.In, ast.NotIn))
            if follows_in and isinstance(operand, (ast.Tuple, ast.List)):
                if i < len(trees) - 1:
                    self.fail("nothing can follow the list after 'in'; join with and", self.at(trees[i + 1]))
                node, kind = self._choices(operand, depth)
            else:
                node, kind = self.convert(operand, depth)
            nodes.append(node)
            kinds.append(kind)
        for i, cmpop in enumerate(tree.ops):
            operator = COMPARISONS.get(type(cmpop))
            if operator is None:
                self.fail(f"{REFUSED[type(cmpop)]}", self.at(trees[i + 1]))
            self._check_pair(operator, (kinds[i], kinds[i + 1]), nodes[i + 1], trees[i : i + 2])
            operators.append(operator)
        return Comparison(tuple(operators), tuple(nodes)), "truth"

    def _check_pair(
        self, operator: str, kinds: tuple[Type, Type], right: Node, trees: Sequence[ast.expr]
    ) -> None:
        left_kind, right_kind = kinds
        where = self.at(trees[0])
        if operator in ("in", "not in"):
            if left_kind == "none":
                self.fail("None is in nothing; write x == None to ask whether x is missing", where)
            if isinstance(right, Choices):
                allowed = {_type_of(constant.value) for constant in right.values}
                if left_kind != "any" and left_kind not in allowed:
                    self.fail(
                        f"{self.segment(trees[0])} is {SPOKEN[left_kind]}, which none of the choices is",
                        where,
                    )
                return
            self._expect("text", left_kind, trees[0], "what stands before 'in'")
            self._expect(
                "text", right_kind, trees[1], "what stands after 'in', unless it is a list such as (1, 2),"
            )
            return
        if operator in ("==", "!="):
            if left_kind in ("any", right_kind) or right_kind == "any":
                return
            if "none" in kinds and "any" in kinds:
                return
        elif "none" in kinds:
            self.fail(f"None has no order; {operator!r} compares numbers or texts", where)
        elif "truth" in kinds:
            self.fail(
                f"{operator!r} compares numbers or texts, not true or false; add parentheses or and", where
            )
        elif left_kind in ("any", right_kind) or right_kind == "any":
            return
        self.fail(
            f"{self.segment(trees[0])!r} is {SPOKEN[left_kind]} and {self.segment(trees[1])!r} is"
            f" {SPOKEN[right_kind]}; {operator!r} compares values of one type",
            where,
        )

    def _choices(self, tree: ast.Tuple | ast.List, depth: int) -> tuple[Node, Type]:
        values = []
        for element in tree.elts:
            node, _ = self.convert(element, depth)
            if not isinstance(node, Constant) or node.value is None:
                self.fail(
                    f"{self.segment(element)!r} cannot be a choice after 'in'; allowed: numbers, quoted texts, True,"
                    " False",
                    self.at(element),
                )
            values.append(node)
        if not values:
            self.fail("the list after 'in' is empty, so nothing is in it", self.at(tree))
        return Choices(tuple(values)), "any"

    def _constant(self, tree: ast.Constant, depth: int) -> tuple[Node, Type]:
        value = tree.value
        if isinstance(value, (bytes, complex)) or value is Ellipsis:
            self.fail(f"{self.segment(tree)!r} is not a value here; allowed: {ALLOWED}", self.at(tree))
        if isinstance(value, (int, float)) and not abs(value) <= MAX_NUMBER:
            self.fail(
                f"a number is at most {MAX_NUMBER:.0e} in size, got {self.segment(tree)[:30]}", self.at(tree)
            )
        if isinstance(value, str) and not quotable(value):
            self.fail("a text cannot hold both kinds of quotes", self.at(tree))
        assert value is None or isinstance(value, (str, int, float))
        return Constant(value), _type_of(value)

    def _name(self, tree: ast.Name, depth: int) -> tuple[Node, Type]:
        name = tree.id
        if name.lower() in CONSTANT_SLIPS:
            self.fail(f"write {CONSTANT_SLIPS[name.lower()]} instead of {name}", self.at(tree))
        if not self.vocabulary.variables:
            functions = self.vocabulary.functions
            hint = (
                f"{name} is a function: write {self.vocabulary.signature(name)}"
                if name in functions
                else f"{name!r} is not a value; hand it to a function, as in count({name})"
            )
            self.fail(f"{hint}; allowed: {self.vocabulary.signatures()}", self.at(tree))
        self.variables.add(name)
        return Variable(name), "any"

    def _call(self, tree: ast.Call, depth: int) -> tuple[Node, Type]:
        functions = self.vocabulary.functions
        if not isinstance(tree.func, ast.Name):
            hint = self._method_hint(tree.func) if isinstance(tree.func, ast.Attribute) else ""
            self.fail(
                f"{self.segment(tree.func)!r} cannot be called{hint}; allowed: {self.vocabulary.signatures()}",
                self.at(tree),
            )
        name = tree.func.id
        if name not in functions:
            self.fail(
                f"unknown function {name!r}; allowed: {self.vocabulary.signatures()}{nearest(name, functions)}",
                self.at(tree),
            )
        if tree.keywords:
            self.fail(f"arguments have no names; write {self.vocabulary.signature(name)}", self.at(tree))
        takes, gives, _ = functions[name]
        if len(tree.args) != len(takes):
            self.fail(
                f"{self.vocabulary.signature(name)} takes {len(takes)} argument{'s' * (len(takes) != 1)}, got"
                f" {len(tree.args)}",
                self.at(tree),
            )
        arguments: list[Node] = []
        for wanted, argument in zip(takes, tree.args, strict=True):
            if wanted in ("label", "field"):
                arguments.append(self._label(argument, name, wanted))
                continue
            node, kind = self.convert(argument, depth)
            self._expect("text", kind, argument, f"what {name} takes")
            if wanted == "pattern":
                self._check_pattern(node, argument)
            arguments.append(node)
        return Call(name, tuple(arguments)), gives

    def _label(self, tree: ast.expr, function: str, wanted: str) -> Label:
        if isinstance(tree, ast.Name):
            name = tree.id
        elif isinstance(tree, ast.Constant) and isinstance(tree.value, str):
            name = tree.value
        else:
            came = self.segment(tree)
            self.fail(
                f"{function} takes a {wanted}, which is one word or a quoted text, got {came}; write"
                f" {function}({came!r})",
                self.at(tree),
            )
        if not name.strip() or not quotable(name):
            self.fail(f"{name!r} cannot be a {wanted}", self.at(tree))
        self.labels.add(name)
        return Label(name)

    def _check_pattern(self, node: Node, tree: ast.expr) -> None:
        if not isinstance(node, Constant) or not isinstance(node.value, str):
            self.fail(f"a pattern is a quoted text, got {self.segment(tree)}", self.at(tree))
        if self.vocabulary.check_pattern is not None:
            try:
                self.vocabulary.check_pattern(node.value)
            except ValueError as error:
                self.fail(str(error), self.at(tree))

    def _expect(self, wanted: Type, kind: Type, tree: ast.expr, what: str) -> None:
        if kind in (wanted, "any"):
            return
        hint = {"number": "; compare it, as in {} > 0", "text": "; compare it, as in {} == 'x'"}.get(kind, "")
        hint = hint.format(self.segment(tree)[:40]) if wanted == "truth" else ""
        self.fail(
            f"{what} must be {SPOKEN[wanted]}, got {self.segment(tree)[:80]}, which is {SPOKEN[kind]}{hint}",
            self.at(tree),
        )

    def _method_hint(self, tree: ast.Attribute) -> str:
        return (
            f"; write {tree.attr}({self.segment(tree.value)})"
            if tree.attr in self.vocabulary.functions
            else ""
        )

    def _example(self) -> str:
        return "count(person) >= 1" if "count" in self.vocabulary.functions else "price < 10"

    def _fail_syntax(self, error: SyntaxError) -> NoReturn:
        # A deep nest is a syntax error to some versions of Python and a recursion error to others.
        offset = min(max((error.offset or 1) - 1, 0), len(self.raw) - 1)
        position = self.origin[offset]
        slip = next((SLIPS[c] for c in self.source[position : position + 2] if c in SLIPS), "")
        if not slip and re.search(r"\w\s+\w", self.source):
            slip = "; a name of more than one word needs quotes, as in 'traffic light'"
        self.fail(f"cannot read this: {error.msg.split('. ')[0]}{slip}; allowed: {ALLOWED}", position)


_HANDLERS: Final[dict[type[ast.expr], Callable[..., tuple[Node, Type]]]] = {
    ast.BoolOp: Reader._logic,
    ast.UnaryOp: Reader._unary,
    ast.BinOp: Reader._binary,
    ast.Compare: Reader._compare,
    ast.Constant: Reader._constant,
    ast.Name: Reader._name,
    ast.Call: Reader._call,
}


def _type_of(value: object) -> Type:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "truth"
    return "text" if isinstance(value, str) else "number"
