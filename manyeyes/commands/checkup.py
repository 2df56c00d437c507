"""What ``manyeyes doctor`` finds out about the machine and what is installed on it, with no model and no service."""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from manyeyes.errors import ManyeyesError
from manyeyes.settings import home

State: TypeAlias = Literal["ok", "missing", "off", "note", "broken"]
"""ok: works. missing: not installed, which is fine where nobody wants it. off: not configured. note: worth knowing.
broken: was asked for, by installing or configuring it, and does not work."""

EXTRAS: Final = ("serve", "starter", "postgres", "otel", "detect", "onnx", "openvino", "ocr", "text", "video")
_IMPORTED: Final = {
    "serve": (
        "torch",
        "fastapi",
        "uvicorn",
        "sqlalchemy",
        "alembic",
        "lmdb",
        "PIL",
        "faiss",
        "pyarrow",
        "obstore",
    ),
    "postgres": ("psycopg",),
    "otel": ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter"),
    "onnx": ("onnxruntime",),
    "openvino": ("openvino",),
    "video": ("av",),
}
"""What is imported to see whether it can be. Ultralytics is not: only the detector, which is run, may import it."""
_SHOWN: Final = (
    "numpy",
    "pydantic",
    "httpx",
    "torch",
    "torchvision",
    "open_clip_torch",
    "transformers",
    "fastapi",
    "sqlalchemy",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. told: for people. facts: JSON-ready, for programs."""

    section: str
    name: str
    state: State
    told: str
    facts: dict[str, Any] = field(default_factory=dict)


def versions() -> Iterator[Finding]:
    """Yield which manyeyes, Python and libraries are here."""
    from manyeyes import __version__

    yield Finding("versions", "manyeyes", "ok", __version__, {"version": __version__})
    python = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("versions", "python", "ok", python, {"version": platform.python_version()})
    for package in _SHOWN:
        if (found := version(package)) is not None:
            yield Finding("versions", package, "ok", found, {"version": found})


def extras() -> Iterator[Finding]:
    """Yield which extras are installed, and whether what they bring can be imported."""
    for extra in EXTRAS:
        packages = packages_of(extra)
        missing = [package for package in packages if version(package) is None]
        if not packages or missing:
            told = f"pip install 'manyeyes[{extra}]'" + (f" (lacks {', '.join(missing)})" if missing else "")
            yield Finding("extras", extra, "missing", told, {"lacks": missing})
            continue
        faults = [_import_fault(name) for name in _IMPORTED.get(extra, ())]
        wrong = [fault for fault in faults if fault is not None]
        yield Finding(
            "extras", extra, "broken" if wrong else "ok", "; ".join(wrong) or "installed", {"lacks": []}
        )


def machine() -> Iterator[Finding]:
    """Yield how much of the machine this process may use."""
    cores, share = len(os.sched_getaffinity(0)), cpu_share()
    told = f"{cores} cores" + ("" if share is None else f", limited to the time of {share:g}")
    # Threads are made for every core; where the time of fewer may be used, they stand in each other's way.
    state: State = "note" if share is not None and share < cores else "ok"
    yield Finding("machine", "processor", state, told, {"cores": cores, "limit": share})
    total, limit = memory_bytes(), memory_limit_bytes()
    told = f"{_gib(total)} of memory" + ("" if limit is None else f", limited to {_gib(limit)}")
    yield Finding("machine", "memory", "ok", told, {"bytes": total, "limit_bytes": limit})


def disk() -> Iterator[Finding]:
    """Yield whether the home folder, with the cache in it, can be written."""
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as written:
            written.write(b"written")
    except OSError as error:
        told = f"{folder} cannot be written ({error.strerror}); set MANYEYES_HOME to a folder that can"
        yield Finding("disk", "home", "broken", told, {"path": str(folder)})
        return
    free = shutil.disk_usage(folder).free
    state: State = "note" if free < 2**30 else "ok"
    yield Finding(
        "disk", "home", state, f"{folder}, {_gib(free)} free", {"path": str(folder), "free_bytes": free}
    )
    try:
        from manyeyes.primitives.cache import Cache

        listing = Cache.shared(folder / "cache").listing()
    except ImportError as error:
        told = str(error) if isinstance(error, ManyeyesError) else f"{error}; pip install 'manyeyes[serve]'"
        yield Finding("disk", "cache", "missing", told)
        return
    except OSError as error:
        yield Finding("disk", "cache", "broken", str(error))
        return
    rows, n_bytes = sum(one.rows for one in listing), sum(one.n_bytes for one in listing)
    told = f"{rows:,} rows of {len(listing)} models, {_gib(n_bytes)}"
    yield Finding("disk", "cache", "ok", told, {"rows": rows, "bytes": n_bytes})


def licences() -> Iterator[Finding]:
    """Yield what is installed under a licence that asks more than ours."""
    if version("ultralytics") is not None:
        told = (
            "AGPL-3.0: who offers a service with it over a network offers its source, too, or buys a licence; README.md"
            " says more"
        )
        yield Finding("licences", "ultralytics", "note", told)
    if version("av") is not None:
        yield Finding("licences", "av", "note", "its wheels carry an FFmpeg that is built under the GPL")


def version(package: str) -> str | None:
    """Return the version of an installed distribution, or None; it is not imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def packages_of(extra: str) -> list[str]:
    """Return the distributions that an extra of manyeyes brings, sorted."""
    # A checkout may hold what an older build wrote down beside what is installed.
    required = {line for found in metadata.distributions(name="manyeyes") for line in found.requires or ()}
    mine = [line for line in required if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", line)]
    return sorted({re.split(r"[^A-Za-z0-9._\-]", line, maxsplit=1)[0] for line in mine})


def cpu_share(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Return how many cores' time the control group may use, or None where it has no limit."""
    try:
        quota, _, period = (root / "cpu.max").read_text().partition(" ")
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota_us = int((root / "cpu/cpu.cfs_quota_us").read_text())
        period_us = int((root / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota_us / period_us if quota_us > 0 else None


def memory_limit_bytes(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return how much memory the control group may hold, or None where it has no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int((root / name).read_text())
        except (OSError, ValueError):
            continue
        if limit < 2**60:  # The first version of control groups says "none" with a number near 2**63.
            return limit
    return None


def memory_bytes() -> int:
    """Return how much memory the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _import_fault(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except Exception as error:  # Broken installations fail in many ways: missing libraries, wrong builds.
        return f"{name} cannot be imported: {type(error).__name__}: {str(error)[:300]}"
    return None


def _gib(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB"
