"""Trying prompts out, and fitting those of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from manyeyes.cli.app import app

recipe_app = typer.Typer(help="Work with recipes.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")


@app.command()
def prompt(
    sentence: Annotated[
        str, typer.Argument(metavar="PROMPT", help='A sentence, as "a photo of a dress".', show_default=False)
    ],
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH…", help="Images, .txt files, tables (.csv, .jsonl) and folders.", show_default=False
        ),
    ],
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="PROMPT", help="Another sentence for the same thing."),
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option("--against", metavar="PROMPT", help="What it is not; may be repeated.")
    ] = None,
    background: Annotated[
        list[str] | None,
        typer.Option(
            "--background",
            metavar="NAME",
            help="Everyday things to hold it against: standard, kinds of them, or none.",
        ),
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(
            "--template", metavar="TEXT", help="Words around the prompt, with {}; or a set, as photo."
        ),
    ] = None,
    on: Annotated[str, typer.Option("--on", metavar="WHAT", help="image, text or both.")] = "image",
    using: Annotated[
        str, typer.Option("--using", metavar="NAME", help="Another encoder among the recipe's primitives.")
    ] = "",
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="P", min=0.0, max=1.0, help="Least probability to vote."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", "-r", metavar="FILE", help="Compare with the functions of this recipe."),
    ] = None,
    vote: Annotated[
        str | None, typer.Option("--vote", metavar="CLASS", help="The class of the recipe it would vote for.")
    ] = None,
    gold: Annotated[
        Path | None, typer.Option("--gold", metavar="FILE", help="Known labels: a CSV with id and label.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Also write a contact sheet: .html.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every score.")] = False,
    show: Annotated[
        int, typer.Option("--show", metavar="N", min=1, max=200, help="Items in each part of the sheet.")
    ] = 12,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Read only the first N items.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Show pictures where the terminal can.")
    ] = True,
) -> None:
    """Try a prompt out: what matches best, what is borderline, and what a threshold would cover."""
    from manyeyes.commands import prompt as command

    named = background or ["standard"]
    options = command.Options(
        prompt=sentence,
        paths=paths,
        also=also or (),
        against=against or (),
        background=() if named == ["none"] else named,
        templates=template or (),
        on=on,
        using=using,
        threshold=threshold,
        recipe=recipe,
        vote=vote,
        gold=gold,
        html=html,
        as_json=as_json,
        n_shown=show,
        limit=limit,
        pictures=pictures,
    )
    raise typer.Exit(command.run(options))


@app.command()
def suggest(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH…", help="Images, .txt files, tables (.csv, .jsonl) and folders.", show_default=False
        ),
    ],
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", "-r", metavar="FILE", help="The recipe to add to, YAML or JSON."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes", metavar="NAMES", help='Instead of a recipe: class names, as "cat, dog, bird".'
        ),
    ] = None,
    gold: Annotated[
        Path | None, typer.Option("--gold", metavar="FILE", help="Known labels: a CSV with id and label.")
    ] = None,
    accept: Annotated[
        str | None,
        typer.Option(
            "--accept", metavar="NAMES", help="Take these, as a,b; without it, those marked with *."
        ),
    ] = None,
    write: Annotated[
        Path | None, typer.Option("--write", metavar="FILE", help="Write a recipe with those that are taken.")
    ] = None,
    words: Annotated[
        Path | None,
        typer.Option("--words", metavar="FILE", help="Words of your trade for prompts, one a line."),
    ] = None,
    without: Annotated[
        str | None, typer.Option("--without", metavar="NAMES", help="Primitives not to ask, as detector.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every function in full.")] = False,
) -> None:
    """Suggest labeling functions, each with how often it is right and on how many items it votes."""
    from manyeyes.commands import suggest as command

    options = command.Options(
        paths=paths,
        recipe=recipe,
        classes=classes,
        gold=gold,
        accept=accept,
        write=write,
        words=words,
        without=without,
        as_json=as_json,
    )
    raise typer.Exit(command.run(options))


@recipe_app.command("check")
def check_recipe(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The recipe, YAML or JSON.")],
) -> None:
    """Say whether a recipe can be used, what its functions read, and its version."""
    from manyeyes.commands import recipe as command

    raise typer.Exit(command.check(file))


@recipe_app.command("calibrate")
def calibrate_recipe(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The recipe, YAML or JSON.")],
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH…", help="Items of the kind to be labeled, 50 or more.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Where the recipe goes; without it, it is printed."),
    ] = None,
    gold: Annotated[
        Path | None,
        typer.Option("--gold", metavar="FILE", help="Known labels that help: a CSV with id and label."),
    ] = None,
    lf: Annotated[
        list[str] | None, typer.Option("--lf", metavar="NAME", help="Only this prompt function; repeatable.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="Read only the first N items.")
    ] = None,
) -> None:
    """Fit the prompts of a recipe to your items, without gold; the numbers go into the recipe."""
    from manyeyes.commands import prompt as command

    raise typer.Exit(command.calibrate(file, paths, out=out, gold=gold, lfs=lf or (), limit=limit))
