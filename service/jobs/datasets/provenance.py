"""Publishing: from the commits of a finished job to a dataset that readers may follow.

What became of each shard is summed up once and kept in the job's folder. Then the publication gets a number, by
creating an object that only one can create: the highest number is what shall be published. Whoever publishes brings the
place to that state, whoever announced it: labels are copied to ``labels/part-*.parquet``, ``manyeyes.json`` is replaced
in one step, and what is older is removed. So coordinators may come at once, or die in the middle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from manyeyes.errors import InvalidRequest, NotFound
from manyeyes.service.jobs import layout
from manyeyes.service.jobs.datasets.card import write_card
from manyeyes.service.jobs.datasets.describing import describe
from manyeyes.service.jobs.datasets.published import LabelsFile, Published
from manyeyes.service.jobs.places.commits import Commits
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.work.job import read_job

_COPIES: Final = 16
_NAME: Final = re.compile(r"(\d{8})\.json")
_PART: Final = re.compile(r"part-\d{8}\.parquet")


def publish(storage: Storage, job: str, generation: int) -> Published:
    """Make what a job's labels pass committed the dataset of this place; return what ``manyeyes.json`` says.

    job: its id. generation: the newest whose labels pass is complete. May be called again, by several coordinators at
    once and after any interruption: the place ends with the newest of what was published, and nothing of anything
    older; of one job, an earlier generation never takes the place of a later one. Raises InvalidRequest if a shard has
    no commit or its labels are damaged, StorageFailed if the place cannot be written.
    """
    _kept(storage, job, generation)
    _announce(storage, job, generation)
    return settle(storage)


def read_published(storage: Storage) -> Published:
    """Return what ``manyeyes.json`` says.

    Raises NotFound where nothing was published yet, telling how far a job is; InvalidRequest if it is damaged.
    """
    try:
        data = storage.get(layout.PUBLISHED)
    except NotFound:
        raise NotFound(f"there is no finished dataset in {storage.uri}: {_how_far(storage)}") from None
    return Published.from_bytes(data, where=f"{layout.PUBLISHED!r} of {storage.uri}")


def settle(storage: Storage) -> Published:
    """Bring a place to the state of its latest publication; return what that says.

    So it also mends files that were damaged since, from what the job keeps. Raises as ``publish`` does, and NotFound
    where nothing was published or the job's folder is gone.
    """
    while True:
        number, job, generation = _latest(storage)
        told = _kept(storage, job, generation)
        with ThreadPoolExecutor(_COPIES, thread_name_prefix="publish") as pool:
            for _ in pool.map(partial(_place, storage, told), told.files):
                pass
        write_card(storage, told)
        storage.put(layout.PUBLISHED, told.to_bytes())
        if _latest(storage)[0] != number:
            continue
        storage.delete(unlisted_parts(storage, told))
        # Who came in between may have lost files to what was just deleted.
        if _latest(storage)[0] == number:
            return told


def kept_publication(storage: Storage) -> Published:
    """Return what was published last, as the job's folder keeps it. Raises NotFound, or InvalidRequest if damaged."""
    _, job, generation = _latest(storage)
    path = layout.published_file(job, generation)
    return Published.from_bytes(storage.get(path), where=f"{path!r} of {storage.uri}")


def unlisted_parts(storage: Storage, told: Published) -> list[str]:
    """Return the parts of labels beside those that were published."""
    current = {file.path for file in told.files}
    return [path for path in _parts(storage) if path not in current]


def winner(storage: Storage, told: Published, file: LabelsFile) -> str:
    """Return where the job itself keeps the labels of a published file; it is never written again.

    Raises NotFound where the job's folder was removed.
    """
    commit = Commits(storage, told.job, "labels", file.generation).get(file.shard)
    if commit is None:
        raise NotFound(f"{storage.uri} keeps no commit of the labels of shard {file.shard} of job {told.job}")
    return commit.files["labels"][0]


def _place(storage: Storage, told: Published, file: LabelsFile) -> None:
    storage.copy(winner(storage, told, file), file.path)


def _kept(storage: Storage, job: str, generation: int) -> Published:
    """Return what is said of a try of a job, summing it up where nobody did before."""
    path = layout.published_file(job, generation)
    where = f"{path!r} of {storage.uri}"
    try:
        return Published.from_bytes(storage.get(path), where=where)
    except NotFound:
        storage.create(path, describe(storage, read_job(storage, job), generation).to_bytes())
    except InvalidRequest:  # damaged
        storage.put(path, describe(storage, read_job(storage, job), generation).to_bytes())
    return Published.from_bytes(storage.get(path), where=where)


def _announce(storage: Storage, job: str, generation: int) -> None:
    """Let a publication follow all that there are, unless it is the last one, or a later one of the same job."""
    data = json.dumps({"job": job, "generation": generation}, sort_keys=True).encode()
    while True:
        numbers = _numbers(storage)
        own = (
            (number, made) for number in reversed(numbers) for j, made in [_read(storage, number)] if j == job
        )
        number, made = next(own, (0, -1))
        if made > generation or (made == generation and number == numbers[-1]):
            return
        if storage.create(layout.publication(numbers[-1] + 1 if numbers else 1), data):
            return


def _read(storage: Storage, number: int) -> tuple[str, int]:
    path = layout.publication(number)
    try:
        told = json.loads(storage.get(path))
        return str(told["job"]), int(told["generation"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"{path!r} of {storage.uri} is damaged; delete it, and run the job again"
        ) from error


def _latest(storage: Storage) -> tuple[int, str, int]:
    numbers = _numbers(storage)
    if not numbers:
        raise NotFound(
            f"nothing says what was published in {storage.uri}; run the job again in an empty place"
        )
    return numbers[-1], *_read(storage, numbers[-1])


def _numbers(storage: Storage) -> list[int]:
    names = (meta.path.rpartition("/")[2] for meta in storage.list(layout.PUBLICATIONS))
    return sorted(int(matched[1]) for name in names if (matched := _NAME.fullmatch(name)))


def _parts(storage: Storage) -> Iterator[str]:
    for meta in storage.list(layout.LABELS):
        if _PART.fullmatch(meta.path.removeprefix(layout.LABELS)):
            yield meta.path


def _how_far(storage: Storage) -> str:
    """Return in words what there is instead of a dataset."""
    from manyeyes.service.jobs.progress.latest import find_job  # which asks what is published
    from manyeyes.service.jobs.progress.progress import progress_of

    try:
        job = find_job(storage).id
    except NotFound:
        return "no job was begun there; manyeyes job run SOURCE --recipe … --out … begins one"
    told = progress_of(storage, job)
    because = f" ({told.message})" if told.message else ""
    status = told.status.replace("_", " ")
    return (
        f"job {job} is {status}{because}, with {told.shards_done:,} of {told.shards:,} shards done in the pass that"
        f" makes {told.pass_}; run it again to go on, or wait for it"
    )
