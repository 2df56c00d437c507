"""From what pydantic found wrong to what the author of a recipe can act on: line, path, what came, what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from manyeyes.documents import Document, Path, Problem
from manyeyes.errors import InvalidExpression, InvalidRecipe, ManyeyesError, nearest
from manyeyes.registry import load

MAX_SHOWN: Final = 50


def problem_at(path: Path, message: str, value: object) -> ValidationError:
    """Return an error that a pydantic validator can raise for a place inside the value that it validates."""
    error = PydanticCustomError("recipe", "{told}", {"told": message})
    return ValidationError.from_exception_data(
        "recipe", [InitErrorDetails(type=error, loc=path, input=value)]
    )


def path_text(path: Path) -> str:
    """Return a path as one would write it.

    >>> path_text(("lfs", 2, "prompts", "t-shirt", 0))
    "lfs[2].prompts['t-shirt'][0]"
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier():
            text += f".{part}" if text else part
        else:
            text += f"[{part!r}]"
    return text


def invalid_recipe(
    problems: Iterable[Problem], *, source: str, expressions_only: bool = False
) -> InvalidRecipe:
    """Return one error that tells all problems, in the order of their lines."""
    ordered = sorted(problems, key=lambda problem: (problem.line is None, problem.line or 0))
    lines = []
    for problem in ordered[:MAX_SHOWN]:
        where = [f"line {problem.line}"] if problem.line else []
        where += [path_text(problem.path)] if problem.path else []
        lines.append(": ".join([", ".join(where), problem.message] if where else [problem.message]))
    if len(ordered) > MAX_SHOWN:
        lines.append(f"and {len(ordered) - MAX_SHOWN} more problems")
    kind = InvalidExpression if expressions_only else InvalidRecipe
    if len(lines) == 1:
        told = f"{source}, {lines[0]}" if lines[0].startswith("line") else f"{source}: {lines[0]}"
    else:
        told = f"{source}: {len(ordered)} problems\n" + "\n".join(f"  {line}" for line in lines)
    error = kind(told)
    error.problems = tuple(ordered)
    return error


def from_pydantic(
    error: ValidationError, document: Document, model: type[BaseModel]
) -> tuple[list[Problem], bool]:
    """Return what pydantic found as problems with lines, and whether all of them are about expressions."""
    problems, about_expressions = [], True
    already_told = {problem.path for problem in document.problems}
    for details in error.errors(include_url=False):
        path = _real_path(details["loc"], document.value)
        # A list whose items are all wrong is no shorter for it; a key that is no text needs no second word.
        if path in already_told or (
            details["type"] == "too_short" and len(details["input"]) >= _least(details)
        ):
            continue
        problems.append(Problem(path, _message(details, path, document.value, model), document.line(path)))
        about_expressions &= isinstance(details.get("ctx", {}).get("error"), InvalidExpression)
    return problems, about_expressions


def _real_path(loc: Sequence[str | int], value: Any) -> Path:
    """Return the part of a pydantic location that leads through the document; pydantic adds words of its own."""
    path: list[str | int] = []
    for i, part in enumerate(loc):
        if part == "[key]":
            continue
        inside = isinstance(value, Mapping) and part in value
        inside = inside or (isinstance(value, (list, tuple)) and isinstance(part, int) and part < len(value))
        if inside:
            value = value[part]
            path.append(part)
        elif i == len(loc) - 1 and isinstance(value, Mapping):
            path.append(part)  # what is missing
    return tuple(path)


def _message(details: Any, path: Path, document: Any, model: type[BaseModel]) -> str:
    kind, came, context = details["type"], details["input"], details.get("ctx", {})
    told = context.get("error")
    if isinstance(told, ManyeyesError):
        return str(told)
    if kind == "recipe":
        return str(details["msg"])
    field = path[-1] if path else ""
    if kind == "extra_forbidden":
        allowed = _fields_at(path[:-1], document, model)
        return f"unknown field {str(field)!r}; allowed: {', '.join(allowed)}{nearest(str(field), allowed)}"
    if kind == "missing":
        return f"{field} is missing; write it here"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context.get("expected", "")) or [str(context.get("expected"))]
        return f"got {_shown(came)}; allowed: {', '.join(allowed)}{nearest(str(came), allowed)}"
    if kind == "string_type":
        return f"expected a text, got {_shown(came)}{_quoted(came)}"
    if kind in ("too_short", "too_long"):
        least_most = (
            f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        )
        return f"expected {least_most}, got {len(came)}"
    if kind in _WANTED:
        return f"expected {_WANTED[kind]}, got {_shown(came)}"
    if kind == "string_pattern_mismatch":
        return f"got {_shown(came)}; allowed: {_pattern_in_words(str(context.get('pattern')))}"
    message = str(details["msg"]).removeprefix("Value error, ")
    if message.startswith("Input should"):
        return f"expected {message.removeprefix('Input should ').removeprefix('be ')}, got {_shown(came)}"
    return f"{message}, got {_shown(came)}"


_WANTED: Final = {
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list, such as [a, b]",
    "list_type": "a list, such as [a, b]",
    "dict_type": "a mapping, such as {a: 1}",
    "mapping_type": "a mapping, such as {a: 1}",
    "model_type": "a mapping, such as {a: 1}",
    "model_attributes_type": "a mapping, such as {a: 1}",
    "finite_number": "a finite number",
}

_PATTERNS: Final = {
    r"^[0-9a-f]{64}$": "64 hexadecimal digits, as sha256sum prints them",
    r"^[A-Za-z_][A-Za-z0-9_\-]*$": "a name of letters, digits, _ and -, starting with a letter or _",
    r"^[A-Za-z0-9][A-Za-z0-9_\-]*$": "a name of letters, digits, _ and -, starting with a letter or digit",
}


def _pattern_in_words(pattern: str) -> str:
    if ":" in pattern:
        return "package.module:function"
    return _PATTERNS.get(pattern, f"what matches {pattern}")


def _least(details: Any) -> int:
    return int(details["ctx"]["min_length"])


def _shown(value: object) -> str:
    """Return a value as the author would know it again."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return f"{str(value).lower()} (a truth value)"
    if isinstance(value, (int, float)):
        return f"{value} (a number)"
    if isinstance(value, Mapping):
        return f"a mapping with {', '.join(map(str, list(value)[:5])) or 'nothing in it'}"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…'"


def _quoted(value: object) -> str:
    if isinstance(value, bool):
        return f"; put it between quotes: '{str(value).lower()}'"
    if value is None or isinstance(value, (int, float)):
        return f"; put it between quotes: '{'null' if value is None else value}'"
    return ""


def _fields_at(path: Path, document: Any, model: type[BaseModel]) -> list[str]:
    """Return the fields that are allowed at a path of the document."""
    here: type[BaseModel] | None = model
    value = document
    for part in path:
        value = value[part] if isinstance(value, (Mapping, list, tuple)) else None  # type: ignore[index]
        if here is model and part in ("lfs", "primitives"):
            continue
        if path[0] in ("lfs", "primitives") and part == path[1]:
            here = _spec_of(path[0], str(part), value)
        elif here is not None and isinstance(part, str) and part in here.model_fields:
            here = _nested_model(here.model_fields[part].annotation)
    return list(here.model_fields) if here is not None else []


def _spec_of(section: str | int, name: str, value: Any) -> type[BaseModel] | None:
    kind = (
        value.get("kind", name if section == "primitives" else None) if isinstance(value, Mapping) else None
    )
    try:
        known = load("manyeyes.lfs" if section == "lfs" else "manyeyes.primitives", str(kind))
    except InvalidRecipe:
        return None
    spec: type[BaseModel] = known.Spec
    return spec


def _nested_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(
        (found for inner in get_args(annotation) if (found := _nested_model(inner)) is not None), None
    )
