"""``manyeyes suggest``: labeling functions that known labels, or the classes' names and clusters, speak for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from manyeyes.commands import screen
from manyeyes.commands.label import read_gold
from manyeyes.commands.recipe import chosen_recipe
from manyeyes.errors import InvalidRequest
from manyeyes.lfs.suggest import Suggestion
from manyeyes.sources import read_items
from manyeyes.suggestions import accept, suggest_lfs
from manyeyes.types import Item

_SHOWN = 100


@dataclass(frozen=True)
class Options:
    """What the command line asks of ``suggest``; see ``manyeyes suggest --help``."""

    paths: Sequence[Path]
    recipe: Path | None = None
    classes: str | None = None
    gold: Path | None = None
    accept: str | None = None
    write: Path | None = None
    words: Path | None = None
    without: str | None = None
    as_json: bool = False


def run(options: Options) -> int:
    """Suggest as the options say; return the exit code: 0, or 1 where there was nothing to suggest from.

    Raises InvalidRequest if the gold labels do not fit, or a name that is to be accepted was not suggested.
    """
    if options.accept is not None and options.write is None:
        raise InvalidRequest("--accept says what to take, and --write FILE where the recipe goes; give both")
    recipe = chosen_recipe(file=options.recipe, classes=options.classes)
    gold = None if options.gold is None else read_gold(options.gold)
    skipped: Counter[str] = Counter()
    items = [read for read in read_items(options.paths, skipped=skipped) if isinstance(read, Item)]
    if not items:
        screen.say("There was nothing to suggest from: not one image, text or table row that can be read.")
        return 1
    words = [] if options.words is None else _words(options.words)
    with screen.progress("looking", total=len(items)) as done:
        suggestions = suggest_lfs(
            recipe,
            items,
            gold,
            words=words,
            without=_names(options.without),
            count_existing=options.recipe is not None,
            progress=done,
        )
    if options.as_json:
        rows = [_row(suggestion) for suggestion in suggestions]
        screen.out().out(json.dumps(rows, indent=2, ensure_ascii=False), highlight=False)
    else:
        _show(suggestions, judged=gold is not None)
    if options.write is not None:
        names = None if options.accept is None else _names(options.accept)
        taken = accept(
            recipe,
            suggestions,
            names,
            keep=options.recipe is not None,
            folder=options.write.absolute().parent,
        )
        try:
            options.write.write_text(taken.to_yaml(), encoding="utf-8")
        except OSError as error:
            raise InvalidRequest(f"cannot write {options.write}: {error.strerror}") from error
        screen.say(
            f"{options.write}: {len(taken.lfs)} labeling functions; now manyeyes label --recipe {options.write}"
        )
    return 0


def _show(suggestions: Sequence[Suggestion], *, judged: bool) -> None:
    console = screen.out()
    if not suggestions:
        console.print(Text("Nothing to suggest: no fact, word or look tells the classes apart."))
        return
    heads = ("", "function", "votes for", "coverage", "right", "95 %" if judged else "estimated by")
    rows = []
    for suggestion in suggestions[:_SHOWN]:
        told = "–" if suggestion.precision is None else f"{suggestion.precision:.0%}"
        low, high = suggestion.interval or (None, None)
        sure = "label model" if low is None else f"{low:.0%}–{high:.0%}"
        votes_for = ", ".join(suggestion.votes_for) or "–"
        mark = "*" if suggestion.chosen else ""
        rows.append((mark, suggestion.name, votes_for, f"{suggestion.coverage:.0%}", told, sure))
    console.print(screen.table("", heads, rows, words=("function", "votes for")))
    console.print(Text("* would be taken: --write recipe.yaml writes those, --accept a,b others."))


def _row(suggestion: Suggestion) -> dict[str, Any]:
    return {
        "name": suggestion.name,
        "family": suggestion.family,
        "votes_for": list(suggestion.votes_for),
        "coverage": suggestion.coverage,
        "precision": suggestion.precision,
        "interval": None if suggestion.interval is None else list(suggestion.interval),
        "judged": suggestion.n_judged,
        "gain": suggestion.gain,
        "chosen": suggestion.chosen,
        "lf": suggestion.document,
    }


def _names(told: str | None) -> list[str]:
    return [name.strip() for name in (told or "").split(",") if name.strip()]


def _words(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"cannot read the words in {path}: {error}; give a text file, one a line"
        ) from error
