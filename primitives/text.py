"""Sentence embeddings from a Hugging Face encoder; MiniLM unless another is named."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from manyeyes.primitives.base import Modality, Primitive, PrimitiveKind, PrimitiveSpec, Rows
from manyeyes.primitives.embeddings import dtype_of, rows_of
from manyeyes.primitives.text_models import (
    CARRIED_NAMES,
    MINILM_DIM,
    LoadedEncoder,
    encoder_identity,
    load_encoder,
)
from manyeyes.primitives.workers import ModelWorkers, in_packs, shared_workers

_PREPROCESSING: Final = 1
_PACK: Final = 8
_LENGTHS: Final = (16, 32, 64, 128, 256)
# How sure a cosine of 1 against 0 makes: what sentence encoders are trained with, 1 / 0.05.
_LOGIT_SCALE: Final = 20.0


class TextSpec(PrimitiveSpec):
    """Which encoder.

    model: ``minilm``, the name of a hub's repository, or the path of a folder. pooling: the mean over all tokens, or
    the first token alone, as the encoder was trained.
    """

    model: str = "minilm"
    pooling: Literal["mean", "first"] = "mean"


class TextEmbeddings:
    """Embeddings of texts: float32, shape (dim,), of length 1. A text longer than the model reads is cut."""

    modality: Modality = "text"
    ragged = False

    def __init__(self, name: str, spec: TextSpec) -> None:
        self.name = name
        self.spec = spec

    @cached_property
    def version(self) -> str:
        return (
            f"text/{encoder_identity(self.spec.model, self.spec.sha256)}/{self.spec.pooling} {_PREPROCESSING}"
        )

    @property
    def dtype(self) -> np.dtype[Any]:
        return dtype_of(self._dim)

    @property
    def info(self) -> Mapping[str, Any]:
        return {"dim": self._dim, "logit_scale": _LOGIT_SCALE, "model": self.spec.model}

    @property
    def _dim(self) -> int:
        if self.spec.model in CARRIED_NAMES:
            return MINILM_DIM
        return self._workers.ask(lambda encoder: encoder.dim)

    @property
    def _workers(self) -> ModelWorkers[LoadedEncoder]:
        def load() -> LoadedEncoder:
            # Checks the pin before anything is read from the file.
            encoder_identity(self.spec.model, self.spec.sha256)
            return load_encoder(self.spec.model)

        return shared_workers(("text", self.spec.model, self.spec.sha256), load)

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._workers.is_loaded

    def setup(self) -> None:
        """Load the encoder, once a process and spec. Raises ModelNotFound, WeightsMismatch or MissingDependency."""
        self._workers.ask(lambda encoder: encoder.dim)

    def compute(self, batch: Sequence[str]) -> list[Rows]:
        tokens = self._workers.ask(lambda encoder: _tokenize(encoder, batch))
        # A text's own length decides how far it is filled up, never its neighbours'.
        longest = self._workers.ask(lambda encoder: encoder.max_tokens)
        of_length: dict[int, list[int]] = defaultdict(list)
        for i, ids in enumerate(tokens):
            of_length[min((n for n in _LENGTHS if len(ids) <= n < longest), default=longest)].append(i)
        chosen = [(length, pack) for length, texts in of_length.items() for pack in in_packs(texts, _PACK)]

        def embed(encoder: LoadedEncoder, part: tuple[int, Sequence[int]]) -> npt.NDArray[np.float32]:
            return _embed(encoder, [tokens[i] for i in part[1]], length=part[0], pooling=self.spec.pooling)

        rows: dict[int, Rows] = {}
        for (_, pack), vectors in zip(chosen, self._workers.run(embed, chosen), strict=True):
            rows |= zip(pack, rows_of(list(vectors)), strict=True)
        return [rows[i] for i in range(len(batch))]


def _tokenize(encoder: LoadedEncoder, batch: Sequence[str]) -> list[list[int]]:
    encoded = encoder.tokenizer(
        list(batch), truncation=True, max_length=encoder.max_tokens, return_attention_mask=False
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _embed(
    encoder: LoadedEncoder, texts: Sequence[Sequence[int]], *, length: int, pooling: str
) -> npt.NDArray[np.float32]:
    """Return vectors of up to a pack of texts: float32, shape (n_texts, dim)."""
    import torch

    ids = np.full((_PACK, length), encoder.tokenizer.pad_token_id or 0, dtype=np.int64)
    mask = np.zeros((_PACK, length), dtype=np.int64)
    # Filled up with copies of the first, because a row of nothing but padding is not a text.
    for row, text in enumerate([*texts, *[texts[0]] * (_PACK - len(texts))]):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    with torch.inference_mode():
        states = encoder.model(
            input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)
        ).last_hidden_state.float()
        if pooling == "first":
            pooled = states[:, 0]
        else:
            weight = torch.from_numpy(mask).unsqueeze(-1).float()
            pooled = (states * weight).sum(dim=1) / weight.sum(dim=1)
    vectors: npt.NDArray[np.float32] = pooled.numpy()
    return vectors[: len(texts)]


def build(name: str, spec: TextSpec) -> Mapping[str, Primitive]:
    """Return ``{name: texts}``."""
    return {name: TextEmbeddings(name, spec)}


KIND: Final = PrimitiveKind(Spec=TextSpec, build=build)
