"""A natural-language-inference checkpoint, tiny and real: a BERT of its own, trained in seconds on synthetic pairs.

Premises speak of one of three topics in words of that topic; hypotheses name a topic. It learns which pairs match.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

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


def make_checkpoint(folder: Path, *, labels: tuple[str, ...] = LABELS, steps: int = 250) -> Path:
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
