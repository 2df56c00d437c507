"""Where everything of a job lies below the place that it writes to: the one module that knows these names.

::

    labels/part-00000000.parquet        what was published, one file a shard
    manyeyes.json                       the commit of what was published: provenance, files, digests
    README.md, card/                    the data card
    _manyeyes/manifests/<id>.json       the shards of a manifest
    _manyeyes/manifests/rows/           <digest>.parquet: the rows of one shard, for every manifest that has it
    _manyeyes/publications/             what became manyeyes.json, in order: <number>.json
    _manyeyes/features/<version>/       <shard digest>-<attempt>.parquet, <shard digest>.json
    _manyeyes/submitted/<digest>/       what came with a call over HTTP: items.jsonl, label_model/
    _manyeyes/jobs/<id>/                job.json, recipe.yaml, label_model/, generations/, leases/, parts/, commits/, …

Readers of tables pass over names that begin with an underscore.
"""

from __future__ import annotations

from typing import Final

from manyeyes.service.jobs.shapes import PassName

PUBLISHED: Final = "manyeyes.json"
LABELS: Final = "labels/"
README: Final = "README.md"
CARD: Final = "card/"
PUBLICATIONS: Final = "_manyeyes/publications/"
OWN: Final = "_manyeyes/"
LATEST: Final = "_manyeyes/latest.json"


def manifest_file(manifest: str) -> str:
    """Return the shards of a manifest."""
    return f"{OWN}manifests/{manifest}.json"


def manifest_rows(digest: str) -> str:
    """Return the rows of a shard, under the sha256 of the object: nobody writes others over them."""
    return f"{OWN}manifests/rows/{digest}.parquet"


def features_folder(version: str) -> str:
    """version: the digest of a feature's version."""
    return f"{OWN}features/{version}/"


def submitted_folder(digest: str) -> str:
    """Return what came with a call over HTTP; digest: of it, so that the same call finds the same job."""
    return f"{OWN}submitted/{digest}/"


def job_folder(job: str) -> str:
    """Return the folder of a job."""
    return f"{OWN}jobs/{job}/"


def job_file(job: str) -> str:
    """Return what a job was asked for."""
    return job_folder(job) + "job.json"


def label_model_folder(job: str, generation: int) -> str:
    """Return the label model that was fitted on the votes of a generation."""
    return f"{job_folder(job)}label_model/{generation}/"


def generation_file(job: str, generation: int) -> str:
    """Return which shards a generation does again; the first does all."""
    return f"{job_folder(job)}generations/{generation:04d}.json"


def lease_folder(job: str, pass_: PassName, generation: int) -> str:
    """Return the leases of a pass."""
    return f"{job_folder(job)}leases/{pass_}-{generation}/"


def lease_file(job: str, pass_: PassName, generation: int, shard: int, epoch: int) -> str:
    """Return a lease: who works on a shard. Each that is taken over has the next epoch."""
    return f"{lease_folder(job, pass_, generation)}{shard:08d}.{epoch:04d}.json"


def commits_folder(job: str, pass_: PassName, generation: int) -> str:
    """Return the commits of a pass."""
    return f"{job_folder(job)}commits/{pass_}-{generation}/"


def commit_file(job: str, pass_: PassName, generation: int, shard: int) -> str:
    """Return the one object whose creation ends a shard."""
    return f"{commits_folder(job, pass_, generation)}{shard:08d}.json"


def parts_folder(job: str, pass_: PassName, generation: int) -> str:
    """Return what attempts wrote in a pass."""
    return f"{job_folder(job)}parts/{pass_}-{generation}/"


def part_file(job: str, pass_: PassName, generation: int, shard: int, attempt: str) -> str:
    """Return what one attempt wrote of a shard; nobody reads it unless a commit names it."""
    return f"{parts_folder(job, pass_, generation)}{shard:08d}-{attempt}.parquet"


def events_folder(job: str) -> str:
    """Return what was told of a job: changes of status, and what went wrong on the way."""
    return f"{job_folder(job)}events/"


def tally_file(job: str, pass_: PassName, generation: int) -> str:
    """Return what the commits of a pass added up to a while ago, which spares readers most of them."""
    return f"{job_folder(job)}tallies/{pass_}-{generation}.json"


def cancel_file(job: str) -> str:
    """Return the object whose being there stops a job."""
    return job_folder(job) + "cancel.json"


def published_labels(shard: int) -> str:
    """Return the published labels of a shard."""
    return f"{LABELS}part-{shard:08d}.parquet"


def publication(number: int) -> str:
    """Return the object whose creation decides what is published after the one before it."""
    return f"{PUBLICATIONS}{number:08d}.json"


def published_file(job: str, generation: int) -> str:
    """Return what ``manyeyes.json`` says where this try of this job is what was published last."""
    return f"{job_folder(job)}published/{generation:04d}.json"
