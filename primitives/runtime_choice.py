"""Which runtime a tower gets on this machine: measured at first use, held to the reference, and remembered.

What was measured is kept in one small file a tower and question under ``runtimes/`` in the home folder, named after
everything that it depends on: the weights, the processor, the number of cores and the packages' versions. All
processes of one home read the same file, so that they give the same bits; a lock lets only one of them measure.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from manyeyes.primitives.devices import n_gpus
from manyeyes.primitives.runtime_gate import N_PHOTOS, judge, made_photos
from manyeyes.primitives.runtimes import (
    REFERENCE,
    RUNTIMES,
    Runner,
    candidates,
    package_version,
    processor_flags,
    run_packs,
)
from manyeyes.primitives.towers import Pixels, Tower
from manyeyes.primitives.workers import one_core
from manyeyes.settings import home

logger = logging.getLogger(__name__)

_FORMAT: Final = 1
_ROUNDS: Final = 3
_WORTH: Final = 1.1  # how much faster than a simpler one a runtime has to be
_PACKAGES: Final = ("torch", "openvino", "onnx", "onnxruntime", "open_clip_torch", "timm")

_lock = threading.Lock()


def choose(asked: str, identity: str, load: Callable[[], Tower]) -> str:
    """Return the name of the runtime for a tower, measuring it if that has not been done on this machine.

    asked: auto, or a family. identity: what names the tower's weights and how it sees. load: returns the tower; called
    only if something is to be measured. Where nothing passes the gate, or the home folder cannot be written, so that
    the choice could not be kept for others, it is the reference.
    Raises MissingDependency if what was asked for is not installed.
    """
    names = candidates(asked)
    if asked == REFERENCE or names == [REFERENCE]:
        return REFERENCE
    key = _key(asked, identity, names)
    file = home() / "runtimes" / f"{_digest(key)}.json"
    known = _remembered(file, key)
    if known is not None:
        return known
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _lock, _one_process(file.with_suffix(".lock")):
            known = _remembered(file, key)
            if known is None:
                known, measured = _measure(names, identity, load())
                _keep(file, {"key": key, "chosen": known, "measured": measured})
            return known
    except OSError as error:
        logger.warning("runtime %s: the choice cannot be kept (%s), so that torch is used", asked, error)
        return REFERENCE


def folder_of(identity: str) -> Path:
    """Return the folder in which the runtimes of a tower keep what they convert; it is made if it is not there."""
    folder = home() / "runtimes" / hashlib.sha256(identity.encode()).hexdigest()[:24]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _key(asked: str, identity: str, names: list[str]) -> dict[str, Any]:
    flags = hashlib.sha256(" ".join(sorted(processor_flags())).encode()).hexdigest()[:16]
    return {
        "format": _FORMAT,
        "asked": asked,
        "tower": identity,
        "candidates": names,
        "processor": flags,
        "cores": len(os.sched_getaffinity(0)),
        "gpus": n_gpus(),
        "packages": {package: package_version(package) for package in _PACKAGES},
    }


def _digest(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


def _remembered(file: Path, key: Mapping[str, Any]) -> str | None:
    try:
        kept = json.loads(file.read_bytes())
        chosen = kept["chosen"]
        if kept["key"] != key or chosen not in (*key["candidates"], REFERENCE):
            raise ValueError("it is of something else")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:  # cut, edited, or written by another version
        logger.warning("%s cannot be used (%s); the runtime is measured again", file, error)
        return None
    return str(chosen)


def _keep(file: Path, told: Mapping[str, Any]) -> None:
    partial_file = file.with_suffix(f".{os.getpid()}")
    partial_file.write_text(json.dumps(told, indent=1), encoding="utf-8")
    os.replace(partial_file, file)


@contextmanager
def _one_process(lock: Path) -> Iterator[None]:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _measure(names: list[str], identity: str, tower: Tower) -> tuple[str, dict[str, Any]]:
    """Return the runtime to use, and of each one what was found, or why it is not used."""
    n_threads = len(os.sched_getaffinity(0))
    photos = made_photos(tower.size)
    measured: dict[str, Any] = {}
    ready: dict[str, Runner] = {}
    with ThreadPoolExecutor(n_threads, initializer=one_core) as pool:
        reference = RUNTIMES[REFERENCE].build(tower, folder_of(identity))
        wanted = run_packs(partial(pool.map, reference), reference, photos)
        for name in names:
            if name == REFERENCE:
                ready[name], measured[name] = reference, {}
                continue
            logger.info("trying runtime %s", name)
            try:
                runner = RUNTIMES[name].build(tower, folder_of(identity))
            except Exception as error:  # each library has errors of its own for what it cannot convert
                measured[name] = {"refused": f"it cannot be built: {type(error).__name__}: {error}"[:300]}
                continue
            verdict = judge(tower, wanted, runner, photos, run=partial(pool.map, runner))
            measured[name] = {"cosine": verdict.cosine, "agreement": verdict.agreement}
            if verdict.refused is None:
                ready[name] = runner
            else:
                measured[name]["refused"] = verdict.refused
                logger.warning("runtime %s is not used: %s", name, verdict.refused)
        rates: dict[str, list[float]] = {name: [] for name in ready}
        for _ in range(_ROUNDS):  # in turns, so that what else the machine does meets all of them
            for name, runner in ready.items():
                rates[name].append(_rate(pool, runner, photos, n_threads))
    for name, values in rates.items():
        measured[name]["images_per_s"] = statistics.median(values)
    chosen = fastest({name: statistics.median(values) for name, values in rates.items()})
    logger.info("runtime %s is used, of %s", chosen, measured)
    return chosen, measured


def _rate(pool: ThreadPoolExecutor, runner: Runner, photos: list[Pixels], n_threads: int) -> float:
    n_images = min(N_PHOTOS, n_threads * max(4, runner.pack))
    pack = np.ascontiguousarray(np.stack([photos[i % len(photos)] for i in range(runner.pack)]))
    n_packs = -(-n_images // runner.pack)
    started = time.perf_counter()
    list(pool.map(runner, [pack] * n_packs))
    return n_packs * runner.pack / (time.perf_counter() - started)


def fastest(rates: Mapping[str, float]) -> str:
    """Return the fastest, the simplest first in `rates`: a later one only if it is a tenth faster; torch if none.

    >>> fastest({"torch": 6.0, "torch-bf16": 21.0, "openvino-bf16": 22.0})
    'torch-bf16'
    """
    chosen: str | None = None
    for name, rate in rates.items():
        if chosen is None or rate > _WORTH * rates[chosen]:
            chosen = name
    return REFERENCE if chosen is None else chosen
