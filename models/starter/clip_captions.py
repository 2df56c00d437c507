"""The words that the head of the starter CLIP is taught: names, templates and levels from `captions.yaml`.

A *level* divides the world into columns, from the 1000 ImageNet classes to a score of very broad kinds. Every column
has many captions (names times templates), and a matrix says how the probabilities of the ImageNet classes add up to
columns. Training draws one caption per column at each step, so no single wording carries a class.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from manyeyes.models.starter.clip import StarterClip

CAPTIONS_FILE: Final = Path(__file__).with_name("captions.yaml")
N_IMAGENET: Final = 1000
_COUNTS: Final = {1: "a", 2: "two", 3: "three", 4: "four"}
_PLURALS: Final = {"person": "people", "bus": "buses", "sheep": "sheep", "skis": "skis", "knife": "knives"}


@dataclass(frozen=True)
class Level:
    """One division of the world into columns.

    names: for each column the names it goes by. owners: int64, shape (1000,); the column of each ImageNet class, 0 for
    one that is left out. columns: (data set, label) → column, for labels that mean a whole column.
    """

    names: list[list[str]]
    owners: torch.Tensor
    columns: dict[tuple[str, str], int]

    def sum_classes(self, classes: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of the columns, shape (n, n_columns), from those of ImageNet's, shape (n, 1000)."""
        # A class that is left out has no probability to put into column 0.
        return torch.zeros(len(classes), len(self.names)).index_add_(1, self.owners, classes)


@dataclass(frozen=True)
class Vocabulary:
    """Everything in captions.yaml, with the ImageNet class names of the sample photographs.

    leave_out: ImageNet classes that training must not hear of (to measure transfer to them).
    """

    raw: dict[str, Any]
    class_names: list[list[str]]
    leave_out: frozenset[int] = frozenset()

    @property
    def templates(self) -> list[str]:
        return list(self.raw["templates"])

    @property
    def held_out_templates(self) -> list[str]:
        return list(self.raw["held_out_templates"])

    @cached_property
    def levels(self) -> dict[str, Level]:
        """The levels by name: "fine" (ImageNet's classes), "mid", "coarse" and "top"."""
        return {"fine": self._level([])} | {
            name: self._level(groups) for name, groups in self.raw["groups"].items()
        }

    def held_out_names(self, data_set: str) -> dict[str, list[str]]:
        """Return for each label of a data set the names that training never sees."""
        groups = self.raw["groups"]["coarse"]
        return {group[data_set]: list(group.get("held_out", ())) for group in groups if data_set in group}

    def caption(self, template: str, name: str) -> str:
        """Return a template with the name filled in, and its article.

        >>> vocabulary.caption("a photo of {a} {}", "apple")  # doctest: +SKIP
        'a photo of an apple'
        """
        plural = (name.endswith("s") and not name.endswith(("ss", "us"))) or name.startswith(("a ", "the "))
        article = (
            "" if plural or name in self.raw["no_article"] else "an" if name[0].lower() in "aeiou" else "a"
        )
        if article and "{a} {}" not in template and "{a} " in template:
            article = "a"  # an adjective stands between the article and the name
        return " ".join(template.replace("{a}", article).replace("{}", name).split())

    def _level(self, groups: Sequence[dict[str, Any]]) -> Level:
        names: list[list[str]] = []
        owner: dict[int, int] = {}
        columns: dict[tuple[str, str], int] = {}
        for group in groups:
            children = [c for c in read_numbers(group.get("imagenet", "")) if c not in self.leave_out]
            owner |= dict.fromkeys(children, len(names))
            columns |= {(s, group[s]): len(names) for s in ("clothing", "cifar10", "coco") if s in group}
            # A data set's own label is the likeliest word in a prompt, however odd ("longsleeve", "outwear").
            labels = [group[s] for s in ("clothing", "cifar10") if s in group]
            names.append(list(group["names"]) + 2 * labels)
        for number in range(N_IMAGENET):
            if number not in owner and number not in self.leave_out:
                owner[number] = len(names)
                names.append(self.class_names[number])
        owners = torch.tensor([owner.get(number, 0) for number in range(N_IMAGENET)])
        return Level(names, owners, columns)


@dataclass(frozen=True)
class CaptionBank:
    """Embedded captions of a level's columns, to draw from.

    embeddings: float32, shape (n_captions, 384), unit norm; the captions of column c are the `counts[c]` rows that
    begin at `starts[c]`.
    """

    embeddings: torch.Tensor
    starts: torch.Tensor
    counts: torch.Tensor

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Return one caption for every column, shape (n_columns, 384)."""
        chosen = torch.rand(len(self.counts), generator=generator) * self.counts
        return self.embeddings[self.starts + chosen.long()]


def load_vocabulary(data: Path, leave_out: Sequence[int] = ()) -> Vocabulary:
    """Read captions.yaml, and the ImageNet class names from the file names in `data`/imagenet_sample.zip."""
    raw = yaml.safe_load(CAPTIONS_FILE.read_text(encoding="utf-8"))
    with zipfile.ZipFile(data / "imagenet_sample.zip") as archive:
        files = sorted(n for n in archive.namelist() if n.endswith(".jpg"))
    names = [Path(file).stem.replace("_", " ") for file in files]
    better = {int(number): list(given) for number, given in raw["imagenet"].items()}
    return Vocabulary(raw, [better.get(i, [name]) for i, name in enumerate(names)], frozenset(leave_out))


def build_bank(
    names: list[list[str]], vocabulary: Vocabulary, encoder: TextEncoder, rng: np.random.Generator
) -> CaptionBank:
    """Embed captions for every column: more templates for few, broad columns than for many."""
    per_name = 20 if len(names) < 500 else 8
    texts: list[str] = []
    counts = []
    for column in names:
        captions = []
        for name in column:
            chosen = rng.choice(len(vocabulary.templates), per_name, replace=False)
            captions += [vocabulary.caption(vocabulary.templates[i], name) for i in chosen]
        texts += captions
        counts.append(len(captions))
    sizes = torch.tensor(counts)
    return CaptionBank(encoder(texts), sizes.cumsum(0) - sizes, sizes)


class TextEncoder:
    """Texts → unit-norm float32 embeddings, shape (n_texts, 384); a text already seen is not embedded again.

    store: an .npz file that keeps what was embedded, for the next run; None keeps it in memory only.
    """

    def __init__(self, starter: StarterClip, store: Path | None = None, batch_size: int = 256) -> None:
        self.starter = starter
        self.store = store
        self.batch_size = batch_size
        self.known: dict[str, NDArray[np.float16]] = {}
        if store is not None and store.exists():
            with np.load(store) as stored:
                self.known = dict(zip(stored["texts"].tolist(), stored["embeddings"], strict=True))

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        # Sorted by length, a batch holds little padding, and padding is where most of the time would go.
        fresh = sorted(set(texts) - set(self.known), key=lambda text: (len(text), text))
        for start in range(0, len(fresh), self.batch_size):
            batch = fresh[start : start + self.batch_size]
            tokens = self.starter.tokenizer(batch)
            tokens = tokens[:, : int((tokens != 0).sum(1).max())]
            with torch.inference_mode():
                embedded = self.starter.model.encode_text(tokens, normalize=True)
            self.known |= dict(zip(batch, embedded.numpy().astype(np.float16), strict=True))
        if fresh and self.store is not None:
            np.savez(
                self.store, texts=np.array(list(self.known)), embeddings=np.stack(list(self.known.values()))
            )
        stacked = torch.from_numpy(np.stack([self.known[text] for text in texts])).float()
        return torch.nn.functional.normalize(stacked, dim=-1)


def describe_contents(contents: str, rng: np.random.Generator) -> str:
    """Return a caption for a photograph from its JSON {object: count}, such as "two people and a dog in a photo"."""
    counts: dict[str, int] = json.loads(contents)
    chosen = sorted(counts, key=lambda label: -counts[label] * rng.uniform(0.3, 1))[:3]
    if not chosen:
        return str(rng.choice(["a photo of a scene", "a photo without people", "some place"]))
    phrases = []
    for label in chosen:
        count = counts[label]
        many = _PLURALS.get(label, label + "s")
        word = _COUNTS.get(count, "several")
        phrases.append(f"{word} {many if count > 1 else label}")
    listed = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    frame = str(
        rng.choice(["{}", "a photo of {}", "{} in a photo", "a scene with {}", "there is {} in the picture"])
    )
    return frame.format(listed)


def read_numbers(ranges: str | int) -> list[int]:
    """Return the numbers in a text like "3-5,9".

    >>> read_numbers("3-5,9")
    [3, 4, 5, 9]
    """
    numbers: list[int] = []
    for part in filter(None, str(ranges).split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers
