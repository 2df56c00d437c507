"""Finding and loading text encoders of the Hugging Face kind: MiniLM as it is carried, a local folder, or a hub's name.

Weights are read from safetensors only, and code that a repository brings is never run.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from manyeyes.errors import MissingDependency, ModelNotFound, WeightsMismatch
from manyeyes.models.weights import CARRIED, file_sha256, find_weights
from manyeyes.settings import downloads_allowed

CARRIED_NAMES: Final = ("minilm", "starter")
MINILM_DIM: Final = 384
_LONGEST: Final = 512


@dataclass(frozen=True)
class LoadedEncoder:
    """A text encoder ready to run. dim: of its vectors. max_tokens: what it reads of a text."""

    model: Any
    tokenizer: Any
    dim: int
    max_tokens: int


def encoder_identity(model: str, sha256: str | None) -> str:
    """Return what names an encoder's weights, configuration and tokenizer. Never imports torch.

    Raises ModelNotFound if it is not at hand, WeightsMismatch if its weights are not the pinned ones.
    """
    if model in CARRIED_NAMES:
        return f"minilm/{_pinned(CARRIED['minilm'].sha256, sha256, 'MiniLM')}"
    folder = encoder_folder(model)
    weights = _pinned(file_sha256(folder / "model.safetensors"), sha256, str(folder / "model.safetensors"))
    rest = hashlib.sha256()
    for name in (
        "config.json",
        "tokenizer.json",
        "vocab.txt",
        "tokenizer_config.json",
        "sentence_bert_config.json",
    ):
        if (folder / name).is_file():
            rest.update(name.encode() + (folder / name).read_bytes())
    return f"{weights}/{rest.hexdigest()[:16]}"


def encoder_folder(model: str) -> Path:
    """Return the folder with config.json, a tokenizer and model.safetensors. Raises ModelNotFound."""
    if model in CARRIED_NAMES:
        return find_weights("minilm")
    path = Path(model).expanduser()
    if not path.is_dir():
        if model.startswith(("/", "./", "../", "~")):
            raise ModelNotFound(f"there is no folder {path}")
        path = _hub_folder(model)
    missing = [name for name in ("config.json", "model.safetensors") if not (path / name).is_file()]
    if missing:
        raise ModelNotFound(f"the folder {path} is not a text encoder: it lacks {' and '.join(missing)}")
    return path


def load_encoder(model: str) -> LoadedEncoder:
    """Load an encoder. Raises ModelNotFound, WeightsMismatch or MissingDependency."""
    folder = encoder_folder(model)
    network, tokenizer = load_network(folder, "AutoModel", what="text encoder")
    network = getattr(network, "encoder", network) if network.config.is_encoder_decoder else network
    return LoadedEncoder(
        network, tokenizer, int(network.config.hidden_size), max_tokens(folder, tokenizer, network)
    )


def load_network(folder: Path, auto_class: str, *, what: str) -> tuple[Any, Any]:
    """Return a network of a folder, ready to be asked, and its tokenizer.

    auto_class: the class of transformers that knows the network's kind. what: what it is called in errors.
    Raises WeightsMismatch if the folder does not hold together, MissingDependency without transformers.
    """
    try:
        from manyeyes.models.torchvision_ops import ensure_torchvision

        ensure_torchvision()
        import transformers
        from transformers import AutoTokenizer
        from transformers.utils import logging as transformers_logging

        network_class = getattr(transformers, auto_class)
    except ImportError as error:
        raise MissingDependency(
            f"the {what} needs transformers and torch: pip install 'manyeyes[serve]' ({error})"
        ) from error
    shows_progress = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        network = network_class.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, dtype="float32"
        )
    except Exception as error:  # transformers raises many kinds for a folder that does not hold together
        raise WeightsMismatch(f"the {what} in {folder} cannot be loaded: {error}") from error
    finally:
        if shows_progress:
            transformers_logging.enable_progress_bar()
    network.eval().requires_grad_(False)
    return network, tokenizer


def max_tokens(folder: Path, tokenizer: Any, network: Any) -> int:
    """Return the least of what the tokenizer, the positions and sentence-transformers' settings allow."""
    limits = [_LONGEST, int(tokenizer.model_max_length)]
    positions = getattr(network.config, "max_position_embeddings", None)
    if positions:
        # RoBERTa's positions begin after the padding's.
        limits.append(int(positions) - (2 if "roberta" in network.config.model_type else 0))
    settings = folder / "sentence_bert_config.json"
    if settings.is_file():
        limits.append(int(json.loads(settings.read_text()).get("max_seq_length") or _LONGEST))
    return min(limits)


def _hub_folder(repository: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise MissingDependency(
            f"a hub's models need huggingface_hub: pip install 'manyeyes[serve]' ({error})"
        ) from error
    try:
        return Path(
            snapshot_download(
                repository,
                allow_patterns=["*.json", "*.txt", "*.model", "model.safetensors"],
                local_files_only=not downloads_allowed(),
            )
        )
    except Exception as error:  # not there, no network, not allowed, not a name: the hub has a class for each
        raise ModelNotFound(
            f"the text encoder {repository!r} is not on this machine; set MANYEYES_ALLOW_DOWNLOADS=1 to fetch it, give"
            " the path of a local folder, or use model: minilm"
        ) from error


def _pinned(found: str, sha256: str | None, what: str) -> str:
    if sha256 is not None and found != sha256:
        raise WeightsMismatch(
            f"{what} has sha256 {found}, but the recipe pins {sha256}; use the file that was meant"
        )
    return found
