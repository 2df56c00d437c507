"""What ``manyeyes doctor`` finds out about models: which runtimes load, and whether the starters really see."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from manyeyes.commands.checkup import Finding, packages_of, version
from manyeyes.errors import ManyeyesError
from manyeyes.settings import runtime

_STARTERS: Final[Mapping[str, tuple[str, str, tuple[str, ...]]]] = {
    # name → kind, what it is to give of an item with image and text, the extras that it stands on
    "clip": ("clip", "clip", ("serve", "starter")),
    "text encoder": ("text", "text", ("serve", "starter")),
    "detector": ("detector", "detector", ("serve", "detect")),
    "ocr": ("ocr", "ocr", ("serve", "ocr")),
}


def runtimes() -> Iterator[Finding]:
    """Yield what can run models here, and on which devices."""
    looks: dict[str, tuple[str, str, Callable[[], str]]] = {
        "torch": ("torch", "serve", _torch),
        "onnxruntime": ("onnxruntime", "onnx", _onnxruntime),
        "openvino": ("openvino", "openvino", _openvino),
    }
    for name, (package, extra, look) in looks.items():
        found = version(package)
        if found is None:
            yield Finding("runtimes", name, "missing", f"pip install 'manyeyes[{extra}]'")
            continue
        try:
            told = look()
        except Exception as error:  # A runtime that was built for another machine fails as it likes.
            yield Finding(
                "runtimes", name, "broken", f"{found} does not load: {type(error).__name__}: {error}"
            )
            continue
        yield Finding("runtimes", name, "ok", f"{found}: {told}", {"version": found, "devices": told})
    if version("torch") is not None:
        yield from _asked()


def _asked() -> Iterator[Finding]:
    try:
        from manyeyes.primitives.runtimes import asked_for, candidates

        asked = asked_for(None)
        told = ", ".join(candidates(asked))
    except ManyeyesError as error:
        yield Finding("runtimes", "MANYEYES_RUNTIME", "broken", str(error))
    else:
        if told:
            yield Finding("runtimes", "MANYEYES_RUNTIME", "ok", f"{asked}: one of {told}", {"asked": asked})
        else:
            fault = f"{runtime()!r} was asked for, and nothing on this machine can run it"
            yield Finding("runtimes", "MANYEYES_RUNTIME", "broken", fault)


def starters() -> Iterator[Finding]:
    """Yield, of each model that needs no hub, whether it sees a made image and a text, and how long that takes."""
    for name, (kind, feature, extras) in _STARTERS.items():
        lacking = [
            extra
            for extra in extras
            if not packages_of(extra) or any(version(one) is None for one in packages_of(extra))
        ]
        if lacking:
            told = f"pip install 'manyeyes[{','.join(lacking)}]'"
            yield Finding("models", name, "missing", told)
            continue
        try:
            loading_s, seeing_s = _see(kind, feature)
        except Exception as error:  # Whatever is wrong with a model, the others are looked at, too.
            told = str(error) if isinstance(error, ManyeyesError) else f"{type(error).__name__}: {error}"
            yield Finding("models", name, "broken", told)
            continue
        told = f"loads in {loading_s:.1f} s, sees an item in {seeing_s * 1000:.0f} ms"
        facts = {"loading_s": round(loading_s, 3), "seeing_s": round(seeing_s, 4)}
        yield Finding("models", name, "ok", told, facts)


def _see(kind: str, feature: str) -> tuple[float, float]:
    """Return the seconds that loading with a first item, and a second item, take. Raises what is wrong with either."""
    from PIL import Image

    from manyeyes import Item
    from manyeyes.primitives.extractor import Extractor
    from manyeyes.registry import load

    spec: Any = load("manyeyes.primitives", kind).Spec(kind=kind)
    extractor = Extractor.for_specs({feature: spec}, cache=None)
    took = []
    for colour in ("red", "blue"):
        stream = io.BytesIO()
        Image.new("RGB", (96, 64), colour).save(stream, "PNG")
        started = time.perf_counter()
        features = extractor.extract(
            [Item(colour, image=stream.getvalue(), text=f"a {colour} wall")], [feature]
        )
        took.append(time.perf_counter() - started)
        for error in features.errors.values():
            raise error
    return took[0], took[1]


def _torch() -> str:
    import torch

    gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
    return ", ".join([f"CPU with {torch.get_num_threads()} threads", *gpus])


def _onnxruntime() -> str:
    import onnxruntime

    return ", ".join(onnxruntime.get_available_providers())


def _openvino() -> str:
    import openvino

    return ", ".join(openvino.Core().available_devices)
