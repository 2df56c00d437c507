"""Sentence embeddings: those that sentence-transformers gives, whatever the company and the length."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from manyeyes.errors import ModelNotFound, WeightsMismatch
from manyeyes.models.weights import CARRIED, find_weights
from manyeyes.primitives.base import Primitive
from manyeyes.primitives.text import TextSpec, build


def encoder(**options: object) -> Primitive:
    return build("text", TextSpec(kind="text", **options))["text"]  # type: ignore[arg-type]


def embed(primitive: Primitive, texts: list[str]) -> np.ndarray:
    return np.concatenate([row["embedding"] for row in primitive.compute(texts)])


@pytest.mark.slow
def test_minilm_is_what_its_authors_publish(texts: list[str]) -> None:
    """Tokens, mean over those that are not padding, length 1: written out once more, one text at a time."""
    from manyeyes.models.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = find_weights("minilm")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    wanted = []
    for text in texts:
        tokens = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            mean = model(**tokens).last_hidden_state[0].mean(dim=0)
        wanted.append((mean / mean.norm()).numpy())
    assert embed(encoder(), texts) == pytest.approx(np.stack(wanted), abs=1e-5)


@pytest.mark.slow
def test_meaning_is_near() -> None:
    rows = embed(encoder(), ["a cat sits on a mat", "a kitten is on the rug", "the stock market fell"])
    near, far = rows[0] @ rows[1], rows[0] @ rows[2]
    assert near > 0.5 > 0.2 > far


@pytest.mark.slow
def test_pooling_is_a_choice() -> None:
    mean, first = encoder(), encoder(pooling="first")
    assert mean.version != first.version
    assert embed(mean, ["a cat"]) != pytest.approx(embed(first, ["a cat"]), abs=0.01)


@pytest.mark.slow
def test_a_local_folder(tmp_path: Path, texts: list[str]) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(find_weights("minilm"), folder)
    local = encoder(model=str(folder))
    assert embed(local, texts).tobytes() == embed(encoder(), texts).tobytes()
    assert local.version != encoder().version
    # Another limit is another model.
    settings = folder / "sentence_bert_config.json"
    settings.write_text(json.dumps({"max_seq_length": 8}))
    short = encoder(model=str(folder))
    assert short.version != local.version
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"model\.safetensors"):
        encoder(model=str(folder)).version  # noqa: B018


@pytest.mark.parametrize("model", ["nobody/nothing", "/nowhere/encoder"])
def test_what_is_not_there(model: str) -> None:
    with pytest.raises(ModelNotFound, match=r"minilm|there is no folder"):
        encoder(model=model).setup()


def test_a_pin_is_respected() -> None:
    digest = CARRIED["minilm"].sha256
    assert digest in encoder(sha256=digest).version
    with pytest.raises(WeightsMismatch, match=digest):
        encoder(sha256="0" * 64).version  # noqa: B018
