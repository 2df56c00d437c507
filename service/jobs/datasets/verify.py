"""Holding a dataset to what it says of itself: digests, counts, and labels made again from the bytes at the source."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Final

from manyeyes.errors import InvalidRecipe, InvalidRequest, ManyeyesError, NotFound, UntrustedRecipe
from manyeyes.lfs.files import files_named
from manyeyes.recipe import Recipe
from manyeyes.service.jobs import layout
from manyeyes.service.jobs.datasets.card import card_files, is_ours
from manyeyes.service.jobs.datasets.dataset import Dataset
from manyeyes.service.jobs.datasets.describing import describe, newest
from manyeyes.service.jobs.datasets.findings import Finding, Kind, Tell, Verification
from manyeyes.service.jobs.datasets.provenance import kept_publication, read_published, unlisted_parts
from manyeyes.service.jobs.datasets.published import Published
from manyeyes.service.jobs.datasets.resampling import sample_again
from manyeyes.service.jobs.manifests.ids import Ids
from manyeyes.service.jobs.manifests.shards import sealed
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Row
from manyeyes.service.jobs.work.fitting import fit_on_votes
from manyeyes.service.jobs.work.job import Job, gold_file, named_file, read_job, recipe_file
from manyeyes.service.jobs.work.parts import digest_of
from manyeyes.trust import is_path

if TYPE_CHECKING:
    from manyeyes.service.fetching.buckets import Buckets

__all__ = ["Finding", "Verification", "verify"]

_READERS: Final = 8
_OF_THE_MACHINE: Final = ("software",)


def verify(
    out: str | os.PathLike[str] | Storage,
    *,
    sample: int = 200,
    seed: int = 0,
    trusted: bool = False,
    buckets: Buckets | None = None,
    progress: Tell | None = None,
) -> Verification:
    """Hold a dataset to what it says of itself; see ``Verification``.

    Every file is held to its digest, the rows are counted and compared with the manifest, what ``manyeyes.json`` says
    is worked out again from the job's commits, and a sample of the labels is made again from the bytes at the source:
    class, probabilities and reasons must be the same to the last bit. Rows that failed because something did not
    answer are left out of the sample.

    sample: rows that are made again, drawn with ``seed``; 0 makes none. trusted: whether the recipe may run code and
    load files that it names; it came with the dataset, so only who knows where that is from can say. buckets: an
    operator's, where not everything may be read. progress: told what is done, how far, and of how much.
    Raises NotFound where no job has finished, InvalidRequest where nothing can be told of a damaged one.
    """
    storage = out if isinstance(out, Storage) else Storage.open(os.fspath(out), buckets=buckets)
    verifying = _Verifying(storage, buckets, progress or (lambda *_: None), trusted=trusted)
    return verifying.run(sample, seed)


class _Verifying:
    def __init__(self, storage: Storage, buckets: Buckets | None, tell: Tell, *, trusted: bool) -> None:
        self.storage = storage
        self.buckets = buckets
        self.tell = tell
        self.trusted = trusted
        self.findings: list[Finding] = []
        self.n_files = 0
        self.n_rows = 0
        self.n_sampled = 0
        self.n_same = 0

    def run(self, sample: int, seed: int) -> Verification:
        told = self._published()
        dataset = Dataset(self.storage, told, buckets=self.buckets)
        self._files(told)
        job = self._job(told)
        if job is not None and self._manifest(dataset):
            self._rows(dataset)
            self._parts(told, job)
            if sample > 0 and len(dataset) and self._may_run(job):
                self.n_sampled, self.n_same = sample_again(
                    dataset,
                    job,
                    sample=min(sample, len(dataset)),
                    seed=seed,
                    buckets=self.buckets,
                    find=self.find,
                    tell=self.tell,
                )
        return Verification(
            told.job, self.n_files, self.n_rows, self.n_sampled, self.n_same, tuple(self.findings)
        )

    def find(self, kind: Kind, where: str, message: str) -> None:
        self.findings.append(Finding(kind, where, message))

    def _published(self) -> Published:
        self.n_files += 1
        try:
            told = read_published(self.storage)
        except InvalidRequest as error:
            self.find("damaged", layout.PUBLISHED, str(error))
            return kept_publication(self.storage)
        try:
            kept = kept_publication(self.storage)
        except (NotFound, InvalidRequest) as error:
            self.find("provenance", layout.PUBLICATIONS, f"what was published is not kept: {error}")
        else:
            if kept != told:
                differ = ", ".join(_differing(kept, told))
                self.find(
                    "provenance",
                    layout.PUBLISHED,
                    f"is not what was published last ({differ}); manyeyes verify --repair writes that again",
                )
        return told

    def _files(self, told: Published) -> None:
        expected = {file.path: (file.size, file.sha256) for file in told.files}
        self._digests("files", expected)
        for path in unlisted_parts(self.storage, told):
            self.find(
                "counts", path, "is no part of this dataset; who reads the folder would count its rows, too"
            )
        card = card_files(told)
        try:
            if not is_ours(self.storage.get(layout.README)):
                del card[layout.README]  # somebody's own
        except NotFound:
            pass
        self._digests("card", {path: (len(data), digest_of(data)) for path, data in card.items()})

    def _digests(self, what: str, expected: Mapping[str, tuple[int | None, str]]) -> None:
        """Hold files to their digests. expected: path → size, where it is known, and sha256."""
        with ThreadPoolExecutor(_READERS, thread_name_prefix="manyeyes-verify") as pool:
            found = pool.map(partial(_digest, self.storage), expected)
            for n, (path, (size, digest)) in enumerate(zip(expected, found, strict=True), 1):
                self.n_files += 1
                if digest is None:
                    self.find("missing", path, "is not there")
                elif digest != expected[path][1]:
                    wanted = expected[path][0]
                    sizes = "" if size == wanted or wanted is None else f": {size:,} bytes, not {wanted:,}"
                    self.find("damaged", path, f"is not what was written{sizes}")
                self.tell(what, n, len(expected))

    def _job(self, told: Published) -> Job | None:
        path = layout.job_file(told.job)
        self.n_files += 1
        try:
            job = read_job(self.storage, told.job)
        except NotFound:
            self.find(
                "missing", path, "is not there, so nothing can be made again; the labels themselves are"
            )
            return None
        except ManyeyesError as error:
            self.find("damaged", path, str(error))
            return None
        same = {
            "id": (job.made_id(), told.job),
            "manifest": (job.manifest, told.manifest),
            "recipe": (job.recipe.version, told.versions.recipe),
            "primitives": (dict(job.versions), dict(told.versions.primitives)),
        }
        wrong = [name for name, (a, b) in same.items() if a != b]
        if wrong:
            self.find("provenance", path, f"does not fit manyeyes.json, or itself: {', '.join(wrong)}")
            return None
        self._recipe(job)
        named = {named_file(job.id, digest): (None, digest) for digest in files_named(job.recipe.document())}
        self._digests("files of the recipe", named)
        if job.gold is not None:
            self._digests("known labels", {gold_file(job.id): (None, job.gold)})
        return job

    def _recipe(self, job: Job) -> None:
        """Hold the recipe that people read to the one that the job used."""
        path = recipe_file(job.id)
        self.n_files += 1
        try:
            text = self.storage.get(path)
            told = Recipe.parse(text, source=path)
            if told.version != job.recipe.version or told.to_yaml().encode() != text:
                self.find("damaged", path, "is not the recipe of the job")
        except NotFound:
            self.find("missing", path, "is not there")
        except InvalidRecipe as error:
            self.find("damaged", path, str(error))

    def _may_run(self, job: Job) -> bool:
        """Whether making labels again would run nothing that came with the dataset."""
        names = {spec.model for spec in job.recipe.primitives.values()}
        names |= {model for lf in job.recipe.lfs for model in lf.named_models.values()}
        try:
            if not self.trusted:
                job.recipe.check_untrusted({name for name in names if not is_path(name)})
        except UntrustedRecipe as error:
            self.find(
                "version",
                recipe_file(job.id),
                f"no label was made again: {error}. If you know who wrote it, say so: manyeyes verify --trust-recipe",
            )
            return False
        return True

    def _manifest(self, dataset: Dataset) -> bool:
        path = layout.manifest_file(dataset.published.manifest)
        self.n_files += 1
        try:
            manifest = dataset.manifest
        except NotFound:
            self.find("missing", path, "is not there")
            return False
        except ManyeyesError as error:
            self.find("damaged", path, str(error))
            return False
        places = [shard.index for shard in manifest.shards]
        if sealed(manifest).id != dataset.published.manifest or places != [
            file.shard for file in dataset.published.files
        ]:
            self.find("damaged", path, "is not the manifest of that id")
            return False
        before = len(self.findings)
        self._digests("manifest", {shard.part: (None, shard.digest) for shard in manifest.shards})
        return len(self.findings) == before

    def _rows(self, dataset: Dataset) -> None:
        """Hold the labels to the manifest: each row once, in order, and no id twice."""
        total = len(dataset.manifest.shards)
        with Ids() as known:
            for n, (file, rows) in enumerate(self._shards(dataset), 1):
                self.n_rows += len(rows)
                ids = [row.id for row in rows]
                for name, one in zip(known.take(ids), ids, strict=True):
                    if name != one:
                        self.find("counts", one, f"names more than one row, the second in {file}")
                self.tell("rows", n, total)
        if not self.n_rows == dataset.manifest.n_rows == len(dataset):
            self.find(
                "counts",
                layout.PUBLISHED,
                f"says {len(dataset):,} rows; the manifest has {dataset.manifest.n_rows:,}, and there are labels of"
                f" {self.n_rows:,}",
            )

    def _shards(self, dataset: Dataset) -> Iterator[tuple[str, list[Row]]]:
        for file, shard in zip(dataset.published.files, dataset.manifest.shards, strict=True):
            try:
                rows, _ = dataset.shard(file, shard, columns=["id"])
            except ManyeyesError as error:
                if not any(found.where == file.path for found in self.findings):
                    self.find("counts", file.path, str(error))
                continue
            yield file.path, rows

    def _parts(self, told: Published, job: Job) -> None:
        """Hold what the job keeps to its commits, and what ``manyeyes.json`` says to what comes of it now."""
        before = len(self.findings)
        for pass_ in ("votes", "labels"):
            try:
                commits = newest(self.storage, job.id, pass_, told.generation)
            except ManyeyesError as error:
                self.find("damaged", layout.commits_folder(job.id, pass_, told.generation), str(error))
                return
            parts = {
                path: (None, digest)
                for _, commit in commits.values()
                for path, digest in commit.files.values()
            }
            self._digests(f"parts of {pass_}", parts)
        if len(self.findings) > before:
            return
        self.tell("counts", 0, 1)
        try:
            again = describe(self.storage, job, told.generation)
        except ManyeyesError as error:
            self.find("provenance", layout.job_folder(job.id), str(error))
            return
        except Exception as error:  # what somebody changed in one of these files may end anywhere
            why = f"what is kept there cannot be read any more ({type(error).__name__}: {error})"
            self.find("damaged", layout.job_folder(job.id), why)
            return
        # It is there, since its files were just read, and so is not fitted here.
        if told.files and fit_on_votes(job, self.storage, told.generation) != told.versions.label_model:
            self.find(
                "provenance", layout.label_model_folder(job.id, told.generation), "is another label model"
            )
        wrong = [name for name in _differing(told, again) if name not in _OF_THE_MACHINE]
        if wrong:
            self.find(
                "provenance",
                layout.PUBLISHED,
                f"does not say what the job's commits come to: {', '.join(wrong)}",
            )
        self.tell("counts", 1, 1)


def _digest(storage: Storage, path: str) -> tuple[int, str | None]:
    try:
        data = storage.get(path)
    except NotFound:
        return 0, None
    return len(data), digest_of(data)


def _differing(a: Published, b: Published) -> list[str]:
    return [part.name for part in fields(Published) if getattr(a, part.name) != getattr(b, part.name)]
