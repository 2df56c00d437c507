"""Batch jobs, and the datasets that come of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from manyeyes.cli.app import app

job_app = typer.Typer(help="Label what lies in buckets, folders, tables and archives.", no_args_is_help=True)
app.add_typer(job_app, name="job")

Out = Annotated[
    str,
    typer.Argument(
        metavar="OUT", help="Where the job writes: a folder, or a bucket's prefix.", show_default=False
    ),
]
JobId = Annotated[
    str | None, typer.Option("--job", metavar="ID", help="Which job of it; the latest by default.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@job_app.command("run")
def run_job(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A bucket's prefix, a folder, a table, a list of addresses, tars, or an archive.",
            show_default=False,
        ),
    ],
    recipe: Annotated[
        Path,
        typer.Option("--recipe", "-r", metavar="FILE", help="The recipe, YAML or JSON.", show_default=False),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            help="A folder or a bucket's prefix to write to.",
            show_default=False,
        ),
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="What SOURCE is: auto, objects, table, manifest, webdataset or archive.",
        ),
    ] = "auto",
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column", metavar="OURS=THEIRS", help="A column of a table: id, image or text, and its name."
        ),
    ] = None,
    recursive: Annotated[
        bool, typer.Option("--recursive/--no-recursive", help="Enter folders inside folders.")
    ] = True,
    join: Annotated[
        str | None,
        typer.Option(
            "--join", metavar="TABLE[:KEY]", help="Metadata from a table, by its column KEY; id by default."
        ),
    ] = None,
    join_on: Annotated[
        str,
        typer.Option("--join-on", metavar="WHAT", help="What of a row the key names: id, name or stem."),
    ] = "id",
    label_model: Annotated[
        str | None,
        typer.Option("--label-model", metavar="PLACE", help="Use a label model that was saved before."),
    ] = None,
    gold: Annotated[
        str | None,
        typer.Option("--gold", metavar="TABLE", help="Known labels that help to fit: columns id and label."),
    ] = None,
    engine: Annotated[str, typer.Option("--engine", metavar="NAME", help="local or ray.")] = "local",
    workers: Annotated[
        int | None, typer.Option("--workers", metavar="N", min=1, help="Shards that are worked on at once.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="Of a Ray cluster that runs already.")
    ] = None,
    decoders: Annotated[
        int,
        typer.Option("--decoders", metavar="N", min=0, help="Of Ray: actors that only fetch and decode."),
    ] = 0,
    gpus: Annotated[
        float, typer.Option("--gpus", metavar="X", min=0, help="Of Ray: the GPUs of a worker.")
    ] = 0,
    shard_rows: Annotated[
        int, typer.Option("--shard-rows", metavar="N", min=1, max=100_000, help="Rows a shard.")
    ] = 4096,
    attempts: Annotated[
        int,
        typer.Option("--attempts", metavar="N", min=1, max=20, help="How often a row is fetched at most."),
    ] = 4,
    update: Annotated[
        bool, typer.Option("--update/--no-update", help="Take over what earlier jobs into OUT computed.")
    ] = True,
    same_rows: Annotated[
        bool,
        typer.Option("--same-rows", help="Label the rows of OUT's latest job again; SOURCE is not listed."),
    ] = False,
    max_error_rate: Annotated[
        float,
        typer.Option(
            "--max-error-rate", metavar="P", min=0, max=1, help="Give up where more rows fail than this part."
        ),
    ] = 0.5,
    export: Annotated[
        list[str] | None,
        typer.Option(
            "--format", metavar="NAME", help="Also export, to OUT/exports/NAME; see manyeyes export."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Label everything in a bucket, folder, table or archive; the same call goes on where it was stopped."""
    from manyeyes.commands import job as command

    options = command.Options(
        source=source,
        recipe=recipe,
        out=out,
        kind=kind,
        columns=command.columns(column or []),
        recursive=recursive,
        join=None if join is None else command.join(join, on=join_on),
        label_model=label_model,
        gold=gold,
        engine={
            "name": engine,
            "workers": workers,
            "address": address,
            "decoders": decoders,
            "gpus": gpus,
        },
        shard_rows=shard_rows,
        attempts=attempts,
        update=update,
        same_rows=same_rows,
        max_error_rate=max_error_rate,
        formats=export or [],
        as_json=as_json,
    )
    raise typer.Exit(command.run(options))


@job_app.command("resume")
def resume_job(out: Out, job: JobId = None, as_json: AsJson = False) -> None:
    """Go on with a job that was begun, or help with one that runs elsewhere, without listing its source again."""
    from manyeyes.commands import job as command

    raise typer.Exit(command.resume(out, job, as_json=as_json))


@job_app.command("status")
def job_status(
    out: Out,
    job: JobId = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show it until the job ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say how far a job is."""
    from manyeyes.commands import job_state as command

    raise typer.Exit(command.status(out, job, follow=follow, as_json=as_json))


@job_app.command("logs")
def job_logs(
    out: Out,
    job: JobId = None,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for more until the job ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line an event.")] = False,
) -> None:
    """Print what was told of a job: changes of its status, and what went wrong on the way."""
    from manyeyes.commands import job_state as command

    raise typer.Exit(command.logs(out, job, follow=follow, as_json=as_json))


@job_app.command("cancel")
def cancel_job(out: Out, job: JobId = None) -> None:
    """Stop a job, wherever it runs; running it again goes on."""
    from manyeyes.commands import job_state as command

    raise typer.Exit(command.cancel(out, job))


@job_app.command("retry")
def retry_job(
    out: Out,
    job: JobId = None,
    every: Annotated[
        bool, typer.Option("--every", help="Every row with an error, not only those that may pass now.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Try the failed rows of a job again, and write its labels anew."""
    from manyeyes.commands import job as command

    raise typer.Exit(command.retry(out, job, every=every, as_json=as_json))


@job_app.command("list")
def list_jobs(out: Out, as_json: AsJson = False) -> None:
    """List the jobs that wrote to a place."""
    from manyeyes.commands import job_state as command

    raise typer.Exit(command.list_jobs(out, as_json=as_json))


@app.command("verify")
def verify_dataset(
    out: Out,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=0, help="Labels that are made again.")
    ] = 200,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Which ones: another seed, another sample.")
    ] = 0,
    trust_recipe: Annotated[
        bool,
        typer.Option("--trust-recipe", help="Let its recipe run functions and load files that it names."),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Write what was published again, from what the job keeps of it."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Hold a dataset to its digests and counts, and make a sample of its labels again, bit for bit."""
    from manyeyes.commands import dataset as command

    raise typer.Exit(
        command.verify(out, sample=sample, seed=seed, trusted=trust_recipe, repair=repair, as_json=as_json)
    )


@app.command("export")
def export_dataset(
    out: Out,
    format: Annotated[
        str,
        typer.Option(
            "--format", "-f", metavar="NAME", help="Such as jsonl, csv, coco or yolo.", show_default=False
        ),
    ],
    to: Annotated[
        str,
        typer.Option("--to", metavar="PLACE", help="A folder or a bucket's prefix.", show_default=False),
    ],
    min_confidence: Annotated[
        float,
        typer.Option("--min-confidence", metavar="P", min=0, max=1, help="Leave out labels below this."),
    ] = 0.0,
    soft_labels: Annotated[
        bool, typer.Option("--soft-labels/--no-soft-labels", help="With the probability of every class.")
    ] = True,
    reasons: Annotated[
        bool, typer.Option("--reasons/--no-reasons", help="With what each labeling function said.")
    ] = False,
    abstained: Annotated[
        bool, typer.Option("--abstained/--no-abstained", help="With rows that have no label.")
    ] = False,
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split", metavar="NAME=PART", help="Split, as train=0.8; repeat it, parts add up to 1."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Of who goes into which split.")
    ] = 0,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="NAME=VALUE", help="Any other option of docs/exports.md, as group_by=brand."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a dataset in a format that others read, with splits that keep near-duplicates together."""
    from manyeyes.commands import dataset as command

    told: dict[str, Any] = {
        "min_confidence": min_confidence,
        "soft_labels": soft_labels,
        "reasons": reasons,
        "abstained": abstained,
        "seed": seed,
    }
    raise typer.Exit(
        command.export(
            out, to=to, format=format, options=told, splits=split or [], more=option or [], as_json=as_json
        )
    )
