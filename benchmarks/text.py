"""What reading texts costs: dictionaries beside keyword LFs and a loop over words, and facts about texts.

python -m benchmarks.text [--json] [--quick]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.bars import Bar, arguments, show, told
from manyeyes import Item
from manyeyes.lfs.base import LabelingFunction
from manyeyes.lfs.build import build_lf
from manyeyes.primitives.base import FeatureSet
from manyeyes.primitives.fields import KIND as FIELDS
from manyeyes.primitives.text_facts import KIND as FACTS
from manyeyes.registry import load

SYLLABLES = [consonant + vowel for consonant in "bcdfgklmnprstvwz" for vowel in "aeiou"]
FIELD_SPECS = {"price": {"type": "price"}, "day": {"type": "date"}, "links": {"type": "url", "take": "count"}}


def lf_of(**fields: Any) -> LabelingFunction:
    """Return an LF, prepared."""
    spec = load("manyeyes.lfs", fields["kind"]).Spec.model_validate({"name": "lf", **fields})
    built = build_lf(spec, ("yes", "no"))
    built.prepare(None)  # type: ignore[arg-type]
    return built


def words_of(rng: np.random.Generator, n: int, length: int) -> list[str]:
    """Return n different words of some syllables."""
    made: dict[str, None] = {}
    while len(made) < n:
        made["".join(rng.choice(SYLLABLES, size=length))] = None
    return list(made)


def median_s(work: Callable[[], object], *, times: int = 5) -> float:
    """Return the median of the seconds that some work takes."""
    work()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def dictionaries(rng: np.random.Generator, texts: Sequence[str], vocabulary: Sequence[str]) -> list[Bar]:
    """Measure a dictionary of 1,000 and of 20,000 words."""
    features = FeatureSet([Item(str(i), text=text) for i, text in enumerate(texts)])
    few = rng.choice(vocabulary, size=1_000, replace=False).tolist()
    halves: Mapping[str, list[str]] = {"yes": few[:500], "no": few[500:]}
    dictionary = lf_of(kind="dictionary", words=halves)
    keyword = lf_of(kind="keyword", votes=halves)
    assert np.array_equal(dictionary.vote(features).classes, keyword.vote(features).classes)
    ours = median_s(lambda: dictionary.vote(features))
    scanning = median_s(lambda: keyword.vote(features), times=3)

    def loop() -> list[int]:
        return [
            sum(word in split for word in few)
            for split in map(set, map(str.split, texts[: len(texts) // 20]))
        ]

    looping = 20 * median_s(loop, times=3)
    many: dict[str, list[str]] = {"yes": list(vocabulary[:5_000]), "no": list(vocabulary[5_000:10_000])}
    large = lf_of(kind="dictionary", words=many)
    return [
        told("dictionary of 1,000 words, texts a second", len(texts) / ours, unit="texts/s"),
        told("as fast as a keyword LF with the same words and votes", scanning / ours, peer="kind: keyword"),
        told("as fast as `word in set(text.split())` a word", looping / ours, peer="a loop in Python"),
        told(
            "dictionary of 10,000 words, texts a second",
            len(texts) / median_s(lambda: large.vote(features), times=3),
            unit="texts/s",
        ),
    ]


def facts(texts: Sequence[str]) -> list[Bar]:
    """Measure each sort of fact, and fields."""
    built: dict[str, Any] = dict(FACTS.build("text_facts", FACTS.Spec(kind="text_facts")))
    spec = FIELDS.Spec.model_validate({"kind": "fields", "fields": FIELD_SPECS})
    built |= FIELDS.build("fields", spec)
    bars = []
    for name, primitive in built.items():
        primitive.setup()
        took = median_s(lambda primitive=primitive: primitive.compute(texts), times=3)  # type: ignore[misc]
        bars.append(told(f"{name}, texts a second, one thread", len(texts) / took, unit="texts/s"))
    return bars


def main() -> int:
    """Make texts, measure, print."""
    options = arguments(__doc__).parse_args()
    rng = np.random.default_rng(0)
    vocabulary = words_of(rng, 10_000, 4)
    n_texts = 2_000 if options.quick else 10_000
    texts = [" ".join(rng.choice(vocabulary, size=int(rng.integers(5, 30)))) for _ in range(n_texts)]
    bars = [*dictionaries(rng, texts, vocabulary), *facts(texts[: n_texts // 5])]
    return show("Texts", bars, as_json=options.json)


if __name__ == "__main__":
    raise SystemExit(main())
