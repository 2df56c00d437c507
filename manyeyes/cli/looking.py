"""Finding items, and what is on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyeyes.cli.app import app


@app.command()
def serve(
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="HOST", help="Where to listen; without it, this machine only."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="PORT", help="8000 where it is not set; 0 takes a free one."),
    ] = None,
    recipes: Annotated[
        Path | None, typer.Option("--recipes", metavar="FOLDER", help="Recipes that callers may use by name.")
    ] = None,
) -> None:
    """Serve recipes over HTTP. Everything else is set through MANYEYES_… variables; see docs/service.md."""
    try:
        from manyeyes.service.app import serve as serve_forever
        from manyeyes.service.settings import ServiceSettings
    except ModuleNotFoundError as error:
        from manyeyes.errors import MissingDependency

        raise MissingDependency(
            f"the service needs the package {error.name}, which is not installed; run pip install 'manyeyes[serve]'"
        ) from error
    serve_forever(ServiceSettings.from_env(host=host, port=port, recipes_dir=recipes))


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with files and digests.")] = False,
) -> None:
    """List the models that are known by name, and which of them are on this machine."""
    from manyeyes.commands import models as command

    raise typer.Exit(command.run(as_json=as_json))


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every fact.")] = False,
    run_models: Annotated[
        bool,
        typer.Option("--models/--no-models", help="Whether models are loaded and run, which takes seconds."),
    ] = True,
) -> None:
    """Say what is installed, which models and runtimes load, which limits hold, and what does not work."""
    from manyeyes.commands import doctor as command

    raise typer.Exit(command.run(as_json=as_json, models=run_models))


@app.command()
def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TEXT] PATH…",
            help="What to look for in words, unless --image is given; then images, texts, tables and folders.",
            show_default=False,
        ),
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="Look for what is like this image.")
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(
            "--index",
            metavar="FOLDER",
            help="Keep what was indexed here; then, without PATH, search only that.",
        ),
    ] = None,
    on: Annotated[
        str, typer.Option("--on", metavar="WHAT", help="Search the items' image or text.")
    ] = "image",
    clip: Annotated[
        str | None,
        typer.Option("--clip", metavar="NAME", help="Another CLIP than the starter, as MobileCLIP2-S2."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", metavar="N", min=1, help="How many to show.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the items that look most like some words, or like an image."""
    from manyeyes.commands import search as command

    said = list(words or [])
    text = said.pop(0) if said and image is None else None
    options = command.Options(
        text=text,
        paths=[Path(path) for path in said],
        image=image,
        index=index,
        on=command.what(on),
        clip=clip,
        count=count,
        as_json=as_json,
    )
    raise typer.Exit(command.run(options))


@app.command()
def duplicates(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH…", help="Images, .txt files, tables and folders.", show_default=False),
    ],
    on: Annotated[
        str, typer.Option("--on", metavar="WHAT", help="Compare the items' image or text.")
    ] = "image",
    cosine: Annotated[
        float | None,
        typer.Option("--cosine", metavar="X", min=-1, max=1, help="How close near-duplicates are at least."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option("--clip", metavar="NAME", help="Another CLIP than the starter, as MobileCLIP2-S2."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every group.")] = False,
) -> None:
    """Find items that are there more than once: copies, crops, other sizes, small edits."""
    from manyeyes.commands import search as command

    raise typer.Exit(
        command.run_duplicates(paths, clip=clip, cosine=cosine, as_json=as_json, on=command.what(on))
    )
