"""What attempts left behind that were lost."""

from __future__ import annotations

from pathlib import Path

from manyeyes.service.jobs.coordination.sweeping import sweep_parts
from manyeyes.service.jobs.layout import part_file
from manyeyes.service.jobs.places.commits import Commits
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Commit, Counts


def test_only_what_no_commit_names_goes(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))

    def part(shard: int, attempt: str, generation: int = 0) -> str:
        path = part_file("j", "votes", generation, shard, attempt)
        storage.put(path, b"rows")
        return path

    kept = [part(0, "b"), part(1, "a"), part(3, "a"), part(3, "b"), part(0, "x", generation=1)]
    lost = [part(0, "a"), part(0, "c"), part(2, "a")]
    kept.append(part(2, "b"))
    commits = Commits(storage, "j", "votes", 0)
    for shard, path in ((0, kept[0]), (1, kept[1]), (2, kept[-1])):
        commits.create(Commit(shard, "some", {"votes": (path, "00")}, Counts(rows=1)))
    storage.put("_manyeyes/jobs/j/parts/votes-0/notes.txt", b"of somebody else")
    # Nobody knows yet which part of shard 3 counts.
    assert sweep_parts(storage, "j", 0) == len(lost)
    left = {meta.path for meta in storage.list("_manyeyes/jobs/j/parts")}
    assert left == {*kept, "_manyeyes/jobs/j/parts/votes-0/notes.txt"}
    assert sweep_parts(storage, "j", 0) == 0
