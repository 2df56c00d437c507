"""CLIP: images and texts in one space, through open_clip. ``clip`` embeds images, ``clip.text`` texts and prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
from pydantic import Field

from manyeyes.primitives.base import DecodedImage, Modality, Primitive, PrimitiveKind, PrimitiveSpec, Rows
from manyeyes.primitives.clip_map import ClipMap
from manyeyes.primitives.clip_models import LoadedClip, clip_identity, load_clip
from manyeyes.primitives.embeddings import dtype_of, rows_of
from manyeyes.primitives.runtime_choice import choose, folder_of
from manyeyes.primitives.runtimes import REFERENCE, RUNTIMES, Asked, Runner, asked_for, run_packs, told
from manyeyes.primitives.towers import Pixels, cropper, least_side, tower_of
from manyeyes.primitives.workers import ModelWorkers, in_packs, shared_workers

if TYPE_CHECKING:
    import torch

_PREPROCESSING: Final = {"image": 3, "text": 1}
_STARTER_DIM: Final = 384
_TEXT_PACK: Final = 4
_SMALL_PACK: Final = 4
_COPYING: Final = 2  # threads that feed a GPU: one copies while the other's pass runs
# The lengths to which a text is filled up, where filling may be cut off; the longest is the model's own.
_TEXT_LENGTHS: Final = (16, 32)


class ClipSpec(PrimitiveSpec):
    """Which CLIP.

    model: ``starter``, ``ViT-B-32``, ``ViT-B-32/laion2b_s34b_b79k``, ``hf-hub:org/name``, or the path of a checkpoint
    or of a folder with an open_clip_config.json. arch: the open_clip architecture of a local checkpoint file. runtime:
    what runs its image tower: ``torch`` in float32, ``openvino``, ``onnx``, ``cuda``, or ``auto``, the fastest on this
    machine that gives the same answers; by default what MANYEYES_RUNTIME says, or else torch.
    """

    arch: str | None = Field(default=None, max_length=200)
    runtime: Asked | None = None


class _Clip:
    """What both halves share."""

    modality: ClassVar[Modality]
    ragged = False

    def __init__(self, name: str, spec: ClipSpec) -> None:
        self.name = name
        self.spec = spec

    @cached_property
    def version(self) -> str:
        return f"clip/{self._identity}/{self.modality} {_PREPROCESSING[self.modality]}"

    @cached_property
    def _identity(self) -> str:
        return clip_identity(self.spec.model, self.spec.arch, self.spec.sha256)

    @property
    def dtype(self) -> np.dtype[Any]:
        return dtype_of(
            _STARTER_DIM if self.spec.model == "starter" else self._workers.ask(lambda clip: clip.dim)
        )

    @property
    def info(self) -> Mapping[str, Any]:
        def ask(clip: LoadedClip) -> dict[str, Any]:
            bias = {} if clip.logit_bias is None else {"logit_bias": clip.logit_bias}
            return {"dim": clip.dim, "logit_scale": clip.logit_scale, "model": self.spec.model, **bias}

        return self._workers.ask(ask)

    @property
    def _workers(self) -> ModelWorkers[LoadedClip]:
        def load() -> LoadedClip:
            # Checks the pin before anything is read from the file.
            clip_identity(self.spec.model, self.spec.arch, self.spec.sha256)
            return load_clip(self.spec.model, self.spec.arch)

        return shared_workers(("clip", self._spec_told), load)

    @cached_property
    def _spec_told(self) -> str:
        return self.spec.model_dump_json()

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._workers.is_loaded

    def setup(self) -> None:
        """Load the model, once a process and spec. Raises ModelNotFound, WeightsMismatch or MissingDependency."""
        self._workers.ask(lambda clip: clip.dim)


class ClipImages(_Clip):
    """Embeddings of images: float32, shape (dim,), of length 1."""

    modality = "image"

    @cached_property
    def version(self) -> str:
        plain = super().version
        return plain if self._runtime == REFERENCE else f"{plain} {told(self._runtime)}"

    @cached_property
    def _runtime(self) -> str:
        """The name of the runtime; it is measured if this machine has not yet done so."""
        return choose(asked_for(self.spec.runtime), self._tower, lambda: self._workers.ask(tower_of))

    @property
    def _tower(self) -> str:
        return f"{self._identity}/{_PREPROCESSING['image']}"

    @property
    def _runners(self) -> ModelWorkers[Runner]:
        runtime, clips, tower = self._runtime, self._workers, self._tower

        def load() -> Runner:
            folder = Path() if runtime == REFERENCE else folder_of(tower)
            return RUNTIMES[runtime].build(clips.ask(tower_of), folder)

        gpu = RUNTIMES[runtime].gpu
        return shared_workers(
            ("clip images", runtime, self._spec_told),
            load,
            n_threads=_COPYING if gpu else None,
            on_cores=not gpu,
        )

    @property
    def side_by_side(self) -> int:
        """Images of one pass where that is small, and on a core; see SideBySide."""
        pack = self._runners.ask(lambda runner: runner.pack)
        return pack if pack <= _SMALL_PACK and not RUNTIMES[self._runtime].gpu else 0

    def setup(self) -> None:
        super().setup()
        self._runners.ask(lambda runner: runner.pack)

    def least_side(self) -> int | None:
        """Return the shorter side, in pixels, to which an image may be reduced on decoding; None for not at all."""
        return self._workers.recall("least side", least_side)

    def prepare(self, decoded: DecodedImage) -> Pixels:
        """Return pixels as the model sees them: uint8, shape (height, width, 3)."""
        return self._workers.recall("cropper", cropper)(decoded)

    def compute(self, batch: Sequence[DecodedImage | Pixels]) -> list[Rows]:
        ready = [self.prepare(value) if isinstance(value, DecodedImage) else value for value in batch]
        runners = self._runners
        runner = runners.ask(lambda runner: runner)
        return rows_of(list(run_packs(lambda packs: runners.run(_embed_images, packs), runner, ready)))


class ClipTexts(_Clip):
    """Embeddings of texts: float32, shape (dim,), of length 1. A text longer than the model reads is cut."""

    modality = "text"

    def compute(self, batch: Sequence[str]) -> list[Rows]:
        tokens = self._workers.ask(lambda clip: clip.tokenizer(list(batch)))
        pad = self._workers.ask(lambda clip: clip.pad)
        # A text's own length decides how far it is filled up, never its neighbours'.
        of_length: dict[int, list[int]] = defaultdict(list)
        for i, row in enumerate(tokens):
            of_length[_filled_length(row, pad)].append(i)
        chosen = [
            (length, pack) for length, texts in of_length.items() for pack in in_packs(texts, _TEXT_PACK)
        ]
        embedded = self._workers.run(_embed_texts, [tokens[list(pack), :length] for length, pack in chosen])
        rows: dict[int, Rows] = {}
        for (_, pack), vectors in zip(chosen, embedded, strict=True):
            rows |= zip(pack, rows_of(list(vectors)), strict=True)
        return [rows[i] for i in range(len(batch))]


def _filled_length(tokens: torch.Tensor, pad: int | None) -> int:
    longest = len(tokens)
    if pad is None:
        return longest
    used = int((tokens != pad).sum())
    return min((length for length in _TEXT_LENGTHS if used <= length), default=longest)


def _embed_images(runner: Runner, pack: Pixels) -> npt.NDArray[np.float32]:
    return runner(pack)


def _embed_texts(clip: LoadedClip, tokens: torch.Tensor) -> npt.NDArray[np.float32]:
    import torch

    # Filled up with copies of the first, because a row of nothing but padding is not a text.
    filled = torch.cat([tokens, tokens[:1].expand(_TEXT_PACK - len(tokens), -1)])
    with torch.inference_mode():
        embedded: npt.NDArray[np.float32] = clip.model.encode_text(filled).float().numpy()
    return embedded[: len(tokens)]


def build(name: str, spec: ClipSpec) -> Mapping[str, Primitive]:
    """Return ``{name: images, f"{name}.text": texts, f"{name}.map": cells of images}``, which share one model."""
    return {
        name: ClipImages(name, spec),
        f"{name}.text": ClipTexts(f"{name}.text", spec),
        f"{name}.map": ClipMap(f"{name}.map", spec, spec.arch),
    }


KIND: Final = PrimitiveKind(Spec=ClipSpec, build=build)
