"""Detectors whose classes are words: YOLO-World and YOLOE, told what to look for.

Ultralytics would install OpenAI's ``clip`` from GitHub and download its weights to read the words. Here the same text
encoders come through open_clip, from a checkpoint on this machine, or are fetched where the operator allows it. A
checkpoint whose own classes are the wanted ones, as `set_classes` and `save` leave them, needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from manyeyes.errors import InvalidRecipe, ModelNotFound, WeightsMismatch, nearest
from manyeyes.primitives.clip_models import clip_identity, load_clip

if TYPE_CHECKING:
    import torch

MAX_CLASSES: Final = 500

# What ultralytics reads words with → the same weights in open_clip.
_ENCODERS: Final = {
    "clip:ViT-B/32": "ViT-B-32-quickgelu/openai",
    "mobileclip:blt": "MobileCLIP-B/datacompdr_lt",
    "mobileclip2:b": "MobileCLIP2-B/dfndr2b",
}
_WORLD: Final = "clip:ViT-B/32"
_YOLOE: Final = "mobileclip:blt"


def speaks(network: Any) -> bool:
    """Return whether a detector's network takes words for classes: YOLO-World, or YOLOE with its words still open."""
    head = network.model[-1]
    return hasattr(network, "txt_feats") or (hasattr(head, "get_tpe") and not hasattr(head, "lrpc"))


def needs_words(network: Any) -> bool:
    """Return whether a network finds nothing until it is told its classes: a YOLOE into which none were saved."""
    return speaks(network) and not hasattr(network, "txt_feats") and not hasattr(network, "pe")


def tell_classes(network: Any, classes: Sequence[str], *, text_encoder: str | None) -> None:
    """Make a network look for some classes. text_encoder: a CLIP for the words; by default the one it was trained with.

    Raises ModelNotFound if the text encoder is not at hand, WeightsMismatch if it is not of the network's kind.
    """
    names = network.names if isinstance(network.names, dict) else dict(enumerate(network.names))
    if not needs_words(network) and list(classes) == [str(names[i]) for i in sorted(names)]:
        return
    embeddings = _embed(network, classes, text_encoder=text_encoder)
    if hasattr(network, "txt_feats"):
        network.txt_feats = embeddings
        network.model[-1].nc = len(classes)
        network.names = dict(enumerate(classes))
        return
    network.set_classes(list(classes), network.model[-1].get_tpe(embeddings).detach())


def only_known(classes: Sequence[str], names: Sequence[str]) -> None:
    """Raise InvalidRecipe if one of the classes is not among a detector's own."""
    for name in classes:
        if name not in names:
            raise InvalidRecipe(
                f"this detector knows no {name!r}{nearest(name, names)}; its classes are its own, so `classes` can"
                f" only choose among them: {', '.join(names[:100])}. For other words use a YOLO-World or a YOLOE"
            )


def _embed(network: Any, classes: Sequence[str], *, text_encoder: str | None) -> torch.Tensor:
    """Return a network's text features of some classes: float32, shape (1, n_classes, dim), rows of length 1."""
    asked = _WORLD if hasattr(network, "txt_feats") else str(getattr(network, "text_model", _YOLOE))
    model = text_encoder or _ENCODERS.get(asked)
    if model is None:
        raise ModelNotFound(
            f"this detector reads words with {asked}, for which no checkpoint is known; name a CLIP with the same text"
            " encoder as text_encoder, or save a checkpoint with its classes set"
        )
    try:
        clip_identity(model, None, None)
        embedded = _encode(model, tuple(classes))
    except ModelNotFound as error:
        raise ModelNotFound(
            f"the words of this detector are read by {asked}, which is not here: {error}. Or name a local copy as"
            " text_encoder; or set the classes where there is a network, with ultralytics' own set_classes and save,"
            " and use that checkpoint with the same classes"
        ) from error
    wanted = _dim(network)
    if wanted is not None and embedded.shape[-1] != wanted:
        raise WeightsMismatch(
            f"text_encoder {model!r} gives {embedded.shape[-1]} numbers a word, the detector wants {wanted}; use"
            f" {_ENCODERS.get(asked, asked)}"
        )
    return embedded.clone()


@lru_cache(maxsize=64)
def _encode(model: str, classes: tuple[str, ...]) -> torch.Tensor:
    """Embed words with a CLIP and forget it: each thread has a detector of its own, and all want the same few words."""
    import torch

    encoder = load_clip(model, None)
    with torch.no_grad():
        embedded = encoder.model.encode_text(encoder.tokenizer(list(classes))).float()
        normalised: torch.Tensor = (embedded / embedded.norm(dim=-1, keepdim=True))[None]
    return normalised


def _dim(network: Any) -> int | None:
    if hasattr(network, "txt_feats"):
        return int(network.txt_feats.shape[-1])
    embed = getattr(network.model[-1], "embed", None)
    return int(embed) if isinstance(embed, int) else None
