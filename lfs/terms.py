"""Looking for thousands of terms in a text at once, in time linear in the text (Aho & Corasick 1975)."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from manyeyes.errors import InvalidRecipe, MissingDependency, nearest
from manyeyes.lfs.words import comparable, in_word

MAX_TERMS: Final = 200_000
_DELIMITERS: Final = {".csv": ",", ".tsv": "\t"}
_COLUMNS: Final = ("word", "class", "weight")


class Term(NamedTuple):
    """A word or phrase, the class that it speaks for, and how much."""

    word: str
    vote: str
    weight: float = 1.0


class TermIndex:
    """Finds which terms occur in a text; one inside a longer one that occurs does not count there.

    terms: words and phrases, comparable and each once. whole_words: whether a term must not touch letters, digits or
    underscores. ignore_case: compared case-folded. Raises MissingDependency without ahocorasick-rs.

    >>> sorted(TermIndex(["shirt", "t-shirt", "hat"]).find("A T-shirt and that hat"))
    [1, 2]
    """

    def __init__(self, terms: Sequence[str], *, whole_words: bool = True, ignore_case: bool = True) -> None:
        try:
            from ahocorasick_rs import AhoCorasick
        except ImportError:
            raise MissingDependency(
                "dictionaries need ahocorasick-rs, which is not installed; run: pip install 'manyeyes[serve]'"
            ) from None
        self._whole_words = whole_words
        self._ignore_case = ignore_case
        self._index: Any = AhoCorasick(list(terms)) if terms else None

    def find(self, text: str) -> set[int]:
        """Return the indices of the terms that occur in a text."""
        if self._index is None:
            return set()
        text = comparable(text, ignore_case=self._ignore_case)
        places = self._index.find_matches_as_indexes(text, overlapping=True)
        if self._whole_words:
            places = [place for place in places if _stands_alone(text, place[1], place[2])]
        found = set()
        reached = -1
        # Of terms that begin alike the longest comes first, so that what ends before the farthest end lies inside.
        for term, _, end in sorted(places, key=lambda place: (place[1], -place[2])):
            if end > reached:
                found.add(term)
                reached = end
        return found


def _stands_alone(text: str, start: int, end: int) -> bool:
    return not (start and in_word(text[start - 1])) and not (end < len(text) and in_word(text[end]))


def read_terms(content: bytes, name: str, *, vote: str | None, classes: Sequence[str]) -> list[Term]:
    """Return the terms of a file.

    name: ends in .csv or .tsv for a table whose first line names the columns word, class and, if it likes, weight; else
    it is a list, one term a line, lines that begin with # left out. vote: the class of terms that name none.
    Raises InvalidRecipe if the file is not one of these, names a class that there is not, or has too many terms.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidRecipe(f"{name!r} is not UTF-8: byte {error.start}") from None
    delimiter = next((mark for suffix, mark in _DELIMITERS.items() if name.lower().endswith(suffix)), None)
    terms: list[Term] = []
    lines = _list(text, vote) if delimiter is None else _table(text, name, delimiter, vote)
    for line, term in lines:
        if not term.word.split():
            raise InvalidRecipe(f"{name}, line {line}: the word is empty; leave the line out")
        if term.vote not in classes:
            raise InvalidRecipe(
                f"{name}, line {line}: unknown class {term.vote!r}; classes:"
                f" {', '.join(classes)}{nearest(term.vote, classes)}"
                if term.vote
                else f"{name}, line {line}: no class; write vote: into the LF, or name a class for every word"
            )
        terms.append(term)
        if len(terms) > MAX_TERMS:
            raise InvalidRecipe(f"{name!r} has more than the {MAX_TERMS:,} terms that an LF may have")
    return terms


def _list(text: str, vote: str | None) -> Iterator[tuple[int, Term]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, Term(line.strip(), vote or "")


def _table(text: str, name: str, delimiter: str, vote: str | None) -> Iterator[tuple[int, Term]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = reader.fieldnames or []
    if "word" not in columns or not set(columns) <= set(_COLUMNS):
        raise InvalidRecipe(
            f"{name!r} has the columns {', '.join(map(str, columns)) or 'none'}; its first line names word, class and,"
            " if there are any, weight"
        )
    try:
        for row in reader:
            told = row.get("weight") or "1"
            try:
                weight = float(told)
            except ValueError:
                weight = math.nan
            if not math.isfinite(weight):
                raise InvalidRecipe(f"{name}, line {reader.line_num}: {told!r} is no weight; write a number")
            yield (
                reader.line_num,
                Term((row["word"] or "").strip(), (row.get("class") or "").strip() or vote or "", weight),
            )
    except csv.Error as error:
        raise InvalidRecipe(f"{name}, line {reader.line_num}: {error}") from None
