"""YAML and JSON from anybody, read into plain values, with the line that every one of them stands on.

YAML is read as YAML 1.2 has it, so ``no``, ``yes``, ``on`` and ``off`` are words and not booleans, and ``12:30`` is no
number. No tags, no merge keys, no duplicate keys; size, depth and what aliases expand to are limited, so that reading a
document from outside costs little whatever it holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import yaml

from manyeyes.errors import InvalidRecipe

MAX_BYTES: Final = 1_000_000
MAX_DEPTH: Final = 20
MAX_VALUES: Final = 100_000

Path: TypeAlias = "tuple[str | int, ...]"

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NOT_TEXT: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
_NULL: Final = re.compile(r"^(?:~|null|Null|NULL|)$")
_TRUE: Final = re.compile(r"^(?:true|True|TRUE)$")
_FALSE: Final = re.compile(r"^(?:false|False|FALSE)$")
_INTEGER: Final = re.compile(r"^[-+]?(?:0|[1-9][0-9]{0,300})$")
_FLOAT: Final = re.compile(
    r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$"
)
_SPECIAL_FLOAT: Final = re.compile(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$")
_TEXT_TAGS: Final = ("!", "tag:yaml.org,2002:str")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where. line: counted from 1, None where it is not known."""

    path: Path
    message: str
    line: int | None = None


@dataclass(frozen=True)
class Document:
    """What a text says. lines: the line of every value by its path. problems: what is wrong but could be read past."""

    value: Any
    lines: Mapping[Path, int] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def line(self, path: Path) -> int | None:
        """Return the line of a path, or of the nearest thing around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


def read_document(text: str | bytes) -> Document:
    """Read one YAML or JSON document.

    Raises InvalidRecipe, with the line, if the text is too large, is no YAML or JSON, or is nested or repeated beyond
    the limits.
    """
    decoded = _decode(text)
    unfit = _NOT_TEXT.search(decoded)
    if unfit:
        line = decoded.count("\n", 0, unfit.start()) + 1
        raise InvalidRecipe(
            f"line {line}: character U+{ord(unfit[0]):04X} cannot stand in a recipe; take it out"
        )
    if decoded.lstrip()[:1] in ("{", "["):
        try:
            return _read_json(decoded)
        except json.JSONDecodeError as error:
            try:
                return _read_yaml(decoded)  # flow style: JSON with fewer quotes
            except InvalidRecipe:
                if re.match(r'\s*\{\s*"', decoded) is None:
                    raise
                raise InvalidRecipe(f"line {error.lineno}: this is no JSON: {error.msg}") from None
    return _read_yaml(decoded)


def _decode(text: str | bytes) -> str:
    size = len(text) if isinstance(text, bytes) else len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_BYTES:
        raise InvalidRecipe(f"a recipe has at most {MAX_BYTES} bytes, got {size}; split it")
    if isinstance(text, str):
        return text.removeprefix("\ufeff")
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise InvalidRecipe(
            f"line {line}: byte 0x{text[error.start]:02x} is not UTF-8; save it as UTF-8"
        ) from None


def _read_json(text: str) -> Document:
    repeated: list[str] = []

    def keep_first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in pairs:
            if key in mapping:
                repeated.append(key)
            mapping.setdefault(key, value)
        return mapping

    def refuse(constant: str) -> float:
        raise InvalidRecipe(f"{constant} is no JSON number; write a finite one")

    try:
        value = json.loads(text, object_pairs_hook=keep_first, parse_constant=refuse)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError) as error:
        if isinstance(error, InvalidRecipe):
            raise
        raise InvalidRecipe(f"the document is nested too deep or holds a number too long: {error}") from None
    check_size(value)
    try:
        # JSON is YAML but for the escapes of characters; the lines are the same.
        read = _read_yaml(text)
    except InvalidRecipe:
        return Document(value, problems=tuple(_twice((key,), key, None) for key in repeated))
    return Document(value, read.lines, tuple(p for p in read.problems if "twice" in p.message))


def check_size(value: object) -> None:
    """Raise InvalidRecipe if a value holds more, or is nested deeper, than a document may, or holds no proper text."""
    pending: list[tuple[object, int]] = [(value, 1)]
    seen = 0
    while pending:
        current, depth = pending.pop()
        seen += 1
        if depth > MAX_DEPTH:
            raise InvalidRecipe(f"a recipe is nested at most {MAX_DEPTH} levels deep; write it flatter")
        if seen + len(pending) > MAX_VALUES:
            raise InvalidRecipe(f"a recipe holds at most {MAX_VALUES} values; split it")
        if isinstance(current, str):
            unfit = _NOT_TEXT.search(current)
            if unfit:
                raise InvalidRecipe(
                    f"character U+{ord(unfit[0]):04X} in {current[:40]!r} cannot stand in a recipe"
                )
        elif isinstance(current, Mapping):
            pending += [(key, depth + 1) for key in current] + [
                (child, depth + 1) for child in current.values()
            ]
        elif isinstance(current, (list, tuple)):
            pending += [(child, depth + 1) for child in current]


def _read_yaml(text: str) -> Document:
    try:
        return _Composer(yaml.parse(text, Loader=_Loader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        problem = error.problem or error.context or "it cannot be read"
        hint = next((hint for said, hint in _HINTS.items() if said in problem), "")
        raise InvalidRecipe(f"{line}this is no YAML: {problem}{hint}") from None
    except (yaml.YAMLError, RecursionError, UnicodeError) as error:
        raise InvalidRecipe(f"this is no YAML: {str(error)[:200]}") from None


_HINTS: Final = {
    "mapping values are not allowed": "; put a text that holds ': ' between quotes",
    "cannot start any token": "; indent with blanks, and put a text that starts with a sign between quotes",
    "did not find expected": "; check the indentation, the commas and the brackets around here",
    "found unexpected end of stream": "; a quote or a bracket is not closed",
    "could not find expected ':'": "; a key needs ': ' after it",
}


class _Composer:
    """Builds plain values from YAML events. Depth is limited, so recursion is."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._n_values = 0
        self._lines: dict[Path, int] = {}
        self._problems: list[Problem] = []

    def document(self) -> Document:
        next(self._events)  # the start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            raise InvalidRecipe("the recipe is empty; it needs at least name, classes and lfs")
        value = self._value(next(self._events), (), 1)
        next(self._events)  # the end of the document
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise InvalidRecipe(f"line {_line(after)}: a second document starts here; a recipe is one")
        return Document(value, self._lines, tuple(self._problems))

    def _value(self, event: Any, path: Path, depth: int) -> Any:
        line = _line(event)
        self._lines.setdefault(path, line)
        if depth > MAX_DEPTH:
            raise InvalidRecipe(
                f"line {line}: a recipe is nested at most {MAX_DEPTH} levels deep; write it flatter"
            )
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise InvalidRecipe(f"line {line}: *{event.anchor} stands for nothing above it; write it out")
            value, size = self._anchors[event.anchor]
            self._count(size, line)
            return value
        before = self._n_values
        self._count(1, line)
        if isinstance(event, yaml.ScalarEvent):
            value = self._scalar(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            self._refuse_tag(event, path)
            value = self._sequence(path, depth)
        else:
            self._refuse_tag(event, path)
            value = self._mapping(path, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._n_values - before)
        return value

    def _sequence(self, path: Path, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._value(event, (*path, len(values)), depth + 1))
        return values

    def _mapping(self, path: Path, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key, line = self._key(event, path), _line(event)
            if key in mapping:
                self._problems.append(_twice((*path, key), key, line, self._lines.get((*path, key))))
                self._value(next(self._events), (*path, key), depth + 1)
                continue
            self._lines[(*path, key)] = line
            mapping[key] = self._value(next(self._events), (*path, key), depth + 1)
        return mapping

    def _key(self, event: Any, path: Path) -> str:
        line = _line(event)
        if not isinstance(event, yaml.ScalarEvent):
            raise InvalidRecipe(
                f"line {line}: a key is a text, got a list, a mapping or an alias; write a word"
            )
        key = self._scalar(event, path)
        if isinstance(key, str):
            if key == "<<" and event.implicit[0]:
                raise InvalidRecipe(f"line {line}: merge keys (<<) are not read; write the fields out")
            return key
        self._problems.append(
            Problem((*path, event.value), f"the key {event.value!r} {_quote_it(event.value)}", line)
        )
        return str(event.value)

    def _scalar(self, event: Any, path: Path) -> Any:
        self._refuse_tag(event, path)
        return resolve(event.value) if event.implicit[0] else event.value

    def _refuse_tag(self, event: Any, path: Path) -> None:
        scalar = isinstance(event, yaml.ScalarEvent)
        if event.tag is not None and not (scalar and event.tag in _TEXT_TAGS):
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._problems.append(Problem(path, f"the tag {tag} is not read; leave it out", _line(event)))

    def _count(self, n: int, line: int) -> None:
        self._n_values += n
        if self._n_values > MAX_VALUES:
            raise InvalidRecipe(
                f"line {line}: a recipe holds at most {MAX_VALUES} values, aliases written out"
            )


def resolve(text: str) -> Any:
    """Return what an unquoted YAML word stands for.

    >>> resolve("no"), resolve("true"), resolve("0.5"), resolve("12:30"), resolve("")
    ('no', True, 0.5, '12:30', None)
    """
    if _NULL.match(text):
        return None
    if _TRUE.match(text) or _FALSE.match(text):
        return bool(_TRUE.match(text))
    if _INTEGER.match(text):
        return int(text)
    if _FLOAT.match(text):
        # 007 is a code, not a number.
        return text if re.match(r"^[-+]?0[0-9]", text) else float(text)
    return float(text.replace(".", "", 1)) if _SPECIAL_FLOAT.match(text) else text


def _twice(path: Path, key: str, line: int | None, first: int | None = None) -> Problem:
    also = f", first on line {first}" if first else ""
    return Problem(path, f"the key {key!r} stands here twice{also}; keep one", line)


def _quote_it(word: str) -> str:
    return f"is not read as a text; put it between quotes: '{word}'"


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


class RecipeDumper(yaml.SafeDumper):
    """Writes YAML that both YAML 1.1 and ``read_document`` read back as it was."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# PyYAML takes 1e3 for a text and would write the text 1e3 without quotes; to everybody else it is a number.
RecipeDumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def write_yaml(value: object) -> str:
    """Return YAML, keys in their order, short lists on one line."""
    return str(
        yaml.dump(
            value,
            Dumper=RecipeDumper,
            sort_keys=False,
            allow_unicode=True,
            width=110,
            default_flow_style=None,
        )
    )
