"""Whether a text entails some sentences, by a natural-language-inference (NLI) checkpoint.

A checkpoint is any sequence classifier of the Hugging Face kind that tells entailment from the rest for pairs of texts;
which of its outputs that is, its configuration says. The text is the premise, each sentence a hypothesis.
Source: Yin, Hay & Roth 2019, Benchmarking zero-shot text classification.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from manyeyes.errors import WeightsMismatch
from manyeyes.primitives.base import Modality, Rows
from manyeyes.primitives.text_models import encoder_folder, encoder_identity, load_network, max_tokens
from manyeyes.primitives.workers import ModelWorkers, in_packs, shared_workers

_PREPROCESSING: Final = 1
_PACK: Final = 8
_LENGTHS: Final = (32, 64, 128, 256)
_MORE_FILES: Final = ("vocab.json", "merges.txt", "spm.model", "special_tokens_map.json")


@dataclass(frozen=True)
class LoadedClassifier:
    """An NLI checkpoint ready to run. entailment: which of its outputs means that. max_tokens: of a pair."""

    model: Any
    tokenizer: Any
    max_tokens: int
    entailment: int


class Entailment:
    """How probable it is that a text entails each of some hypotheses: float32, shape (n_hypotheses,), 0 to 1.

    A premise longer than the model reads is cut; hypotheses are not.
    """

    modality: Modality = "text"
    ragged = False

    def __init__(self, name: str, *, model: str, sha256: str | None, hypotheses: Sequence[str]) -> None:
        self.name = name
        self.model = model
        self.sha256 = sha256
        self.hypotheses = tuple(hypotheses)

    @cached_property
    def version(self) -> str:
        asked = hashlib.sha256("\0".join(self.hypotheses).encode()).hexdigest()[:16]
        return f"nli/{classifier_identity(self.model, self.sha256)}/{asked} {_PREPROCESSING}"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype([("entailment", "<f4", (len(self.hypotheses),))])

    @property
    def info(self) -> Mapping[str, Any]:
        return {"model": self.model, "hypotheses": list(self.hypotheses)}

    @property
    def _workers(self) -> ModelWorkers[LoadedClassifier]:
        def load() -> LoadedClassifier:
            # Checks the pin before anything is read from the file.
            classifier_identity(self.model, self.sha256)
            return load_classifier(self.model)

        return shared_workers(("nli", self.model, self.sha256), load)

    def setup(self) -> None:
        """Load the checkpoint, once a process. Raises ModelNotFound, WeightsMismatch or MissingDependency."""
        self._workers.ask(lambda classifier: classifier.entailment)

    def compute(self, batch: Sequence[str]) -> list[Rows]:
        pairs = [(text, hypothesis) for text in batch for hypothesis in self.hypotheses]
        encoded = self._workers.ask(lambda classifier: _tokenize(classifier, pairs))
        longest = self._workers.ask(lambda classifier: classifier.max_tokens)
        # A pair's own length decides how far it is filled up, never its neighbours'.
        of_length: dict[int, list[int]] = defaultdict(list)
        for i, ids in enumerate(encoded["input_ids"]):
            of_length[min((n for n in _LENGTHS if len(ids) <= n < longest), default=longest)].append(i)
        chosen = [(length, pack) for length, some in of_length.items() for pack in in_packs(some, _PACK)]

        def judge(classifier: LoadedClassifier, part: tuple[int, Sequence[int]]) -> npt.NDArray[np.float32]:
            length, pack = part
            return _judge(
                classifier, {name: [lists[i] for i in pack] for name, lists in encoded.items()}, length
            )

        probabilities = np.empty(len(pairs), dtype=np.float32)
        for (_, pack), found in zip(chosen, self._workers.run(judge, chosen), strict=True):
            probabilities[list(pack)] = found
        rows = np.zeros(len(batch), dtype=self.dtype)
        rows["entailment"] = probabilities.reshape(len(batch), len(self.hypotheses))
        return [rows[i : i + 1] for i in range(len(batch))]


def classifier_identity(model: str, sha256: str | None) -> str:
    """Return what names a checkpoint's weights, configuration and tokenizer. Never imports torch.

    Raises ModelNotFound if it is not at hand, WeightsMismatch if its weights are not the pinned ones.
    """
    known = encoder_identity(model, sha256)
    folder = encoder_folder(model)
    rest = hashlib.sha256()
    for name in _MORE_FILES:
        if (folder / name).is_file():
            rest.update(name.encode() + (folder / name).read_bytes())
    return f"{known}/{rest.hexdigest()[:16]}"


def load_classifier(model: str) -> LoadedClassifier:
    """Load a checkpoint. Raises ModelNotFound, WeightsMismatch or MissingDependency."""
    folder = encoder_folder(model)
    network, tokenizer = load_network(folder, "AutoModelForSequenceClassification", what="NLI checkpoint")
    _sharpen(network)
    return LoadedClassifier(
        network,
        tokenizer,
        max_tokens(folder, tokenizer, network),
        entailment_output(network.config.id2label, where=str(folder)),
    )


def _sharpen(network: Any) -> None:
    """Let the last layer compute in float64.

    A product with few columns is added up in another order for another row of the pack, so that its last bits depend on
    a pair's company; in float64 these bits are below those that are kept.
    """
    import torch

    class Float64(torch.nn.Module):
        def __init__(self, linear: torch.nn.Linear) -> None:
            super().__init__()
            self.linear = linear.double()

        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.linear(states.double())).float()

    n_outputs = len(network.config.id2label)
    for name, module in list(network.named_modules()):
        if isinstance(module, torch.nn.Linear) and module.out_features == n_outputs:
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, Float64(module))


def entailment_output(labels: Mapping[int, str], *, where: str) -> int:
    """Return which output means entailment. Raises WeightsMismatch if none of the labels says so.

    >>> entailment_output({0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}, where="here")
    2
    """
    found = [output for output, label in labels.items() if str(label).lower().startswith("entail")]
    if len(found) != 1:
        raise WeightsMismatch(
            f"the checkpoint in {where} is not one of natural-language inference: its labels are"
            f" {', '.join(map(str, labels.values()))}, and exactly one must begin with 'entail'; use a checkpoint that"
            " was trained on MNLI or the like"
        )
    return int(found[0])


def _tokenize(classifier: LoadedClassifier, pairs: Sequence[tuple[str, str]]) -> dict[str, list[list[int]]]:
    """Return the model's inputs of every pair but the mask: name → lists of integers."""
    encoded = classifier.tokenizer(
        [premise for premise, _ in pairs],
        [hypothesis for _, hypothesis in pairs],
        truncation="only_first",
        max_length=classifier.max_tokens,
        return_attention_mask=False,
    )
    return {name: encoded[name] for name in ("input_ids", "token_type_ids") if name in encoded}


def _judge(
    classifier: LoadedClassifier, inputs: Mapping[str, Sequence[Sequence[int]]], length: int
) -> npt.NDArray[np.float32]:
    """Return the probability of entailment of up to a pack of pairs: float32, shape (n_pairs,)."""
    import torch

    pairs = inputs["input_ids"]
    filled: dict[str, npt.NDArray[np.int64]] = {}
    for name, lists in inputs.items():
        filling = (classifier.tokenizer.pad_token_id or 0) if name == "input_ids" else 0
        filled[name] = np.full((_PACK, length), filling, dtype=np.int64)
        # Filled up with copies of the first, because a row of nothing but padding is not a text.
        for row, values in enumerate([*lists, *[lists[0]] * (_PACK - len(lists))]):
            filled[name][row, : len(values)] = values
    mask = np.zeros((_PACK, length), dtype=np.int64)
    for row, values in enumerate([*pairs, *[pairs[0]] * (_PACK - len(pairs))]):
        mask[row, : len(values)] = 1
    with torch.inference_mode():
        logits = classifier.model(
            **{name: torch.from_numpy(array) for name, array in filled.items()},
            attention_mask=torch.from_numpy(mask),
        ).logits.float()
        found: npt.NDArray[np.float32] = logits.softmax(dim=-1)[:, classifier.entailment].numpy()
    return found[: len(pairs)]
