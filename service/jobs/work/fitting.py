"""The label model of a job, fitted on the votes of all its rows, which are read shard by shard and forgotten.

Of a job with more than ``MAX_ROWS`` rows every second is kept, then every fourth, and so on, and each row whose label
is known: a label model learns no more from a million rows than from a hundred thousand, and memory stays as it is. Up
to that many rows, what is fitted is what ``Labeler.fit`` fits on all of them, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from manyeyes.errors import InvalidRequest, NotFound, StorageFailed, WeightsMismatch
from manyeyes.fitting import Collected, find_threshold, fit_label_model
from manyeyes.labeler import Labeler, extractor_for
from manyeyes.service.jobs.layout import label_model_folder
from manyeyes.service.jobs.manifests.manifest import read_manifest
from manyeyes.service.jobs.places.commits import Commits
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Manifest, Shard
from manyeyes.service.jobs.work.gold import parse_gold
from manyeyes.service.jobs.work.job import (
    LABEL_MODEL_FILES,
    Job,
    given_label_model_folder,
    gold_file,
    version_in_use,
)
from manyeyes.service.jobs.work.parts import VotesPart, digest_of
from manyeyes.types import ABSTAIN, FloatArray, VoteArray, Votes

log: Final = logging.getLogger("manyeyes.service.jobs")

MAX_ROWS: Final = 131_072
"""Rows that a label model is fitted on at most, beside those whose label is known."""
MAX_EMBEDDING_BYTES: Final = 512 * 2**20
"""Of embeddings, where the label model wants them: fewer rows are kept where these are long."""
_READ_AHEAD: Final = 2
_CHOSEN: Final = "chosen.json"


def fit_on_votes(job: Job, storage: Storage, generation: int) -> str:
    """Fit the label model of a generation on its committed votes, once; return its version.

    Every shard's votes must be committed. One that was given with the job is taken as it is. Deterministic, and kept in
    the job's folder by whoever is first, so that all who ask get the same. Raises InvalidRequest if votes are missing,
    none of the known labels is of a row of the job, or the recipe wants a precision and none is known.
    """
    if job.label_model is not None:
        return job.label_model
    folder = label_model_folder(job.id, generation)
    try:
        return str(json.loads(storage.get(folder + _CHOSEN))["version"])
    except NotFound:
        pass
    labeler = Labeler(job.recipe, extractor=extractor_for(job.recipe, cache=None))
    known = None
    if job.gold is not None:
        known = parse_gold(storage.get(gold_file(job.id)), name="gold.csv", where="the job's gold labels")
    manifest = read_manifest(storage, job.manifest)
    collected, gold = kept_votes(votes_of(storage, job.id, manifest, generation), job.recipe.classes, known)
    if known and gold is not None and not (gold != ABSTAIN).any():
        raise InvalidRequest(
            f"none of the {len(known):,} gold labels names a row of the job that could be read, such as"
            f" {next(iter(known))!r}; their ids are those of the output's rows"
        )
    labeler.label_model = fit_label_model(job.recipe, collected, gold)
    labeler.threshold = find_threshold(job.recipe, labeler.label_model, collected, gold)
    return _keep(labeler, storage, folder)


def label_model_files(job: Job, storage: Storage, generation: int) -> dict[str, bytes]:
    """Return the files of the label model that a generation's labels come from, by name.

    Raises NotFound if it is not fitted yet, WeightsMismatch if they are damaged.
    """
    files: dict[str, bytes] = {}
    if job.label_model is not None:
        for name in LABEL_MODEL_FILES:
            try:
                files[name] = storage.get(given_label_model_folder(job.id) + name)
            except NotFound:
                continue  # which file is missing, its reader says
        return files
    try:
        told = json.loads(storage.get(label_model_folder(job.id, generation) + _CHOSEN))
    except NotFound:
        raise NotFound(
            f"the label model of job {job.id}, generation {generation}, is not fitted yet; run the job"
        ) from None
    for name, (path, digest) in told["files"].items():
        files[name] = storage.get(path)
        if digest_of(files[name]) != digest:
            raise WeightsMismatch(
                f"{path!r} of {storage.uri} is damaged; delete {_CHOSEN!r} beside it, and run the job again"
            )
    return files


def newest_votes(storage: Storage, job: str, shard: Shard, generation: int) -> VotesPart | None:
    """Return the votes of a shard by the newest generation, up to one, that committed them; None where none did.

    Raises StorageFailed if they are not what was committed.
    """
    for index in range(generation, -1, -1):
        commit = Commits(storage, job, "votes", index).get(shard.index)
        if commit is not None:
            path, digest = commit.files["votes"]
            try:
                data = storage.get(path)
            except NotFound:
                data = b""
            if digest_of(data) != digest:
                raise StorageFailed(
                    f"{path!r} of {storage.uri} is not what was committed; delete the commit of shard {shard.index} in"
                    f" votes-{index} too, and run the job again"
                )
            return VotesPart.from_bytes(data, where=f"{path!r} of {storage.uri}")
    return None


def votes_of(storage: Storage, job: str, manifest: Manifest, generation: int) -> Iterator[VotesPart]:
    """Yield the votes of a job's shards, in order; the next ones are read meanwhile.

    Raises InvalidRequest if a shard has none.
    """
    with ThreadPoolExecutor(_READ_AHEAD, thread_name_prefix="manyeyes-votes") as pool:
        coming = []
        shards = iter(manifest.shards)
        for shard in shards:
            coming.append((shard, pool.submit(newest_votes, storage, job, shard, generation)))
            if len(coming) > _READ_AHEAD:
                yield _there(*coming.pop(0), job)
        for one in coming:
            yield _there(*one, job)


def kept_votes(
    parts: Iterable[VotesPart],
    classes: tuple[str, ...],
    known: Mapping[str, str] | None,
    *,
    max_rows: int = MAX_ROWS,
) -> tuple[Collected, npt.NDArray[np.int16] | None]:
    """Return what a label model is fitted on, and the known labels of these rows; rows with errors are left out.

    known: id → class. max_rows: kept of the rows whose label is not known; more than half of that, of more rows. The
    known labels are int16, shape (n_items,), ABSTAIN where there is none; None where nothing is known.
    """
    kept = _Kept(classes, known, max_rows)
    for part in parts:
        kept.add(part)
    return kept.collected(), kept.gold()


class _Kept:
    """Rows of a stream: every n-th, as ``models.observed.sample`` keeps them, and those whose label is known."""

    def __init__(self, classes: tuple[str, ...], known: Mapping[str, str] | None, max_rows: int) -> None:
        self._known = None if known is None else {i: classes.index(name) for i, name in known.items()}
        self._max_rows = max_rows
        self._step, self._seen, self._n_free = 1, 0, 0
        self._like: VotesPart | None = None
        self._blocks: list[_Block] = []

    def add(self, part: VotesPart) -> None:
        """Take what is to be kept of a shard."""
        if self._like is None:
            self._like = part
            if part.embeddings is not None:
                self._max_rows = min(
                    self._max_rows, MAX_EMBEDDING_BYTES // max(1, 4 * part.embeddings.shape[1])
                )
        sound = part.sound()
        places = np.full(len(part.ids), -1, dtype=np.int64)
        places[sound] = self._seen + np.arange(int(sound.sum()))
        self._seen += int(sound.sum())
        gold = self._gold_of(part)
        which = np.flatnonzero(sound & ((places % self._step == 0) | (gold != ABSTAIN)))
        self._blocks.append(
            _Block(
                places[which],
                gold[which],
                part.votes.classes[which],
                part.votes.scores[which],
                None if part.embeddings is None else part.embeddings[which],
            )
        )
        self._n_free += int((gold[which] == ABSTAIN).sum())
        while self._n_free > self._max_rows:
            self._step *= 2
            self._blocks = [block.thinned(self._step) for block in self._blocks]
            self._n_free = sum(int((block.gold == ABSTAIN).sum()) for block in self._blocks)

    def collected(self) -> Collected:
        """Return what was kept."""
        if self._like is None:
            raise InvalidRequest("the job has no rows, so there is nothing to fit a label model on")
        like = self._like.votes
        votes = Votes(
            classes=np.concatenate([block.classes for block in self._blocks]),
            scores=np.concatenate([block.scores for block in self._blocks]),
            class_names=like.class_names,
            lf_names=like.lf_names,
            shared=like.shared,
            sets=like.sets,
        )
        embeddings = [block.embeddings for block in self._blocks if block.embeddings is not None]
        return Collected(
            votes=votes,
            errors={},
            ids=tuple(map(str, range(votes.n_items))),
            embeddings=np.concatenate(embeddings) if embeddings else None,
        )

    def gold(self) -> npt.NDArray[np.int16] | None:
        """Return the known labels of what was kept."""
        return None if self._known is None else np.concatenate([block.gold for block in self._blocks])

    def _gold_of(self, part: VotesPart) -> npt.NDArray[np.int16]:
        gold = np.full(len(part.ids), ABSTAIN, dtype=np.int16)
        if self._known:
            known = self._known
            for row, item_id in enumerate(part.ids):
                if item_id in known:
                    gold[row] = known[item_id]
        return gold


@dataclass(frozen=True, eq=False)
class _Block:
    """Rows that are kept of a shard. places: int64; where each stands among all sound rows of the job."""

    places: npt.NDArray[np.int64]
    gold: npt.NDArray[np.int16]
    classes: VoteArray
    scores: FloatArray
    embeddings: FloatArray | None

    def thinned(self, step: int) -> _Block:
        """Return the rows that are kept at a wider step."""
        which = (self.places % step == 0) | (self.gold != ABSTAIN)
        return _Block(
            self.places[which],
            self.gold[which],
            self.classes[which],
            self.scores[which],
            None if self.embeddings is None else self.embeddings[which],
        )


def _keep(labeler: Labeler, storage: Storage, folder: str) -> str:
    """Write a fitted label model, and return the version of the one that counts: this, or one that was there before."""
    version = version_in_use(labeler)
    with tempfile.TemporaryDirectory(prefix="manyeyes-label-model-") as place:
        labeler.save_label_model(place)
        data = {
            name: (Path(place) / name).read_bytes()
            for name in LABEL_MODEL_FILES
            if (Path(place) / name).exists()
        }
    # Under a name of its own: on another machine, the last bits of a fit may differ.
    own = hashlib.sha256(b"".join(data.values())).hexdigest()[:16]
    files = {name: (f"{folder}{own}/{name}", digest_of(content)) for name, content in data.items()}
    for name, content in data.items():
        storage.put(files[name][0], content)
    told = json.dumps({"version": version, "files": files}, sort_keys=True).encode()
    if storage.create(folder + _CHOSEN, told):
        return version
    return str(json.loads(storage.get(folder + _CHOSEN))["version"])


def _there(shard: Shard, coming: Future[VotesPart | None], job: str) -> VotesPart:
    part = coming.result()
    if part is None:
        raise InvalidRequest(
            f"shard {shard.index} of job {job} has no votes yet; run the job, which makes them first"
        )
    return part
