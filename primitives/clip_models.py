"""Finding and loading CLIPs: the starter, every open_clip architecture and tag, a hub's repository, a local checkpoint.

Nothing is fetched unless the operator allows it, and nothing is unpickled: weights are safetensors, or read by torch
with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from manyeyes.errors import MissingDependency, ModelNotFound, WeightsMismatch, nearest
from manyeyes.models.weights import file_sha256
from manyeyes.settings import downloads_allowed

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as PILImage

HUB: Final = "hf-hub:"
_HOW_TO_ALLOW: Final = (
    "set MANYEYES_ALLOW_DOWNLOADS=1 to fetch it, name a local checkpoint, or use model: starter"
)
# Of several checkpoints of one architecture, the kind that was trained on the better data.
_PREFERRED_TAGS: Final = (
    "datacompdr",
    "dfndr2b",
    "dfn",
    "webli",
    "datacomp_xl",
    "datacomp",
    "laion2b",
    "merged2b",
)


@dataclass(frozen=True)
class LoadedClip:
    """A CLIP ready to run on the CPU.

    preprocess: RGB image → float32 tensor (3, height, width). tokenizer: texts → int64 tensor (n_texts, length).
    pack: images a forward pass. pad: the token that fills texts up and may be cut off; None where it must not be.
    """

    model: Any
    preprocess: Callable[[PILImage], torch.Tensor]
    tokenizer: Callable[[Sequence[str]], torch.Tensor]
    dim: int
    logit_scale: float
    logit_bias: float | None = None
    pack: int = 4
    pad: int | None = None


def clip_identity(model: str, arch: str | None, sha256: str | None) -> str:
    """Return what names a CLIP's weights: equal identities give equal embeddings. Imports torch only for a tag.

    Raises ModelNotFound if the checkpoint is not at hand, WeightsMismatch if it is not the pinned one.
    """
    if model == "starter":
        from manyeyes.models.starter.clip import HEAD_FILE, starter_clip_digest

        if not HEAD_FILE.is_file():
            raise ModelNotFound(f"the starter CLIP's head is not installed: there is no {HEAD_FILE}")
        return f"starter/{_pinned(starter_clip_digest(), sha256, 'the starter CLIP')}"
    arch, folder, file = _locate(model, arch)
    config = folder / "open_clip_config.json" if folder is not None else None
    told = "" if config is None else hashlib.sha256(config.read_bytes()).hexdigest()[:16]
    return f"{arch or 'folder'}/{told}{_digest(file, sha256)}"


def load_clip(model: str, arch: str | None) -> LoadedClip:
    """Load a CLIP that `clip_identity` has found. Raises ModelNotFound, WeightsMismatch or MissingDependency."""
    open_clip = _open_clip()
    if model == "starter":
        from manyeyes.models.starter.clip import load_starter_clip

        starter = load_starter_clip()
        scale = float(starter.model.logit_scale.exp())
        return LoadedClip(
            starter.model, starter.preprocess, starter.tokenizer, dim=384, logit_scale=scale, pack=1, pad=0
        )
    known_arch, folder, file = _locate(model, arch)
    name = f"local-dir:{folder}" if folder is not None else str(known_arch)
    tag_config = {} if folder is not None or _as_path(model) else _tag_of(open_clip, model)[2]
    _refuse_hub_parts(open_clip, name, model)
    try:
        network = open_clip.create_model(
            name,
            pretrained=None if folder is not None else str(file),
            force_quick_gelu=bool(tag_config.get("quick_gelu", False)),
            force_preprocess_cfg={
                key: tag_config[key]
                for key in ("mean", "std", "interpolation", "resize_mode")
                if key in tag_config
            },
            require_pretrained=True,
            pretrained_text=False,
        )
        tokenizer = open_clip.get_tokenizer(name)
    except (
        Exception
    ) as error:  # open_clip raises many kinds for weights of another architecture or a damaged file
        raise WeightsMismatch(
            f"{file} cannot be loaded as {known_arch or 'the model in its folder'}: {type(error).__name__}: {error}"
        ) from error
    network.eval().requires_grad_(False)
    bias = getattr(network, "logit_bias", None)
    transform = open_clip.image_transform_v2(
        open_clip.PreprocessCfg(**network.visual.preprocess_cfg), is_train=False
    )
    return LoadedClip(
        network,
        transform,
        tokenizer,
        dim=_dim(network, tokenizer),
        logit_scale=float(network.logit_scale.exp()),
        logit_bias=None if bias is None else float(bias),
    )


def _dim(network: Any, tokenizer: Callable[[Sequence[str]], torch.Tensor]) -> int:
    import torch

    with torch.inference_mode():
        return int(network.encode_text(tokenizer(["a"])).shape[-1])


def _open_clip() -> Any:
    try:
        from manyeyes.models.torchvision_ops import ensure_torchvision

        ensure_torchvision()
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2
    except ImportError as error:
        raise MissingDependency(
            f"CLIP needs open_clip and torch: pip install 'manyeyes[serve]' ({error})"
        ) from error
    open_clip.PreprocessCfg, open_clip.image_transform_v2 = PreprocessCfg, image_transform_v2
    return open_clip


def _as_path(model: str) -> Path | None:
    """Return a model's name as a path, if it is meant as one."""
    looks = model.startswith(("/", "./", "../", "~")) or model.endswith(
        (".safetensors", ".pt", ".pth", ".bin")
    )
    return Path(model).expanduser() if looks or Path(model).is_dir() else None


def _locate(model: str, arch: str | None) -> tuple[str | None, Path | None, Path]:
    """Return (architecture, None, weights file), or (None, folder with an open_clip_config.json, weights file)."""
    path = _as_path(model)
    if path is None and model.startswith(HUB):
        path = _hub_folder(model.removeprefix(HUB))
    if path is None:
        name, tag, config = _tag_of(_open_clip(), model)
        return name, None, _tag_file(name, tag, config)
    if path.is_dir():
        if not (path / "open_clip_config.json").is_file():
            raise ModelNotFound(
                f"the folder {path} has no open_clip_config.json, so it is not an open_clip model"
            )
        weights = sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))
        if len(weights) != 1:
            raise ModelNotFound(f"the folder {path} should hold one file of weights, found {len(weights)}")
        return None, path, weights[0]
    if not path.is_file():
        raise ModelNotFound(f"there is no checkpoint {path}")
    if arch is None:
        raise ModelNotFound(
            f"a checkpoint alone does not say its architecture; write {{model: {model}, arch: ViT-B-32}} or the like"
        )
    return arch, None, path


def _tag_of(open_clip: Any, model: str) -> tuple[str, str, dict[str, Any]]:
    """Return architecture, tag and open_clip's configuration of ``arch`` or ``arch/tag``."""
    archs = open_clip.list_models()
    arch, _, tag = model.rpartition("/") if "/" in model else (model, "", "")
    if model.replace("/", "-") in archs:  # the paper's spelling, ViT-B/32
        arch, tag = model.replace("/", "-"), ""
    if arch not in archs:
        raise ModelNotFound(
            f"open_clip knows no architecture {arch!r}{nearest(arch, archs)}. Write arch, arch/tag,"
            " hf-hub:org/name, the path of a checkpoint, or starter"
        )
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if not tags:
        raise ModelNotFound(
            f"open_clip has no weights for {arch!r}; give the path of a checkpoint and arch: {arch}"
        )
    if not tag:
        tag = next((t for wanted in _PREFERRED_TAGS for t in tags if t.startswith(wanted)), tags[0])
    if tag not in tags:
        raise ModelNotFound(
            f"{arch!r} has no weights {tag!r}{nearest(tag, tags)}; there are: {', '.join(tags)}"
        )
    return arch, tag, dict(open_clip.get_pretrained_cfg(arch, tag))


def _tag_file(arch: str, tag: str, config: dict[str, Any]) -> Path:
    from huggingface_hub import hf_hub_download

    repository, name = os.path.split(config.get("hf_hub", ""))
    problem: Exception | str = "it is not on the Hugging Face hub"
    if repository:
        usual = name or "open_clip_pytorch_model.bin"
        stem = usual.rsplit(".", 1)[0]
        for candidate in (f"{stem}.safetensors", "open_clip_model.safetensors", "model.safetensors", usual):
            try:
                return Path(hf_hub_download(repository, candidate, local_files_only=not downloads_allowed()))
            except Exception as error:  # no such file, no network, not allowed: the hub has a class for each
                problem = error
    raise ModelNotFound(
        f"the weights of {arch}/{tag} are not on this machine ({_first_line(problem)}); {_HOW_TO_ALLOW}"
    )


def _hub_folder(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    # Configuration, tokenizer and safetensors; older repositories have nothing but a .bin.
    wanted = ["*.json", "*.txt", "*.model", "open_clip*.safetensors", "open_clip_pytorch_model.bin"]
    try:
        return Path(
            snapshot_download(repository, allow_patterns=wanted, local_files_only=not downloads_allowed())
        )
    except Exception as error:  # as in _tag_file
        raise ModelNotFound(
            f"{HUB}{repository} is not on this machine ({_first_line(error)}); {_HOW_TO_ALLOW}"
        ) from error


def _refuse_hub_parts(open_clip: Any, name: str, model: str) -> None:
    """Some architectures take a tokenizer or a text tower's configuration from a hub when they are built."""
    text = (open_clip.get_model_config(name) or {}).get("text_cfg", {})
    parts = [text[key] for key in ("hf_model_name", "hf_tokenizer_name") if text.get(key)]
    local = (
        name.startswith("local-dir:")
        or downloads_allowed()
        or os.environ.get("HF_HUB_OFFLINE") in ("1", "true")
    )
    if not local and any(not os.path.isdir(part) for part in parts):
        raise ModelNotFound(f"{model} needs {', '.join(parts)} from a hub; {_HOW_TO_ALLOW}")


def _digest(file: Path, sha256: str | None) -> str:
    # The hub's cache names a file after its digest. A pin is compared with the bytes themselves.
    name = file.resolve().name
    if sha256 is None and re.fullmatch(r"[0-9a-f]{64}", name):
        return name
    return _pinned(file_sha256(file), sha256, str(file))


def _pinned(found: str, sha256: str | None, what: str) -> str:
    if sha256 is not None and found != sha256:
        raise WeightsMismatch(
            f"{what} has sha256 {found}, but the recipe pins {sha256}; use the file that was meant"
        )
    return found


def _first_line(problem: object) -> str:
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:200]
