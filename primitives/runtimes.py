"""The ways to run an image tower, behind one contract: pixels in, vectors out, equal bits for equal pixels.

Which of them is used is decided in :mod:`manyeyes.primitives.runtime_choice`; torch in float32 is the reference that
all others are held to. A new runtime is one function from a tower to a runner, and one line here.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from manyeyes import settings
from manyeyes.errors import InvalidSettings, MissingDependency, nearest
from manyeyes.primitives.devices import n_gpus

if TYPE_CHECKING:
    from manyeyes.primitives.towers import Pixels, Tower

Asked: TypeAlias = Literal["auto", "torch", "openvino", "onnx", "cuda"]
"""What a recipe or the operator may ask for; "torch" is float32 on the CPU."""

REFERENCE: Final = "torch"


class Runner(Protocol):
    """A tower, loaded and ready. Safe to call from several threads, each of which it uses one core of.

    pack: images a call, always; what is missing is filled up with black.
    """

    @property
    def pack(self) -> int: ...

    def __call__(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Return vectors: float32, shape (pack, dim). pixels: uint8, shape (pack, height, width, 3), contiguous."""


@dataclass(frozen=True)
class Runtime:
    """One way to run a tower.

    family: what it is asked for by. load: ``module:function``, called with the tower and a folder of this tower's own
    in which it may keep what it converts. packages: what must be installed. extra: the extra that brings them.
    needs: flags of the processor, without any of which it is not even tried. gpu: whether it needs one.
    """

    family: str
    load: str
    packages: tuple[str, ...] = ()
    extra: str = "serve"
    needs: tuple[str, ...] = ()
    gpu: bool = False

    def build(self, tower: Tower, folder: Path) -> Runner:
        """Load it. Raises whatever its library raises for a tower that it cannot run."""
        module, _, function = self.load.partition(":")
        loader: Callable[[Tower, Path], Runner] = getattr(importlib.import_module(module), function)
        return loader(tower, folder)


_HALF: Final = ("amx_bf16", "avx512_bf16", "avx512bf16", "bf16")
_TORCH: Final = "manyeyes.primitives.runtime_torch"
_OPENVINO: Final = "manyeyes.primitives.runtime_openvino"
_ONNX: Final = "manyeyes.primitives.runtime_onnx"
_WITH_ONNX: Final = ("onnx", "onnxruntime")

# Simpler ones first: a later one must be a good deal faster to be preferred.
RUNTIMES: Final[Mapping[str, Runtime]] = {
    "torch": Runtime("torch", f"{_TORCH}:float32"),
    "torch-bf16": Runtime("", f"{_TORCH}:bfloat16", needs=_HALF),
    "openvino": Runtime("openvino", f"{_OPENVINO}:float32", ("openvino",), "openvino"),
    "openvino-bf16": Runtime("openvino", f"{_OPENVINO}:bfloat16", ("openvino",), "openvino", needs=_HALF),
    "onnx": Runtime("onnx", f"{_ONNX}:float32", _WITH_ONNX, "onnx"),
    "onnx-int8": Runtime("onnx", f"{_ONNX}:int8", _WITH_ONNX, "onnx"),
    "cuda": Runtime("cuda", "manyeyes.primitives.runtime_cuda:half", gpu=True),
}


def asked_for(runtime: Asked | None) -> Asked:
    """Return what a recipe asks for, or else the operator. Raises InvalidSettings if that is no runtime."""
    asked = runtime or settings.runtime()
    if asked not in get_args(Asked):
        raise InvalidSettings(
            f"MANYEYES_RUNTIME is {asked!r}{nearest(asked, get_args(Asked))}; allowed: {', '.join(get_args(Asked))}"
        )
    return cast(Asked, asked)


def candidates(asked: str) -> list[str]:
    """Return the runtimes that can be tried for what was asked, the simplest first.

    Raises MissingDependency if a family was asked for by name and its packages are not installed.
    """
    usable = []
    for name, runtime in RUNTIMES.items():
        if asked not in ("auto", runtime.family):
            continue
        missing = [package for package in runtime.packages if package_version(package) is None]
        if missing and asked != "auto":
            raise MissingDependency(
                f"runtime {asked!r} needs {' and '.join(missing)}: pip install 'manyeyes[{runtime.extra}]',"
                " or use runtime: auto, which takes what is there"
            )
        if not missing and (not runtime.needs or processor_flags() & set(runtime.needs)):
            if runtime.gpu and n_gpus() == 0:
                continue
            usable.append(name)
    return usable


def told(name: str) -> str:
    """Return a runtime's part of a primitive's version: its name, and what computes in it."""
    packages = RUNTIMES[name].packages or ("torch",)
    return f"{name}@{'+'.join(str(package_version(package)) for package in packages)}"


@lru_cache
def package_version(package: str) -> str | None:
    """Return the version of an installed distribution, or None; it is not imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def processor_flags() -> frozenset[str]:
    """Return what the processor can do, by Linux's names; nothing where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def run_packs(run: Callable[[Any], Any], runner: Runner, ready: Any) -> npt.NDArray[np.float32]:
    """Return vectors of any number of images: float32, shape (n, dim).

    run: given packs, each uint8 of shape (pack, height, width, 3), returns what the runner makes of each, in order.
    ready: a sequence of pixels of one image each.
    """
    packs = []
    for start in range(0, len(ready), runner.pack):
        part = ready[start : start + runner.pack]
        pack = np.zeros((runner.pack, *part[0].shape), dtype=np.uint8)
        pack[: len(part)] = part
        packs.append(pack)
    return np.concatenate(list(run(packs)))[: len(ready)]
