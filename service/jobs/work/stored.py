"""Features that jobs stored beside their output: found by what a shard holds and by the version of the primitive.

A part is named by its own digest, and a small object beside it says which part is meant. Two workers may write it at
the same time; either part is right, so the last one stays.
"""

from __future__ import annotations

import hashlib
import json

from manyeyes.errors import NotFound
from manyeyes.service.jobs.layout import features_folder
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Shard
from manyeyes.service.jobs.work.features import FeatureRows
from manyeyes.service.jobs.work.parts import digest_of, features_from_bytes, features_to_bytes


def read_features(storage: Storage, shard: Shard, key: str) -> FeatureRows | None:
    """Return what is stored of a feature of a shard; None where nothing is, or not what was written.

    key: see ``feature_key``.
    """
    folder = _folder(key)
    try:
        told = json.loads(storage.get(f"{folder}{shard.digest}.json"))
        path, digest = f"{folder}{told['part']}", told["sha256"]
        data = storage.get(path)
        if digest_of(data) != digest:
            return None
        found = features_from_bytes(data, key)
    except (NotFound, ValueError, KeyError, TypeError):
        return None  # it is computed again
    return found if len(found.state) == shard.n_rows else None


def write_features(storage: Storage, shard: Shard, key: str, rows: FeatureRows) -> tuple[str, str]:
    """Store a feature of a shard; return the part's path and its sha256."""
    data = features_to_bytes(rows, key)
    digest, folder = digest_of(data), _folder(key)
    name = f"{shard.digest}-{digest[:16]}.parquet"
    storage.put(folder + name, data)
    told = {"part": name, "sha256": digest, "key": key}
    storage.put(f"{folder}{shard.digest}.json", json.dumps(told, sort_keys=True).encode())
    return folder + name, digest


def _folder(key: str) -> str:
    return features_folder(hashlib.sha256(key.encode()).hexdigest()[:20])
