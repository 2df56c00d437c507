"""``manyeyes prompt``: how a prompt does on some items, at once; and ``manyeyes recipe calibrate``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.columns import Columns
from rich.console import Console, Group
from rich.text import Text

from manyeyes.commands import screen
from manyeyes.commands.label import read_gold
from manyeyes.commands.pictures import can_show, half_blocks
from manyeyes.report import SUFFIXES as REPORT_SUFFIXES
from manyeyes.sinks import check_destination, write_text
from manyeyes.sources import Broken, read_items
from manyeyes.types import Item

if TYPE_CHECKING:
    from manyeyes.prompting import PromptView
    from manyeyes.recipe import Recipe

_KEPT: Final = 100_000
_BAR: Final = 20
_PICTURE_COLUMNS: Final = 24
_IN_TERMINAL: Final = 6


@dataclass(frozen=True)
class Options:
    """What the command line asks of ``prompt``; see ``manyeyes prompt --help``."""

    prompt: str
    paths: Sequence[Path]
    also: Sequence[str] = ()
    against: Sequence[str] = ()
    background: Sequence[str] = ("standard",)
    on: str = "image"
    using: str = ""
    templates: Sequence[str] = ()
    threshold: float | None = None
    recipe: Path | None = None
    vote: str | None = None
    gold: Path | None = None
    html: Path | None = None
    as_json: bool = False
    n_shown: int = 12
    limit: int | None = None
    pictures: bool = True


@dataclass
class _Kept:
    """Items on their way, kept for the sheet; what cannot be read is counted."""

    paths: Sequence[Path]
    limit: int | None
    items: dict[str, Item] = field(default_factory=dict)
    n_unread: int = 0
    unread: set[str] = field(default_factory=set)

    def __iter__(self) -> Iterator[Item]:
        for read in islice(read_items(self.paths, skipped=Counter()), self.limit):
            if isinstance(read, Broken):
                self.n_unread += 1
                self.unread.add(read.id)
                continue
            if len(self.items) < _KEPT:
                self.items[read.id] = read
            yield read

    def known(self, gold: Mapping[str, str] | None) -> dict[str, str] | None:
        return None if gold is None else {key: name for key, name in gold.items() if key not in self.unread}


def run(options: Options) -> int:
    """Show how a prompt does; return the exit code: 0, or 1 where no item could be compared with it."""
    from manyeyes.prompting import try_prompt

    if options.html is not None:
        check_destination(options.html, suffixes=REPORT_SUFFIXES)
    gold = None if options.gold is None else read_gold(options.gold)
    kept = _Kept(options.paths, options.limit)
    with screen.progress("looking", total=None) as done:
        view = try_prompt(
            (options.prompt, *options.also),
            kept,
            against=options.against,
            background=options.background,
            on=options.on,
            using=options.using,
            templates=options.templates,
            threshold=options.threshold,
            recipe=None if options.recipe is None else _recipe(options.recipe),
            vote=options.vote,
            gold=gold,
            n_shown=options.n_shown,
            progress=done,
        )
    if options.html is not None:
        from manyeyes.prompt_sheet import write_sheet

        write_sheet(options.html, view, items=kept.items)
    if options.as_json:
        screen.out().print(json.dumps(view.to_dict(), ensure_ascii=False), soft_wrap=True, markup=False)
    else:
        _show(view, kept, options)
    n_errors = len(view.errors) + kept.n_unread
    if n_errors:
        screen.say(f"Left out: {n_errors:,} {'item' if n_errors == 1 else 'items'} with an error.")
    if options.html is not None:
        screen.say(f"Wrote the contact sheet to {options.html}")
    if not view.top:
        screen.say(f"There was nothing to compare: no item under the paths has what on: {options.on} needs.")
        return 1
    return 0


def calibrate(
    file: Path,
    paths: Sequence[Path],
    *,
    out: Path | None,
    gold: Path | None = None,
    lfs: Sequence[str] = (),
    limit: int | None = None,
) -> int:
    """Calibrate the prompt LFs of a recipe on some items and write the recipe; return exit code 0.

    out: where it goes; None prints it. Raises InvalidRequest if there are too few items to calibrate on.
    """
    from manyeyes.prompt_fitting import calibrate as calibrated

    if out is not None:
        check_destination(out, suffixes=(".yaml", ".yml", ".json"))
    recipe = _recipe(file)
    kept = _Kept(paths, limit)
    with screen.progress("calibrating", total=None) as done:
        found = calibrated(
            recipe,
            kept,
            gold=None if gold is None else read_gold(gold),
            lfs=lfs,
            folder=file.parent,
            progress=done,
        )
    if out is None:
        screen.out().print(Text(found.to_yaml()), soft_wrap=True)
    else:
        text = found.to_json() + "\n" if out.suffix == ".json" else found.to_yaml()
        write_text(out, text, suffixes=(".yaml", ".yml", ".json"))
        screen.say(f"Wrote {out}, version {found.version} (it was {recipe.version}); comments are not kept.")
    return 0


def _recipe(file: Path) -> Recipe:
    from manyeyes.recipe import Recipe

    return Recipe.load(file)


def _show(view: PromptView, kept: _Kept, options: Options) -> None:
    console = screen.out()
    with_pictures = options.pictures and can_show(console)
    n = min(options.n_shown, _IN_TERMINAL) if with_pictures else options.n_shown
    for title, rows in (("Top", view.top), ("Borderline", view.borderline), ("Bottom", view.bottom)):
        if with_pictures:
            _show_pictures(console, title, view, rows[:n], kept)
        else:
            cells = [
                (view.ids[row], f"{view.scores[row]:.3f}", _bar(float(view.scores[row]))) for row in rows[:n]
            ]
            console.print(screen.table(title, ("item", "score", ""), cells, words=("",)))
        console.print()
    if view.agreements:
        heads = ("function", "overlaps", "conflicts", "its votes covered", "says there")
        agreements = [
            (
                a.lf,
                f"{a.overlaps:.1%}",
                "–" if a.conflicts is None else f"{a.conflicts:.1%}",
                f"{a.covers:.1%}",
                ", ".join(f"{vote} {count:,}" for vote, count in a.says) or "–",
            )
            for a in view.agreements
        ]
        title = (
            f"Beside the recipe's functions, as a vote for {view.vote}"
            if view.vote
            else "Beside the recipe's functions"
        )
        console.print(screen.table(title, heads, agreements, words=("says there",)))
        console.print()
    shares = [(f"{least:.2f}", f"{share:.1%}") for least, share in view.coverage_at[1::2]]
    console.print(screen.table("Coverage", ("threshold", "votes"), shares))
    console.print()
    console.print(Text(_told(view)), soft_wrap=True)


def _show_pictures(console: Console, title: str, view: PromptView, rows: Sequence[int], kept: _Kept) -> None:
    console.print(Text(title, style="bold"))
    cards = []
    for row in rows:
        item = kept.items.get(view.ids[row])
        picture = None if item is None else half_blocks(item, columns=_PICTURE_COLUMNS)
        told = Text(f"{view.scores[row]:.3f} {view.ids[row]}", overflow="fold")
        words = Text((item.text or "")[:100] if item is not None else "", style="dim")
        cards.append(Group(picture, told) if picture is not None else Group(told, words))
    console.print(Columns(cards, width=_PICTURE_COLUMNS + 2))


def _bar(score: float) -> str:
    return "█" * round(_BAR * score) + "░" * (_BAR - round(_BAR * score))


def _told(view: PromptView) -> str:
    n, voted = len(view.ids), int((view.scores >= view.threshold).sum())
    told = f"With threshold {view.threshold:.2f} it votes on {voted:,} of {n:,} items ({view.coverage:.1%})."
    if view.right is not None:
        told += f" Of those whose label is known, {view.right:.1%} are {view.vote}."
    if view.suggested is None:
        return told + " The scores show no clear gap; look at the borderline before you choose a threshold."
    return told + f" Suggested threshold: {view.suggested:.2f}."
