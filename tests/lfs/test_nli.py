"""Entailment, by a checkpoint that is tiny and real: a BERT trained here on synthetic pairs.

Premises speak of one of three topics in words of that topic, or of none; hypotheses name a topic.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from manyeyes.errors import ModelNotFound, UntrustedRecipe, WeightsMismatch
from manyeyes.labeler import Labeler, extractor_for
from manyeyes.models.weights import file_sha256
from manyeyes.primitives.base import Features, FeatureSet
from manyeyes.primitives.cache import Cache
from manyeyes.primitives.entailment import Entailment, classifier_identity, entailment_output
from manyeyes.recipe import Recipe
from manyeyes.types import Item

TOPICS = {
    "sport": ["goal", "team", "match", "coach", "stadium", "player"],
    "food": ["soup", "bread", "cheese", "kitchen", "dinner", "sauce"],
    "weather": ["rain", "storm", "sunny", "cloud", "snow", "wind"],
}
FILLERS = ["the", "a", "was", "and", "very", "good", "today", "we", "saw", "with"]
WORDS = [
    "this",
    "text",
    "is",
    "about",
    ".",
    *TOPICS,
    *FILLERS,
    *(w for words in TOPICS.values() for w in words),
]
LABELS = ("contradiction", "entailment", "neutral")


def make_checkpoint(folder: Path, *, labels: tuple[str, ...] = LABELS, steps: int = 800) -> Path:
    """Train and save a checkpoint; return its folder. labels: in which order its outputs stand."""
    import torch

    from manyeyes.models.torchvision_ops import ensure_torchvision

    ensure_torchvision()
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = BertConfig(
        vocab_size=len(vocab), hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=64, initializer_range=0.15, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        id2label=dict(enumerate(labels)), label2id={label: i for i, label in enumerate(labels)},
    )  # fmt: skip
    network = BertForSequenceClassification(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        premises, hypotheses, truth = zip(*(_pair(rng) for _ in range(64)), strict=True)
        inputs = tokenizer(list(premises), list(hypotheses), padding=True, return_tensors="pt")
        target = torch.tensor([labels.index(label) for label in truth])
        loss = torch.nn.functional.cross_entropy(network(**inputs).logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


def premise(topic: str | None, rng: np.random.Generator) -> str:
    """Return a few words, some of them of a topic, if there is one."""
    words = rng.choice(FILLERS, size=int(rng.integers(2, 7))).tolist()
    if topic is not None:
        words += rng.choice(TOPICS[topic], size=int(rng.integers(1, 4))).tolist()
    rng.shuffle(words)
    return " ".join(words)


def _pair(rng: np.random.Generator) -> tuple[str, str, str]:
    names = [*TOPICS, None]
    said = names[int(rng.integers(4))]
    asked = said if said is not None and rng.random() < 0.5 else list(TOPICS)[int(rng.integers(3))]
    label = "neutral" if said is None else "entailment" if said == asked else "contradiction"
    return premise(said, rng), f"This text is about {asked}.", label


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("nli"))


def recipe_of(folder: Path | str, **fields: Any) -> Recipe:
    lf = {"name": "about", "kind": "nli", "model": str(folder), **fields}
    return Recipe.parse({"name": "topics", "classes": list(TOPICS), "lfs": [lf]})


def items_of(n: int, seed: int = 1) -> tuple[list[Item], list[str | None]]:
    rng = np.random.default_rng(seed)
    topics = [[*TOPICS, None][i % 4] for i in range(n)]
    return [Item(str(i), text=premise(topic, rng)) for i, topic in enumerate(topics)], topics


@pytest.mark.slow
def test_it_tells_topics_and_keeps_quiet_about_none(checkpoint: Path) -> None:
    items, topics = items_of(80)
    recipe = recipe_of(checkpoint)
    votes, errors, _ = Labeler(recipe, extractor=extractor_for(recipe, cache=None)).votes(items)
    told = [None if vote < 0 else recipe.classes[vote] for vote in votes.classes[:, 0].tolist()]
    assert not errors
    assert np.mean([a == b for a, b in zip(told, topics, strict=True)]) >= 0.95
    scores = votes.scores[votes.classes >= 0]
    assert ((scores >= 0.5) & (scores <= 1)).all()


@pytest.mark.slow
def test_which_output_is_entailment_is_read_from_the_configuration(checkpoint: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    turned = tmp_path / "turned"
    turned.mkdir()
    for file in checkpoint.iterdir():
        (turned / file.name).write_bytes(file.read_bytes())
    order = [1, 2, 0]
    weights = load_file(checkpoint / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][torch.tensor(order)].contiguous()
    save_file(weights, turned / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((checkpoint / "config.json").read_text())
    config["id2label"] = {str(i): LABELS[old].upper() for i, old in enumerate(order)}
    config["label2id"] = {label: int(i) for i, label in config["id2label"].items()}
    (turned / "config.json").write_text(json.dumps(config))
    rows = [entailment(folder, "the soup and bread", "we saw rain") for folder in (checkpoint, turned)]
    assert np.allclose(rows[0], rows[1], atol=1e-6)
    assert classifier_identity(str(checkpoint), None) != classifier_identity(str(turned), None)


def entailment(folder: Path, *texts: str) -> Any:
    hypotheses = [f"This text is about {topic}." for topic in TOPICS]
    primitive = Entailment("lf:x", model=str(folder), sha256=None, hypotheses=hypotheses)
    primitive.setup()
    return np.concatenate(primitive.compute(texts))["entailment"]


@pytest.mark.slow
def test_company_and_length_change_no_bit(checkpoint: Path) -> None:
    texts = [item.text or "" for item in items_of(9)[0]] + ["soup " * 40, "soup " * 400, "?"]
    together = entailment(checkpoint, *texts)
    assert together.shape == (12, 3) and together.dtype == np.float32
    alone = np.concatenate([entailment(checkpoint, text) for text in texts])
    assert alone.tobytes() == together.tobytes()
    assert entailment(checkpoint, *reversed(texts)).tobytes() == together[::-1].tobytes()


@pytest.mark.slow
def test_what_it_says_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    items, _ = items_of(12)
    first = Labeler(recipe_of(checkpoint), extractor=extractor_for(recipe_of(checkpoint), cache=cache))
    first.votes(items)
    assert first.counter.total > 0
    edited = recipe_of(checkpoint, threshold=0.9)
    again = Labeler(edited, extractor=extractor_for(edited, cache=cache))
    again.votes(items)
    assert again.counter.total == 0
    other = recipe_of(checkpoint, template="It is about {}.")
    asked = Labeler(other, extractor=extractor_for(other, cache=cache))
    asked.votes(items)
    assert asked.counter.total > 0
    cache.close()


@pytest.mark.slow
def test_weights_that_are_not_the_pinned_ones_are_refused(checkpoint: Path) -> None:
    digest = file_sha256(checkpoint / "model.safetensors")
    items, _ = items_of(2)
    for pin, error in ((digest, None), ("0" * 64, WeightsMismatch)):
        recipe = recipe_of(checkpoint, sha256=pin)
        labeler = Labeler(recipe, extractor=extractor_for(recipe, cache=None))
        if error is None:
            assert not labeler.votes(items)[1]
        else:
            with pytest.raises(error, match="pins"):
                labeler.votes(items)


def test_a_folder_that_is_not_there_is_named() -> None:
    recipe = recipe_of("/nowhere/model")
    with pytest.raises(ModelNotFound, match="no folder"):
        Labeler(recipe, extractor=extractor_for(recipe, cache=None)).votes(items_of(2)[0])


@pytest.mark.parametrize(
    ("labels", "output"),
    [
        (("entailment", "neutral", "contradiction"), 0),
        (("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), 2),
        (("not_entailment", "entailment"), 1),
    ],
)
def test_outputs_of_the_usual_checkpoints(labels: tuple[str, ...], output: int) -> None:
    assert entailment_output(dict(enumerate(labels)), where="x") == output


def test_a_classifier_of_something_else_is_refused() -> None:
    with pytest.raises(WeightsMismatch, match="exactly one must begin with 'entail'"):
        entailment_output({0: "LABEL_0", 1: "LABEL_1"}, where="x")


def test_the_best_hypothesis_of_a_class_counts_and_a_tie_is_no_vote(tools: Any) -> None:
    lf = tools.make_lf(kind="nli", model="any", hypotheses={"hat": ["h", "cap"], "dress": "d"}, threshold=0.6)
    given = [[0.1, 0.9, 0.2], [0.7, 0.1, 0.7], [0.3, 0.3, 0.59], [0.0, 0.0, 0.6]]
    rows = np.zeros(5, dtype=lf.primitives["lf:lf"].dtype)
    # The classes stand in the order of the recipe: dress, then hat.
    rows["entailment"][:4] = [[d, h, cap] for h, cap, d in given]
    block = Features(rows, np.array([True] * 4 + [False]))
    features = FeatureSet([Item(str(i)) for i in range(5)], {"lf:lf": block})
    assert lf.primitives["lf:lf"].hypotheses == ("d", "h", "cap")
    assert tools.votes_of(lf, features) == ["hat", None, None, "dress", None]
    assert lf.vote(features).scores[[0, 3]] == pytest.approx([0.9, 0.6])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "model"),
        ({"model": "x", "template": "no place"}, "must hold {} once"),
        ({"model": "x", "hypotheses": {"hat": []}}, "has no hypotheses"),
        ({"model": "x", "hypotheses": {"hut": "a"}}, "did you mean 'hat'?"),
        ({"model": "x", "hypotheses": {"hat": [f"h{i}" for i in range(300)]}}, "at most 200"),
        ({"model": "x", "on": "sound"}, "cannot be read"),
    ],
)
def test_what_is_refused(tools: Any, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tools.make_lf(kind="nli", **fields)
    assert told in str(caught.value)


def test_from_outside_only_models_that_the_operator_allows() -> None:
    recipe = recipe_of("acme/deberta-mnli")
    with pytest.raises(UntrustedRecipe, match=r"lfs\[0\].model: 'acme/deberta-mnli' is not allowed"):
        recipe.check_untrusted()
    recipe.check_untrusted(["nli:acme/deberta-mnli"])
    recipe.check_untrusted(["acme/deberta-mnli"])
