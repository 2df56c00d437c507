"""Labeling, judging the labeling functions, and saying why."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyeyes.cli.app import app


@app.command()
def label(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH…", help="Images, .txt files, tables (.csv, .jsonl) and folders.", show_default=False
        ),
    ],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", "-r", metavar="FILE", help="The recipe, YAML or JSON.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="NAMES",
            help='Instead of a recipe: class names, as "cat, dog, bird". A warm start.',
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Where labels go: .parquet, .jsonl or .csv.")
    ] = Path("labels.parquet"),
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="Also write a report with pictures: .html."),
    ] = None,
    gold: Annotated[
        Path | None,
        typer.Option(
            "--gold", metavar="FILE", help="Known labels that help to fit: a CSV with id and label."
        ),
    ] = None,
    label_model: Annotated[
        Path | None,
        typer.Option("--label-model", metavar="FOLDER", help="Use a label model that was saved before."),
    ] = None,
    save_label_model: Annotated[
        Path | None,
        typer.Option("--save-label-model", metavar="FOLDER", help="Keep the label model that was fitted."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option("--clip", metavar="NAME", help="Another CLIP than the recipe's, as MobileCLIP2-S2."),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option("--detector", metavar="NAME", help="Another detector than the recipe's, as yolo11n."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Read only the first N items.")
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive/--no-recursive", help="Enter folders inside folders.")
    ] = True,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep what models saw, for the next run.")
    ] = True,
    video_every: Annotated[
        float | None,
        typer.Option("--video-every", metavar="SECONDS", help="Read videos, too: a frame every so often."),
    ] = None,
    video_frames: Annotated[
        int | None,
        typer.Option("--video-frames", metavar="N", min=1, help="Read videos, too: so many frames of each."),
    ] = None,
    video_keyframes: Annotated[
        bool, typer.Option("--video-keyframes", help="Read videos, too: the frames that are stored whole.")
    ] = False,
    per_clip: Annotated[
        bool, typer.Option("--per-clip", help="One label a video, from all of its frames together.")
    ] = False,
) -> None:
    """Label images, texts and tables, with the reason for every label."""
    from manyeyes.commands import label as command
    from manyeyes.videos import Sampling

    wanted = video_every is not None or video_frames is not None or video_keyframes
    options = command.Options(
        paths=paths,
        out=out,
        recipe=recipe,
        classes=classes,
        report=report,
        gold=gold,
        label_model=label_model,
        save_label_model=save_label_model,
        clip=clip,
        detector=detector,
        limit=limit,
        recursive=recursive,
        cache=cache,
        videos=Sampling(every_s=video_every, n_frames=video_frames, keyframes=video_keyframes)
        if wanted
        else None,
        per_clip=per_clip,
    )
    raise typer.Exit(command.run(options))


@app.command()
def analyze(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH…", help="Images, .txt files, tables (.csv, .jsonl) and folders.", show_default=False
        ),
    ],
    recipe: Annotated[
        Path,
        typer.Option("--recipe", "-r", metavar="FILE", help="The recipe, YAML or JSON.", show_default=False),
    ],
    gold: Annotated[
        Path | None, typer.Option("--gold", metavar="FILE", help="Known labels: a CSV with id and label.")
    ] = None,
    what_if: Annotated[
        Path | None,
        typer.Option("--what-if", metavar="FILE", help="Another recipe: what going over to it would change."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every pair.")] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Read only the first N items.")
    ] = None,
) -> None:
    """Say how good the labeling functions are, which hang together, and what a change would do."""
    from manyeyes.commands import analyze as command

    options = command.Options(
        paths=paths, recipe=recipe, gold=gold, what_if=what_if, as_json=as_json, limit=limit
    )
    raise typer.Exit(command.run(options))


@app.command()
def explain(
    item_id: Annotated[str, typer.Argument(metavar="ID", help="The id of a row: mostly the file's path.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help="Labels that manyeyes wrote; without it, those that were written last.",
        ),
    ] = None,
) -> None:
    """Say why an item has its label: the prior, what each function added, and the sum."""
    from manyeyes.commands import explain as command

    raise typer.Exit(command.run(item_id, labels=labels))
