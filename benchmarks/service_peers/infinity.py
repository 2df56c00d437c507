"""infinity-emb, in an environment of its own, with the weights that everybody else here has.

python -m benchmarks.service_peers.infinity CHECKPOINT FOLDER      write a model that infinity can load
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

PACKAGES: Final = ("infinity-emb[torch,server,vision]==0.0.78", "aiohttp")
"""Its extra `vision` needs aiohttp and does not say so."""

_CONFIG: Final = {
    "architectures": ["CLIPModel"],
    "model_type": "clip",
    "projection_dim": 512,
    "logit_scale_init_value": 2.6592,
    "text_config": {"hidden_act": "gelu", "model_type": "clip_text_model", "eos_token_id": 49407},
    "vision_config": {"hidden_act": "gelu", "model_type": "clip_vision_model"},
}
_PREPROCESSING: Final = {
    "image_processor_type": "CLIPImageProcessor",
    "crop_size": {"height": 224, "width": 224},
    "size": {"shortest_edge": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "resample": 3,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

LAUNCH: Final = """
import sys
import torch
# torchvision's compiled operators do not load beside a CPU build of torch; nothing here calls these two.
library = torch.library.Library("torchvision", "FRAGMENT")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import torchvision
import torchvision.extension
torchvision.extension._has_ops = lambda: True
from infinity_emb.cli import cli
cli()
"""


def python_in(folder: Path) -> Path:
    """Return a Python with infinity in it, installed into a folder if it is not there yet; takes minutes.

    Raises subprocess.CalledProcessError, with what pip said, if it cannot be installed.
    """
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.is_file():
        import torch

        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES, f"torch=={torch.__version__}"]
        subprocess.run(install, check=True, capture_output=True, text=True)
        done.touch()
    return python


def command(python: Path, model: Path, port: int) -> list[str]:
    """Return how infinity is started with a model, on the CPU, as its documentation says for one."""
    return [
        str(python), "-c", LAUNCH, "v2", "--model-id", str(model), "--served-model-name", "clip",
        "--port", str(port), "--host", "127.0.0.1", "--device", "cpu", "--engine", "torch",
        "--no-bettertransformer", "--no-compile", "--no-model-warmup", "--log-level", "warning",
    ]  # fmt: skip


def write_model(checkpoint: Path, folder: Path) -> Path:
    """Write a ViT-B-32 of open_clip as transformers reads it, with open_clip's tokenizer; return the folder."""
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = load_file(checkpoint)
    told: dict[str, Any] = {"logit_scale": state["logit_scale"]}
    told["visual_projection.weight"] = state["visual.proj"].T
    told["text_projection.weight"] = state["text_projection"].T
    vision, text = "vision_model.embeddings.", "text_model.embeddings."
    told[vision + "class_embedding"] = state["visual.class_embedding"]
    told[vision + "patch_embedding.weight"] = state["visual.conv1.weight"]
    told[vision + "position_embedding.weight"] = state["visual.positional_embedding"]
    told[text + "token_embedding.weight"] = state["token_embedding.weight"]
    told[text + "position_embedding.weight"] = state["positional_embedding"]
    for end in ("weight", "bias"):
        told[f"vision_model.pre_layrnorm.{end}"] = state[f"visual.ln_pre.{end}"]
        told[f"vision_model.post_layernorm.{end}"] = state[f"visual.ln_post.{end}"]
        told[f"text_model.final_layer_norm.{end}"] = state[f"ln_final.{end}"]
    names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    for here, there in (("visual.", "vision_model"), ("", "text_model")):
        for n in range(12):
            block, layer = f"{here}transformer.resblocks.{n}.", f"{there}.encoder.layers.{n}."
            for end in ("weight", "bias"):
                for ours, theirs in names.items():
                    told[f"{layer}{theirs}.{end}"] = state[f"{block}{ours}.{end}"]
                joined = state[f"{block}attn.in_proj_{end}"].chunk(3)
                for part, name in zip(joined, ("q_proj", "k_proj", "v_proj"), strict=True):
                    told[f"{layer}self_attn.{name}.{end}"] = part
    tensors = {name: tensor.contiguous() for name, tensor in told.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(_PREPROCESSING))
    _write_tokenizer(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    """Write the vocabulary that open_clip carries, in the two files that transformers reads."""
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None and spec.submodule_search_locations
    packed = Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(n) for n in shown] + [chr(256 + n) for n in range(256 - len(shown))]
    words = [*characters, *(c + "</w>" for c in characters), *("".join(line.split()) for line in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    )


if __name__ == "__main__":
    write_model(Path(sys.argv[1]), Path(sys.argv[2]))
