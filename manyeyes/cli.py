"""The command line: reads arguments and hands them to manyeyes/commands, where the work is.

Exit codes: 0 done; 1 not one item could be labeled; 2 the call or the recipe cannot be used as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from manyeyes.commands import key, store
from manyeyes.errors import ManyeyesError

USAGE_ERROR = 2


class _Group(TyperGroup):
    """Shows every error of ours as one paragraph, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ManyeyesError as error:
            from manyeyes.commands.screen import show_error

            show_error(error)
            raise typer.Exit(USAGE_ERROR) from error


app = typer.Typer(
    name="manyeyes",
    help="Label images and texts with programs instead of clicks: many weak eyes, one strong label.",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
recipe_app = typer.Typer(help="Work with recipes.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")
app.add_typer(key.app, name="key")
app.add_typer(store.app, name="store")


def _show_version(asked: bool) -> None:
    if asked:
        from manyeyes import __version__

        typer.echo(f"manyeyes {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """Label images and texts with programs instead of clicks: many weak eyes, one strong label."""


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


def main() -> None:
    """Run the command line; the entry point of the ``manyeyes`` program."""
    app()


if __name__ == "__main__":
    main()
