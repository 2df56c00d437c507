"""Small photographs and texts in a folder, and a job over them, pass by pass, without a coordinator."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from manyeyes import Item, Label, Recipe
from manyeyes.service.jobs.manifests.manifest import write_manifest
from manyeyes.service.jobs.places.commits import Commits
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import JobRequest, Manifest, PassName, Row, Source
from manyeyes.service.jobs.sources import open_source
from manyeyes.service.jobs.work.fitting import fit_on_votes
from manyeyes.service.jobs.work.job import Job, write_job
from manyeyes.service.jobs.work.worker import Outcome, ShardWorker, WorkSpec
from manyeyes.sinks import read_labels

PAINT = """
name: paint
classes: [red, green, blue]
primitives: {toy: {}}
lfs:
  - {name: looks, kind: prompt, using: toy, prompts: {red: red, green: green, blue: blue}, threshold: 0.4}
  - {name: says, kind: keyword, on: text, votes: {red: [crimson], green: [lime], blue: [navy]}}
  - {name: shelf, kind: metadata, when: "shelf == 'R'", vote: red}
  - {name: file, kind: keyword, on: filename, any: [blau], whole_words: false, vote: blue}
  - {name: pale, kind: prompt, using: toy, prompts: {red: "red", blue: "white"}, threshold: 0.3, on: image}
"""
EDITED = PAINT + "  - {name: dark, kind: keyword, on: text, any: [wall], vote: {not: red}}\n"

_WORDS = {"red": "a crimson wall", "green": "a lime wall", "blue": "a navy wall"}


def photo(colour: str, width: int) -> bytes:
    """Return a plain photograph."""
    stream = io.BytesIO()
    Image.new("RGB", (width, 8), colour).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of folders: photographs of three colours, some with a text or metadata, some damaged."""

    def make(n: int = 30, *, damaged: Sequence[int] = ()) -> Path:
        folder = tmp_path / f"photos-{n}-{len(damaged)}"
        folder.mkdir()
        for i in range(n):
            colour = list(_WORDS)[i % 3]
            stem = folder / (f"{i:04}-blau" if i % 7 == 0 else f"{i:04}")
            data = b"this is no image" if i in damaged else photo(colour, 8 + i % 50)
            stem.with_suffix(".png").write_bytes(data)
            if i % 2:
                stem.with_suffix(".txt").write_text(_WORDS[colour])
            if i % 4 == 0:
                stem.with_suffix(".json").write_text(json.dumps({"shelf": colour[0].upper()}))
        return folder

    return make


@dataclass
class Run:
    """A job that is worked on here, shard by shard."""

    storage: Storage
    request: JobRequest
    manifest: Manifest
    job: Job
    outcomes: list[Outcome] = field(default_factory=list)

    def spec(self, pass_: PassName, generation: int = 0, **more: Any) -> WorkSpec:
        return WorkSpec(out=self.storage.uri, job=self.job.id, pass_=pass_, generation=generation, **more)

    def do(self, pass_: PassName, generation: int = 0, **more: Any) -> list[Outcome]:
        worker = ShardWorker(self.spec(pass_, generation, **more), storage=self.storage)
        done = [worker.do(shard) for shard in self.manifest.shards]
        self.outcomes += done
        return done

    def votes(self, generation: int = 0) -> list[Outcome]:
        done = self.do("votes", generation)
        assert all(one.state == "committed" for one in done), done
        return done

    def finish(self, generation: int = 0) -> list[Label]:
        fit_on_votes(self.job, self.storage, generation)
        done = self.do("labels", generation)
        assert all(one.state == "committed" for one in done), done
        return self.labels(generation)

    def again(self, recipe: str, **more: Any) -> Run:
        """Begin a job over the same rows with another recipe."""
        request = self.request.model_copy(update={"recipe": Recipe.parse(recipe).document(), **more})
        job = write_job(self.storage, request, self.manifest)
        return replace(self, request=request, job=job, outcomes=[])

    def computed(self) -> Counter[str]:
        """Return how many inputs each model was given."""
        total: Counter[str] = Counter()
        for one in self.outcomes:
            if one.commit is not None:
                total.update(one.commit.computed)
        return total

    def labels(self, generation: int = 0) -> list[Label]:
        assert self.storage.local is not None
        labels: list[Label] = []
        for commit in Commits(self.storage, self.job.id, "labels", generation).all():
            labels += read_labels(self.storage.local / commit.files["labels"][0])
        return labels

    def bytes_of(self, pass_: PassName, generation: int = 0) -> list[bytes]:
        commits = Commits(self.storage, self.job.id, pass_, generation).all()
        return [self.storage.get(commit.files[pass_][0]) for commit in commits]


@pytest.fixture
def begin(tmp_path: Path) -> Callable[..., Run]:
    """Return what begins a job over a folder, or over rows."""

    def start(
        source: Path | Sequence[Row], recipe: str = PAINT, *, out: Path | None = None, **more: Any
    ) -> Run:
        out = out or tmp_path / "out"
        storage = Storage.open(str(out))
        shard_rows = more.pop("shard_rows", 8)
        trusted = more.pop("trusted", True)
        uri = str(source) if isinstance(source, Path) else "rows"
        request = JobRequest(
            source=Source(uri=uri),
            recipe=Recipe.parse(recipe).document(),
            out=str(out),
            shard_rows=shard_rows,
            **more,
        )
        rows = open_source(request.source).rows() if isinstance(source, Path) else iter(source)
        manifest = write_manifest(rows, storage, uri=uri, shard_rows=shard_rows)
        return Run(storage, request, manifest, write_job(storage, request, manifest, trusted=trusted))

    return start


@pytest.fixture
def told() -> Callable[[Sequence[Label]], list[dict[str, Any]]]:
    """Return what makes labels comparable, errors and all."""
    return lambda labels: [label.to_dict() for label in labels]


@pytest.fixture
def paint() -> str:
    """Return a recipe over the toy primitive, texts, metadata and file names."""
    return PAINT


@pytest.fixture
def edited() -> str:
    """Return the same with one function more."""
    return EDITED


@pytest.fixture
def items_of() -> Callable[[Path], list[Item]]:
    """Return what reads a folder as the command line does."""
    from manyeyes.sources import read_items

    def read(folder: Path) -> list[Item]:
        return [one for one in read_items([folder]) if isinstance(one, Item)]

    return read
