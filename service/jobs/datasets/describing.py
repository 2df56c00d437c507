"""What a finished job comes to: read once from its commits and parts, shard by shard, and written down."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manyeyes.errors import InvalidRequest
from manyeyes.lfs.analysis import summarize
from manyeyes.registry import BUILT_IN
from manyeyes.service.jobs.datasets.published import (
    N_BINS,
    AllLFs,
    File,
    GoldCounts,
    LabelsFile,
    LFCounts,
    Published,
    without_secrets,
)
from manyeyes.service.jobs.layout import published_labels
from manyeyes.service.jobs.manifests.manifest import read_manifest
from manyeyes.service.jobs.places.commits import Commits
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Commit, Counts, PassName
from manyeyes.service.jobs.work.fitting import label_model_files
from manyeyes.service.jobs.work.gold import parse_gold
from manyeyes.service.jobs.work.job import Job, gold_file
from manyeyes.service.jobs.work.parts import VotesPart, digest_of
from manyeyes.sinks import table_versions
from manyeyes.types import ABSTAIN, Versions

_READERS: Final = 8
_STATUSES: Final = ("labeled", "abstained", "error")
_SOFTWARE: Final = ("manyeyes", "numpy", "pillow", "pyarrow")
_OF_MODELS: Final = (
    "onnxruntime",
    "open_clip_torch",
    "openvino",
    "rapidocr",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
    "ultralytics",
)
_OF_TEXTS: Final = ("py3langid", "vaderSentiment")
_LEARNED: Final = frozenset({"clip", "detector", "regions", "text", "ocr", "nli"})
"""Kinds of primitives and labeling functions that run models of these packages. One from elsewhere may, too."""
_KNOWN: Final = frozenset(BUILT_IN["manyeyes.primitives"]) | frozenset(BUILT_IN["manyeyes.lfs"])

Newest = Mapping[int, tuple[int, Commit]]
"""Shard → the newest generation that committed it, and its commit."""


def describe(storage: Storage, job: Job, generation: int) -> Published:
    """Return what ``manyeyes.json`` says of a try of a job.

    Every labels part is read and held to the digest in its commit, one shard after another. Raises InvalidRequest if a
    shard has no labels yet, or its parts are damaged or do not belong together.
    """
    manifest = read_manifest(storage, job.manifest)
    labels, votes = (newest(storage, job.id, pass_, generation) for pass_ in ("labels", "votes"))
    missing = [
        shard.index for shard in manifest.shards if shard.index not in labels or shard.index not in votes
    ]
    if missing:
        raise InvalidRequest(
            f"job {job.id} is not finished: {len(missing):,} of {len(manifest.shards):,} shards have no labels yet, as"
            f" shard {missing[0]}; run it again, and it goes on"
        )
    gold = (
        None
        if job.gold is None
        else parse_gold(storage.get(gold_file(job.id)), name="gold.csv", where="gold")
    )
    total = _Sums()
    files: list[LabelsFile] = []
    with ThreadPoolExecutor(_READERS, thread_name_prefix="manyeyes-describe") as pool:
        indices = [shard.index for shard in manifest.shards]
        for file, sums in pool.map(partial(_of_shard, storage, job, labels, votes, gold), indices):
            files.append(file)
            total.add(sums, where=file.path)
    return Published(
        job=job.id,
        generation=generation,
        manifest=job.manifest,
        source=_source(job),
        recipe=job.recipe.document(),
        versions=total.versions or Versions(job.recipe.version, dict(job.versions), job.label_model or ""),
        given_label_model=job.label_model is not None,
        label_model_files=tuple(
            File(name, len(data), hashlib.sha256(data).hexdigest())
            for name, data in sorted(label_model_files(job, storage, generation).items())
        ),
        software=_software(job),
        counts=total.counts,
        by_class={name: total.by_class[name] for name in job.recipe.classes},
        by_default=total.by_default,
        confidence={status: tuple(bins.tolist()) for status, bins in total.confidence.items()},
        lfs=tuple(total.lfs.values()) or tuple(LFCounts(lf.name, lf.kind, 0, 0, 0) for lf in job.recipe.lfs),
        all_lfs=total.all_lfs,
        gold=None
        if gold is None
        else GoldCounts(job.gold or "", total.n_known, total.n_known_labeled, total.n_right),
        files=tuple(files),
    )


def newest(storage: Storage, job: str, pass_: PassName, generation: int) -> Newest:
    """Return what counts of a pass: of each shard, the newest commit up to a generation."""
    found: dict[int, tuple[int, Commit]] = {}
    for index in range(generation, -1, -1):
        for commit in Commits(storage, job, pass_, index).all():
            found.setdefault(commit.shard, (index, commit))
    return found


@dataclass
class _Sums:
    """What shards add up to. confidence: int64, shape (N_BINS,), of labeled and of abstained rows."""

    counts: Counts = field(default_factory=Counts)
    by_class: Counter[str] = field(default_factory=Counter)
    by_default: int = 0
    confidence: dict[str, npt.NDArray[np.int64]] = field(
        default_factory=lambda: {status: np.zeros(N_BINS, dtype=np.int64) for status in _STATUSES[:2]}
    )
    lfs: dict[str, LFCounts] = field(default_factory=dict)
    all_lfs: AllLFs = field(default_factory=AllLFs)
    n_known: int = 0
    n_known_labeled: int = 0
    n_right: int = 0
    versions: Versions | None = None

    def add(self, other: _Sums, *, where: str) -> None:
        if self.versions is not None and self.versions != other.versions:
            raise InvalidRequest(
                f"the labels of {where} were made by {other.versions}, those before by {self.versions}; run the job"
                " into an empty place"
            )
        self.versions = other.versions
        self.counts += other.counts
        self.by_class.update(other.by_class)
        for name in ("by_default", "n_known", "n_known_labeled", "n_right"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for status, bins in other.confidence.items():
            self.confidence[status] += bins
        for name, lf in other.lfs.items():
            self.lfs[name] = _plus(self.lfs[name], lf) if name in self.lfs else lf
        a, b = self.all_lfs, other.all_lfs
        self.all_lfs = AllLFs(
            a.rows + b.rows, a.covered + b.covered, a.overlapped + b.overlapped, a.mixed + b.mixed
        )


def _plus(a: LFCounts, b: LFCounts) -> LFCounts:
    values = Counter(a.values) + Counter(b.values)
    return replace(
        a,
        votes=a.votes + b.votes,
        overlaps=a.overlaps + b.overlaps,
        conflicts=a.conflicts + b.conflicts,
        values={name: values[name] for name in sorted(values)},
        right=a.right + b.right,
        judged=a.judged + b.judged,
    )


def _of_shard(
    storage: Storage, job: Job, labels: Newest, votes: Newest, gold: Mapping[str, str] | None, shard: int
) -> tuple[LabelsFile, _Sums]:
    made_in, commit = labels[shard]
    data = _checked(storage, commit, "labels")
    part = VotesPart.from_bytes(
        _checked(storage, votes[shard][1], "votes"), where=f"the votes of shard {shard}"
    )
    lends = job.recipe.default_class is not None and job.recipe.label_model.embeddings is not None
    columns = ["id", "status", "label", "confidence", "error_code", *(["reasons"] if lends else [])]
    table = pq.read_table(pa.BufferReader(data), columns=columns)
    if table["id"].to_pylist() != list(part.ids) or table.num_rows != commit.counts.rows:
        raise InvalidRequest(
            f"the labels of shard {shard} of job {job.id} are not those of its rows; run the job into an empty place"
        )
    file = LabelsFile(
        published_labels(shard), len(data), digest_of(data), shard, table.num_rows, generation=made_in
    )
    return file, _sums(table, part, job, gold)


def _checked(storage: Storage, commit: Commit, what: str) -> bytes:
    path, digest = commit.files[what]
    data = storage.get(path)
    if digest_of(data) != digest:
        raise InvalidRequest(
            f"{path!r} of {storage.uri} is damaged: it is not what was committed. Run the job into an empty place"
        )
    return data


def _sums(table: Any, part: VotesPart, job: Job, gold: Mapping[str, str] | None) -> _Sums:
    classes = list(job.recipe.classes)
    status = pc.index_in(table["status"], pa.array(_STATUSES)).to_numpy()
    label = pc.fill_null(pc.index_in(table["label"], pa.array(classes)), ABSTAIN).to_numpy()
    confidence = pc.fill_null(table["confidence"], 0.0).to_numpy()
    sums = _Sums(versions=table_versions(table))
    codes = Counter(code for code in table["error_code"].to_pylist() if code is not None)
    labeled, abstained, failed = (int((status == i).sum()) for i in range(len(_STATUSES)))
    sums.counts = Counts(table.num_rows, labeled, abstained, failed, dict(sorted(codes.items())))
    per_class = np.bincount(label[label >= 0], minlength=len(classes)).tolist()
    sums.by_class = Counter(dict(zip(classes, per_class, strict=True)))
    bins = np.minimum((confidence * N_BINS).astype(np.int64), N_BINS - 1)
    for i, name in enumerate(sums.confidence):
        sums.confidence[name] = np.bincount(bins[status == i], minlength=N_BINS)
    silent = (part.votes.classes == ABSTAIN).all(axis=1) & (status == 0)
    if "reasons" in table.column_names and silent.any():
        moved = np.array(
            [any(why["moved"] for why in reasons) for reasons in table["reasons"].filter(silent).to_pylist()]
        )
        silent[np.flatnonzero(silent)[moved]] = False
    sums.by_default = int(silent.sum())
    known = None
    if gold is not None:
        known = np.array(
            [classes.index(gold[one]) if one in gold else ABSTAIN for one in part.ids], dtype=np.int64
        )
        judged = (known != ABSTAIN) & (status != 2)
        sums.n_known = int(judged.sum())
        sums.n_known_labeled = int((judged & (status == 0)).sum())
        sums.n_right = int((judged & (status == 0) & (label == known)).sum())
    _sum_lfs(sums, part, job, known)
    return sums


def _sum_lfs(sums: _Sums, part: VotesPart, job: Job, known: npt.NDArray[np.int64] | None) -> None:
    found = summarize(part.votes, gold=known, errors=list(part.errors))
    n = found.n_items
    kinds = {lf.name: lf.kind for lf in job.recipe.lfs}
    sums.lfs = {
        lf.name: LFCounts(
            name=lf.name,
            kind=kinds[lf.name],
            votes=lf.votes,
            overlaps=round(lf.overlaps * n),
            conflicts=round(lf.conflicts * n),
            values={value.name: value.votes for value in sorted(lf.values, key=lambda value: value.name)},
            right=lf.correct or 0,
            judged=(lf.correct or 0) + (lf.incorrect or 0),
        )
        for lf in found.lfs
    }
    sums.all_lfs = AllLFs(
        n, *(round(share * n) for share in (found.coverage, found.overlaps, found.conflicts))
    )


def _source(job: Job) -> dict[str, Any]:
    source = job.request.source
    told: dict[str, Any] = {"uri": without_secrets(source.uri), "kind": source.kind}
    if source.join is not None:
        told["join"] = source.join.model_dump() | {"table": without_secrets(source.join.table)}
    return told


def _software(job: Job) -> dict[str, str]:
    """Return the versions of what the labels may depend on, of the packages that are installed."""
    kinds = {spec.kind for spec in job.recipe.primitives.values()} | {lf.kind for lf in job.recipe.lfs}
    wanted = set(_SOFTWARE)
    if kinds & _LEARNED or kinds - _KNOWN:
        wanted |= set(_OF_MODELS)
    if "text_facts" in kinds:
        wanted |= set(_OF_TEXTS)
    found = {"python": platform.python_version()}
    for name in wanted:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return dict(sorted(found.items()))
