"""Looking for words in many texts at once, in any script."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from manyeyes.lfs.columns import Mask

Inside: TypeAlias = "Mapping[str, Sequence[tuple[str, int]]]"
"""For a word: the longer words that it is a part of, each with the place where it begins there."""


class Texts:
    """Texts made comparable and laid end to end, so that looking for a word is one scan in C over all of them.

    present: bool, shape (n_texts,). ignore_case: whether words are compared case-folded. whole_words: whether a word
    must not touch letters, digits or underscores.
    """

    def __init__(self, texts: Sequence[str | None], *, ignore_case: bool, whole_words: bool) -> None:
        self.present = np.fromiter((text is not None for text in texts), dtype=np.bool_, count=len(texts))
        self._ignore_case = ignore_case
        self._whole_words = whole_words
        # No line end is left inside a text, so that one can stand between two of them.
        lines = "\n".join(" ".join(text.split()) if text else "" for text in texts)
        self._joined = _fold(lines, ignore_case=ignore_case)
        lengths = np.fromiter(map(len, self._joined.split("\n")), dtype=np.int64)
        self._starts = np.cumsum(lengths + 1) - (lengths + 1)
        self._found: dict[str, npt.NDArray[np.int64]] = {}

    def contain(self, word: str, *, inside: Inside | None = None) -> Mask:
        """Tell which texts contain a word or phrase: bool, shape (n_texts,).

        inside: as ``words_inside`` returns it; where the word is only a part of a longer one, it does not count.
        """
        word = comparable(word, ignore_case=self._ignore_case)
        longer = inside.get(word, ()) if inside else ()
        if longer:
            covered = np.concatenate([self._places(other) + offset for other, offset in longer])
            hits = self._places(word)
            hits = hits[~np.isin(hits, covered)]
        else:
            hits = self._scan(word, once=True)
        found = np.zeros(len(self.present), dtype=np.bool_)
        found[np.searchsorted(self._starts, hits, side="right") - 1] = True
        return found

    def _places(self, word: str) -> npt.NDArray[np.int64]:
        """Return every place of the joined texts where a word stands."""
        if word not in self._found:
            self._found[word] = self._scan(word, once=False)
        return self._found[word]

    def _scan(self, word: str, *, once: bool) -> npt.NDArray[np.int64]:
        """Return the places where a word stands, ascending; once: only one in each text."""
        joined, at = self._joined, self._joined.find(word)
        hits = []
        while at >= 0:
            start = at + 1
            if self._stands(word, at):
                hits.append(at)
                if once:
                    start = joined.find("\n", at + len(word))
                    if start < 0:
                        break
            at = joined.find(word, start)
        return np.array(hits, dtype=np.int64)

    def _stands(self, word: str, at: int) -> bool:
        """Tell whether what was found at a place is a word of its own, where it has to be."""
        if not self._whole_words:
            return True
        joined, end = self._joined, at + len(word)
        touches_before = at > 0 and in_word(joined[at - 1])
        return not touches_before and not (end < len(joined) and in_word(joined[end]))


def comparable(word: str, *, ignore_case: bool) -> str:
    """Return a word or phrase as it is looked for: white space runs made one blank, case-folded, composed."""
    return _fold(" ".join(word.split()), ignore_case=ignore_case)


def words_inside(words: Sequence[str], *, ignore_case: bool) -> Inside:
    """Return for each comparable word which of the others it is a part of, and where.

    >>> words_inside(["shirt", "T-shirt"], ignore_case=True)
    {'shirt': [('t-shirt', 2)]}
    """
    folded = sorted({comparable(word, ignore_case=ignore_case) for word in words})
    lines = "\n".join(folded)
    starts = np.cumsum([0, *(len(word) + 1 for word in folded)])
    inside: dict[str, list[tuple[str, int]]] = {}
    for word in folded:
        at = lines.find(word)
        while at >= 0:
            line = int(np.searchsorted(starts, at, side="right")) - 1
            if folded[line] != word:
                inside.setdefault(word, []).append((folded[line], at - int(starts[line])))
            at = lines.find(word, at + 1)
    return inside


def _fold(text: str, *, ignore_case: bool) -> str:
    folded = text.casefold() if ignore_case else text
    # "é" may be one character or two; NFC makes it one. Folding comes first: it can take composed letters apart.
    return folded if folded.isascii() else unicodedata.normalize("NFC", folded)


def in_word(character: str) -> bool:
    """Tell whether a character belongs to the word that it touches."""
    # Marks belong to the letter before them.
    return character.isalnum() or character == "_" or unicodedata.combining(character) > 0
