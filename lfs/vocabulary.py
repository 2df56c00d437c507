"""The words of the ``when:`` language: its types and operators, what is refused and why, what a kind of LF adds."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

Type: TypeAlias = Literal["number", "truth", "text", "none", "any"]
"""What is known of a value before any item is seen; "any" of a variable, which may differ from item to item."""

Argument: TypeAlias = Literal["label", "field", "text", "pattern"]
"""What a function takes: a name, bare or quoted ("label", "field"); a text; or a quoted regular expression."""

SPOKEN: Final[dict[Type, str]] = {
    "number": "a number",
    "truth": "true or false",
    "text": "a text",
    "none": "None",
    "any": "any value",
}


class Function(NamedTuple):
    """One function of a vocabulary: what it takes, what it gives, and a line of help."""

    takes: tuple[Argument, ...]
    gives: Type
    help: str


class Vocabulary(NamedTuple):
    """The words that one kind of LF adds to the language.

    functions: by name. parameters: how the arguments are called in messages, by function.
    variables: whether bare names stand for values. check_pattern: raises ValueError on a bad regular expression.
    """

    functions: Mapping[str, Function]
    variables: bool
    check_pattern: Callable[[str], object] | None = None

    def signature(self, name: str) -> str:
        return f"{name}({', '.join(self.functions[name].takes)})"

    def signatures(self) -> str:
        return ", ".join(self.signature(name) for name in self.functions)


COMPARISONS: Final[dict[type[ast.cmpop], str]] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.In: "in",
    ast.NotIn: "not in",
}
ARITHMETIC: Final[dict[type[ast.operator], str]] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Mod: "%",
}
ALLOWED: Final = "and, or, not, == != < <= > >=, in, + - * / %, numbers, quoted texts, True, False, None"
REFUSED: Final[dict[type[ast.AST], str]] = {
    ast.Attribute: "a dot reads an attribute, and there are none here",
    ast.Subscript: "square brackets after a value are not part of the language",
    ast.Lambda: "lambda is not part of the language",
    ast.IfExp: "if … else is not part of the language; use and, or",
    ast.NamedExpr: ":= is not part of the language; use == to compare",
    ast.JoinedStr: "f-strings are not part of the language; write the text out",
    ast.Starred: "* before a value is not part of the language",
    ast.Await: "await is not part of the language",
    ast.Yield: "yield is not part of the language",
    ast.Dict: "braces are not part of the language",
    ast.Set: "braces are not part of the language; use (…) after in",
    ast.ListComp: "comprehensions are not part of the language",
    ast.SetComp: "comprehensions are not part of the language",
    ast.DictComp: "comprehensions are not part of the language",
    ast.GeneratorExp: "comprehensions are not part of the language",
    ast.Pow: "** is not part of the language; write x * x",
    ast.FloorDiv: "// is not part of the language; use /",
    ast.MatMult: "@ is not part of the language",
    ast.BitAnd: "& is not part of the language; write and",
    ast.BitOr: "| is not part of the language; write or",
    ast.BitXor: "^ is not part of the language",
    ast.LShift: "<< is not part of the language",
    ast.RShift: ">> is not part of the language",
    ast.Invert: "~ is not part of the language; write not",
    ast.UAdd: "+ before a value is not part of the language; leave it out",
    ast.Is: "is compares nothing here; write ==",
    ast.IsNot: "is not compares nothing here; write !=",
}
SLIPS: Final[dict[str, str]] = {
    "=": "; compare with ==",
    "&": "; write and",
    "|": "; write or",
    "!": "; write not, or !=",
    "?": "; there is no if … else",
    "\\": "; a backslash belongs between quotes",
}
CONSTANT_SLIPS: Final = {"true": "True", "false": "False", "none": "None", "null": "None"}
