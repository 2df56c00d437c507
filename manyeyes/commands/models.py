"""``manyeyes models``: what can be loaded, what of it is on this machine, and where it comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.text import Text

from manyeyes.commands import screen
from manyeyes.errors import ManyeyesError
from manyeyes.models.catalogue import CATALOGUE, Checkpoint, carriers, hub_folder, packaged_file
from manyeyes.models.weights import file_sha256, find_weights
from manyeyes.settings import home


def run(*, as_json: bool) -> int:
    """Print the catalogue with what is here of it; return exit code 0."""
    rows = [describe(checkpoint) for checkpoint in CATALOGUE]
    console = screen.out()
    if as_json:
        console.out(json.dumps(rows, indent=2, ensure_ascii=False), highlight=False)
        return 0
    heads = ("kind", "model", "here", "from", "licence", "good for")
    cells = [
        (
            row["kind"],
            row["model"],
            "yes" if row["here"] else "no",
            row["source"],
            row["licence"],
            row["note"],
        )
        for row in rows
    ]
    console.print(screen.table("Models", heads, cells, words=heads))
    for row in rows:
        for line in (row["problem"], *(f"{path}  sha256 {digest}" for path, digest in row["files"].items())):
            if line:
                console.print(Text(f"{row['kind']} {row['model']}: {line}", style="dim"), soft_wrap=True)
    console.print(
        Text(
            "A recipe may name any other model too: whatever open_clip, ultralytics or a Hugging Face encoder loads,"
            " or a file on this machine."
        ),
        soft_wrap=True,
    )
    return 0


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint as JSON-ready facts.

    here: whether it can be loaded with no network. files: path → sha256 of the weights that are here. problem: why a
    model that needs no hub is not here, or None.
    """
    files: dict[str, str] = {}
    problem = None
    if checkpoint.file is not None:
        path = packaged_file(checkpoint)
        if path is None:
            problem = f"the file {checkpoint.file} is missing from this installation; install manyeyes again"
        else:
            files[str(path)] = file_sha256(path)
    for name in checkpoint.carried:
        try:
            found = find_weights(name)
        except ManyeyesError as error:
            problem = problem or str(error)
            continue
        weights = found if found.is_file() else found / "model.safetensors"
        files[str(weights)] = file_sha256(weights)
    cached = _cached(checkpoint)
    if cached is not None and cached.endswith(".pt"):
        files[cached] = file_sha256(Path(cached))
    return {
        "kind": checkpoint.kind,
        "model": checkpoint.model,
        "here": cached is not None or (bool(files) and problem is None),
        "cached": cached,
        "source": checkpoint.source,
        "licence": checkpoint.licence,
        "note": checkpoint.note,
        "packages": carriers(checkpoint),
        "files": files,
        "problem": problem,
    }


def _cached(checkpoint: Checkpoint) -> str | None:
    """Return where a fetched checkpoint lies, or None."""
    if checkpoint.kind == "detector" and checkpoint.file is None:
        kept = home() / "weights" / f"{checkpoint.model}.pt"
        return str(kept) if kept.is_file() else None
    folder = hub_folder(checkpoint)
    return None if folder is None else str(folder)
