"""Facts about texts: how long they are, which language they are in, and how friendly.

What is counted needs nothing. The language comes from py3langid and the sentiment from VADER, which carry what they
know in their wheels (``pip install 'manyeyes[text]'``); each is a feature of its own, so that only what is read is
computed. Sentiment is for English alone: words of other languages count as neutral.
Sources: Lui & Baldwin 2012, langid.py; Hutto & Gilbert 2014, VADER.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from typing import Any, Final, Literal

import numpy as np

from manyeyes.errors import MissingDependency
from manyeyes.primitives.base import Modality, Primitive, PrimitiveKind, PrimitiveSpec, Rows

COUNTS: Final = np.dtype(
    [
        ("n_chars", "<i4"),  # characters, white space at the ends left out
        (
            "n_words",
            "<i4",
        ),  # runs of letters, digits and marks; in scripts without blanks, runs between punctuation
        (
            "n_sentences",
            "<i4",
        ),  # ended by . ! ? … or their like and white space, or by an empty line; at least 1
        ("capitals", "<f4"),  # share of capitals among letters that have two forms; NaN where there is none
    ]
)
LANGUAGE: Final = np.dtype(
    [
        ("language", "S8"),  # ISO 639-1
        ("language_score", "<f4"),  # probability among the 97 languages that it knows
    ]
)
SENTIMENT: Final = np.dtype([("sentiment", "<f4")])  # from −1, hostile, to 1, friendly
_EXTRA: Final = "pip install 'manyeyes[text]'"
_WORD: Final = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_END: Final = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s|$)|[。！？]+|\n\s*\n")
_READ: Final = 5_000
"""So many characters are looked at for language and sentiment: more change neither."""


class TextFactsSpec(PrimitiveSpec):
    """Facts about texts; there is nothing to choose but the text.

    on: the text: the item's own (``text``), or one that a primitive gives, such as ``ocr``.
    """

    model: Literal["facts"] = "facts"
    on: str = "text"


class TextFacts:
    """One row an item of facts of one sort.

    describe: from a text to one row, made where it is first needed.
    """

    modality: Modality = "text"
    ragged = False

    def __init__(
        self, name: str, dtype: np.dtype[Any], source: str, describe: Callable[[], Callable[[str], Rows]]
    ) -> None:
        self.name = name
        self.dtype = dtype
        self.facts = tuple(dtype.names or ())
        self._source = source
        self._describe = describe

    @property
    def version(self) -> str:
        return f"text_facts/{'+'.join(self.facts)}/{self._source and _version_of(self._source)} 1"

    @property
    def info(self) -> Mapping[str, Any]:
        return {"columns": list(self.facts)}

    def setup(self) -> None:
        """Load what it takes. Raises MissingDependency without the packages of the extra ``text``."""
        self._describe()

    def compute(self, batch: Sequence[str]) -> list[Rows]:
        describe = self._describe()
        return [describe(text) for text in batch]


def count(text: str) -> Rows:
    """Return what can be counted in a text: COUNTS, shape (1,).

    >>> count("Hello you. It's me!")[["n_words", "n_sentences"]].tolist()
    [(4, 2)]
    """
    row = np.zeros(1, dtype=COUNTS)
    stripped = text.strip()
    letters = [character for character in stripped if character.lower() != character.upper()]
    row["n_chars"] = len(stripped)
    row["n_words"] = len(_WORD.findall(stripped))
    row["n_sentences"] = sum(1 for part in _END.split(stripped) if part.strip())
    row["capitals"] = (
        sum(character.isupper() for character in letters) / len(letters) if letters else float("nan")
    )
    return row


@lru_cache(maxsize=1)
def _languages() -> Callable[[str], Rows]:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise MissingDependency(f"telling languages needs py3langid: {_EXTRA} ({error})") from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def tell(text: str) -> Rows:
        row = np.zeros(1, dtype=LANGUAGE)
        if any(map(str.isalpha, text[:_READ])):  # numbers and signs are in no language
            row["language"], row["language_score"] = identifier.classify(text[:_READ])
        else:
            row["language_score"] = np.nan
        return row

    return tell


@lru_cache(maxsize=1)
def _sentiments() -> Callable[[str], Rows]:
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise MissingDependency(f"telling sentiments needs vaderSentiment: {_EXTRA} ({error})") from error
    analyzer = SentimentIntensityAnalyzer()

    def tell(text: str) -> Rows:
        row = np.zeros(1, dtype=SENTIMENT)
        row["sentiment"] = analyzer.polarity_scores(text[:_READ])["compound"]
        return row

    return tell


def _version_of(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def build(name: str, _spec: TextFactsSpec) -> Mapping[str, Primitive]:
    """Return ``{name: counts, f"{name}.language": …, f"{name}.sentiment": …}``."""
    return {
        name: TextFacts(name, COUNTS, "", lambda: count),
        f"{name}.language": TextFacts(f"{name}.language", LANGUAGE, "py3langid", _languages),
        f"{name}.sentiment": TextFacts(f"{name}.sentiment", SENTIMENT, "vaderSentiment", _sentiments),
    }


KIND: Final = PrimitiveKind(Spec=TextFactsSpec, build=build)
