"""What a job is, kept in its own folder: what was asked for, and everything that its labels depend on.

``job.json`` is created last, so a job whose file is there is whole. The recipe, a label model that was given and known
labels are copied beside it: what somebody changes elsewhere later changes no job.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from manyeyes.errors import InvalidRequest, ManyeyesError, ModelNotFound, NotFound, nearest
from manyeyes.labeler import Labeler
from manyeyes.lfs.files import content_of, files_named, hold
from manyeyes.primitives.extractor import Extractor
from manyeyes.recipe import Recipe
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.jobs.layout import job_file, job_folder
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import JobRequest, Manifest
from manyeyes.service.jobs.work.gold import gold_bytes, read_gold

FORMAT: Final = 1
LABEL_MODEL_FILES: Final = ("label_model.json", "label_model.safetensors", "thresholds.json")
_OPTIONAL: Final = "thresholds.json"


@dataclass(frozen=True)
class Job:
    """A job as it was begun. id: hash of all that decides what its labels are.

    manifest: the id of its rows. versions: feature → version of its primitive. lf_versions: LF → its version, with the
    source of Python functions. label_model: the version of the one that was given; None where one is fitted on the
    votes. gold: digest of the known labels. trusted: whether the recipe may run code; False for what came over HTTP.
    """

    id: str
    manifest: str
    recipe: Recipe
    versions: Mapping[str, str]
    lf_versions: Mapping[str, str]
    request: JobRequest
    label_model: str | None = None
    gold: str | None = None
    trusted: bool = True

    def made_id(self) -> str:
        """Return the id that follows from all that decides what the labels are."""
        decisive = [
            self.manifest,
            self.recipe.version,
            dict(self.versions),
            dict(self.lf_versions),
            self.label_model,
            self.gold,
        ]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:20]

    def to_json(self) -> bytes:
        """Return the file of a job; ``from_json`` gives back an equal one."""
        told = {
            "format": FORMAT,
            "id": self.id,
            "manifest": self.manifest,
            "recipe": self.recipe.document(),
            "recipe_version": self.recipe.version,
            "versions": dict(self.versions),
            "lf_versions": dict(self.lf_versions),
            "label_model": self.label_model,
            "gold": self.gold,
            "trusted": self.trusted,
            "request": self.request.model_dump(mode="json", exclude={"recipe"}),
        }
        return json.dumps(told, sort_keys=True, indent=2, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Job:
        """Read the file of a job. Raises InvalidRequest if it is damaged or of a later version."""
        try:
            told = json.loads(data)
            if told["format"] != FORMAT:
                raise InvalidRequest(
                    f"the job is of format {told['format']!r}, and this version of manyeyes reads {FORMAT}; use the"
                    " version that began it"
                )
            recipe = Recipe.parse(told["recipe"], source=f"recipe of job {told['id']}")
            return cls(
                id=told["id"],
                manifest=told["manifest"],
                recipe=recipe,
                versions=told["versions"],
                lf_versions=told["lf_versions"],
                request=JobRequest(recipe=told["recipe"], **told["request"]),
                label_model=told["label_model"],
                gold=told["gold"],
                trusted=told["trusted"],
            )
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, ManyeyesError):
                raise
            raise InvalidRequest(
                f"the job's file is damaged ({type(error).__name__}: {error}); begin the job again"
            ) from error


def given_label_model_folder(job: str) -> str:
    """Return where the label model that came with a job lies."""
    return f"{job_folder(job)}label_model/given/"


def gold_file(job: str) -> str:
    """Return where the known labels of a job lie: CSV with the columns id and label, sorted by id."""
    return f"{job_folder(job)}gold.csv"


def named_file(job: str, digest: str) -> str:
    """Return where the content of a file lies that a job's recipe names. digest: its sha256."""
    return f"{job_folder(job)}files/{digest}"


def recipe_file(job: str) -> str:
    """Return where a job's recipe lies, for people."""
    return f"{job_folder(job)}recipe.yaml"


def write_job(
    storage: Storage,
    request: JobRequest,
    manifest: Manifest | str,
    *,
    trusted: bool = True,
    allowed_models: Collection[str] = (),
    buckets: Buckets | None = None,
    extractor: Extractor | None = None,
) -> Job:
    """Begin a job, or find the one that was begun with the same rows, recipe, models and known labels.

    manifest: the rows, or their id. trusted: whether the request comes from the shell or from Python; one that came
    over HTTP may run no code and name only ``allowed_models``. buckets: of the operator, where a label model or known
    labels may lie. extractor: that a Labeler of the caller uses already.
    Raises, before anything is written, InvalidRecipe if the recipe cannot be built, UntrustedRecipe, InvalidRequest if
    a known label is no class or an address holds a password, and ModelNotFound or MissingDependency if a model is not
    at hand.
    """
    _refuse_secrets(request)
    recipe = Recipe.parse(request.recipe, source="recipe")
    if not trusted:
        recipe.check_untrusted(allowed_models)
    labeler = Labeler(recipe, extractor=extractor)
    versions = labeler.extractor.versions(labeler.needs)
    for lf in labeler.lfs:
        if lf.operator_only:
            lf.prepare(labeler.extractor)  # whose version is then that of the code, too
    files = (
        {} if request.label_model is None else read_label_model_files(request.label_model, buckets=buckets)
    )
    given = _version_of(labeler, files)
    gold = None if request.gold is None else read_gold(request.gold, buckets=buckets)
    if gold is not None:
        _check_classes(gold, recipe)
    if given is None:
        labeler.require_gold(gold)
    known = None if gold is None else gold_bytes(gold)
    manifest_id = manifest if isinstance(manifest, str) else manifest.id
    lf_versions = {lf.name: lf.version for lf in labeler.lfs if lf.operator_only}
    digest = None if known is None else hashlib.sha256(known).hexdigest()
    job = Job(
        id="",
        manifest=manifest_id,
        recipe=recipe,
        versions=versions,
        lf_versions=lf_versions,
        request=request,
        label_model=given,
        gold=digest,
        trusted=trusted,
    )
    job = replace(job, id=job.made_id())
    if storage.exists(job_file(job.id)):
        return read_job(storage, job.id)
    # All of these follow from the id, so whoever writes them at the same time writes the same.
    storage.put(recipe_file(job.id), recipe.to_yaml().encode())
    if known is not None:
        storage.put(gold_file(job.id), known)
    for name, data in files.items():
        storage.put(given_label_model_folder(job.id) + name, data)
    for digest, path in files_named(recipe.document()).items():
        storage.put(named_file(job.id, digest), content_of(path, digest))
    if storage.create(job_file(job.id), job.to_json()):
        return job
    return read_job(storage, job.id)


def read_job(storage: Storage, job_id: str) -> Job:
    """Return a job. Raises NotFound if there is none of that id.

    Files that its recipe names, such as examples, are held in memory from then on: this machine may not have them.
    """
    try:
        job = Job.from_json(storage.get(job_file(job_id)))
    except NotFound:
        raise NotFound(
            f"no job {job_id!r} is kept in {storage.uri}; manyeyes job list {storage.uri} names those that are"
        ) from None
    for digest in files_named(job.recipe.document()):
        with suppress(NotFound):  # then the file itself is looked for
            hold(storage.get(named_file(job.id, digest)))
    return job


def read_label_model_files(uri: str, *, buckets: Buckets | None = None) -> dict[str, bytes]:
    """Return the files of a saved label model, by name. Raises ModelNotFound if one is missing."""
    place = Storage.open(uri, buckets=buckets)
    files: dict[str, bytes] = {}
    for name in LABEL_MODEL_FILES:
        try:
            files[name] = place.get(name)
        except NotFound:
            if name != _OPTIONAL:
                raise ModelNotFound(
                    f"no label model in {uri!r}: it has no {name}; `manyeyes label … --save-label-model` writes one"
                ) from None
    return files


def load_files(labeler: Labeler, files: Mapping[str, bytes]) -> None:
    """Have a Labeler use a label model whose files are at hand. Raises as ``Labeler.load_label_model`` does."""
    with tempfile.TemporaryDirectory(prefix="manyeyes-label-model-") as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        labeler.load_label_model(folder)


def version_in_use(labeler: Labeler) -> str:
    """Return what a Labeler's labels say of its label model: its version, with the threshold that it withholds at."""
    assert labeler.label_model is not None
    version = labeler.label_model.version
    return version if labeler.threshold is None else f"{version}@{labeler.threshold.value:.9g}"


def _version_of(labeler: Labeler, files: Mapping[str, bytes]) -> str | None:
    if not files:
        return None
    load_files(labeler, files)
    return version_in_use(labeler)


def _check_classes(gold: Mapping[str, str], recipe: Recipe) -> None:
    for item_id, name in gold.items():
        if name not in recipe.classes:
            raise InvalidRequest(
                f"gold label {name!r} of item {item_id!r} is not a class of the recipe; classes:"
                f" {', '.join(recipe.classes)}{nearest(name, recipe.classes)}"
            )


def _refuse_secrets(request: JobRequest) -> None:
    """Raise InvalidRequest if an address holds a password, which the job's files would show to whoever reads them."""
    join = request.source.join
    addresses: dict[str, Any] = {
        "source": request.source.uri,
        "out": request.out,
        "label_model": request.label_model,
        "gold": request.gold,
        "join": None if join is None else join.table,
    }
    for field, address in addresses.items():
        scheme, separator, rest = (address or "").partition("://")
        if separator and scheme.isalnum() and "@" in rest.partition("/")[0]:
            raise InvalidRequest(
                f"the address of {field} holds a name or a password before its @; credentials belong in the"
                " environment, or in the operator's file of buckets"
            )
