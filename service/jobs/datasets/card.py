"""The data card: a page in Markdown, with pictures beside it, that says what a dataset is and what it is not.

It is made from ``manyeyes.json`` alone, so the same dataset has the same card, and ``verify`` can make it again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import yaml

from manyeyes.errors import NotFound, by_code
from manyeyes.lfs.analysis import wilson
from manyeyes.report import shown_percent
from manyeyes.service.jobs import layout
from manyeyes.service.jobs.datasets.charts import bars, histogram
from manyeyes.service.jobs.datasets.published import Published
from manyeyes.service.jobs.places.storage import Storage

_MARK: Final = (
    "<!-- Made by manyeyes from manyeyes.json, and made anew with it: what is changed here is lost. -->"
)
_FIRST_LINE: Final = "# Made by manyeyes from manyeyes.json."
_MAX_CLASSES: Final = 30  # in pictures and tables; the rest is added up
_FIRST: Final = ("name", "description", "classes", "kind", "model", "on", "using", "primitives", "lfs")
_SIZES: Final = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_LARGER: Final = ((10**7, "1M<n<10M"), (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**12, "1B<n<10B"))


def write_card(storage: Storage, published: Published) -> None:
    """Write ``README.md`` and ``card/*.svg``; the same dataset gives the same bytes. ``publish`` calls it.

    A ``README.md`` that is no card stays as it is.
    """
    for path, data in card_files(published).items():
        if path != layout.README or _may_replace(storage):
            storage.put(path, data)


def _may_replace(storage: Storage) -> bool:
    try:
        return is_ours(storage.get(layout.README))
    except NotFound:
        return True


def card_files(published: Published) -> dict[str, bytes]:
    """Return the card: path below the dataset's place → bytes. The page comes last, after what it shows."""
    pictures = _pictures(published)
    page = "\n\n".join(part for part in (*_page(published), _MARK) if part) + "\n"
    files = {layout.CARD + name: text.encode() for name, text in pictures.items()}
    return files | {layout.README: page.encode()}


def is_ours(page: bytes) -> bool:
    """Return whether a page is a card, and not somebody's own text."""
    return any(mark.encode() in page for mark in (_MARK, _FIRST_LINE))


def _pictures(told: Published) -> dict[str, str]:
    return {
        "classes.svg": bars(
            "Labels", [(name, (count,)) for name, count in _class_rows(told)], total=told.counts.rows
        ),
        "confidence.svg": histogram(
            "How sure the label model is",
            [told.confidence["labeled"], told.confidence["abstained"]],
            series=("labeled", "abstained"),
        ),
        "functions.svg": bars(
            "Rows on which labeling functions vote",
            [(lf.name, (lf.votes - lf.conflicts, lf.conflicts)) for lf in told.lfs[:_MAX_CLASSES]],
            total=told.all_lfs.rows,
            series=("undisputed", "another disagrees"),
        ),
    }


def _page(told: Published) -> Iterable[str]:
    counts = told.counts
    yield _front_matter(told)
    yield f"# {_md(told.recipe['name'])}"
    yield _md(str(told.recipe.get("description", "")).strip())
    yield (
        f"{counts.rows:,} rows, labeled by {len(told.lfs):,} labeling functions and a label model with"
        " manyeyes, not by hand. Each has a class or none, a"
        " probability for every class, and the reasons for both."
    )
    yield _table(
        ("", "rows", "share"),
        [
            ("labeled", *_count(counts.labeled, counts.rows)),
            ("abstained: no label", *_count(counts.abstained, counts.rows)),
            ("errors: could not be read or seen", *_count(counts.failed, counts.rows)),
            ("all", *_count(counts.rows, counts.rows)),
        ],
    )
    yield from _labels(told)
    yield from _functions(told)
    yield from _errors(told)
    yield from _known(told)
    yield from _made(told)
    yield from _use()


def _front_matter(told: Published) -> str:
    sizes = [name for limit, name in (*_SIZES, *_LARGER) if told.counts.rows < limit]
    told_of = {
        "pretty_name": told.recipe["name"],
        "tags": ["manyeyes", "weak-supervision"],
        "size_categories": sizes[:1] or ["10B<n<100B"],
        "configs": [{"config_name": "default", "data_files": layout.LABELS + "*.parquet"}],
    }
    return f"---\n{_FIRST_LINE}\n" + yaml.safe_dump(told_of, sort_keys=False, allow_unicode=True) + "---"


def _labels(told: Published) -> Iterable[str]:
    yield "## Labels"
    yield f"![Rows of each class]({layout.CARD}classes.svg)"
    yield _table(
        ("class", "rows", "share of all"),
        [(_md(name), *_count(count, told.counts.rows)) for name, count in _class_rows(told)],
    )
    if told.by_default:
        yield (
            f"{told.by_default:,} of them got the default class {_code(told.recipe['default_class'])}, because no"
            " labeling function voted."
        )
    yield f"![Histogram of confidences]({layout.CARD}confidence.svg)"
    yield (
        "A confidence is what the label model believes, given the votes. A row abstains where no labeling function"
        f" voted, or where the confidence is below the recipe's `abstain_below` ({_below(told)}), or where the votes"
        " were too hesitant to be of any class."
    )


def _functions(told: Published) -> Iterable[str]:
    of = told.all_lfs
    yield "## Labeling functions"
    yield f"![Rows on which each labeling function votes]({layout.CARD}functions.svg)"
    heads = ["function", "kind", "votes for", "coverage", "overlaps", "conflicts"]
    heads += ["right on known labels"] if told.gold is not None else []
    rows = []
    for lf in told.lfs:
        row = [_md(lf.name), _md(lf.kind), _md(", ".join(lf.values) or "–")]
        row += [_share(n, of.rows) for n in (lf.votes, lf.overlaps, lf.conflicts)]
        if told.gold is not None:
            row.append(_right(lf.right, lf.judged))
        rows.append(row)
    last = ["(any)", "", "", *(_share(n, of.rows) for n in (of.covered, of.overlapped, of.mixed))]
    rows.append(last + [""] * (len(heads) - len(last)))
    yield _table(heads, rows, words=3)
    yield (
        f"Shares are of the {of.rows:,} rows without an error. Coverage: where it votes. Overlaps: where another votes,"
        " too. Conflicts: where another votes for something else."
    )


def _errors(told: Published) -> Iterable[str]:
    yield "## Errors"
    if not told.counts.failed:
        yield "There is none: every row could be read and seen."
        return
    kinds = by_code()
    yield _table(
        ("code", "what it means", "rows"),
        [
            (_code(code), _meaning(kinds.get(code)), f"{n:,}")
            for code, n in sorted(told.counts.errors.items(), key=lambda pair: (-pair[1], pair[0]))
        ],
        words=2,
    )
    yield "Each of these rows is in the dataset, with its code and message and without a label."


def _known(told: Published) -> Iterable[str]:
    yield "## How good the labels are"
    gold = told.gold
    if gold is None or not gold.known:
        yield (
            "**Not measured.** No known label came with the job, so nothing here says how many labels are right:"
            " coverage and agreement are no accuracy, and confidences were not checked against known labels. Label some"
            " hundred rows by hand, drawn by chance, and compare, before anything rests on this dataset."
        )
        return
    share = f"{gold.right / gold.labeled:.1%}" if gold.labeled else "–"
    low, high = wilson(gold.right, gold.labeled)
    yield (
        f"Of {gold.known:,} rows whose label is known, {gold.labeled:,} got a label, and {gold.right:,} of these the"
        f" right one: {share}, with a 95 % interval from {low:.1%} to {high:.1%}."
    )
    if not told.given_label_model:
        yield (
            "The label model saw these labels when it was fitted, so on other rows it may be right less often than"
            " that."
        )
    yield "This holds for rows that are like those whose label is known, and says nothing of others."


def _made(told: Published) -> Iterable[str]:
    yield "## What made it"
    rows = [
        ("source", _code(str(told.source["uri"]))),
        ("job", _code(told.job) + (f", try {told.generation + 1}" if told.generation else "")),
        ("manifest of the rows", _code(told.manifest)),
        ("recipe", _code(told.versions.recipe)),
        (
            "label model",
            _code(told.versions.label_model)
            + (", given to the job" if told.given_label_model else ", fitted by the job"),
        ),
        *(
            (f"primitive {_code(name)}", _code(version))
            for name, version in sorted(told.versions.primitives.items())
        ),
        ("software", ", ".join(f"{name} {version}" for name, version in sorted(told.software.items()))),
    ]
    yield _table(("", ""), rows, words=2)
    recipe = yaml.safe_dump(_in_order(told.recipe), sort_keys=False, allow_unicode=True, width=100)
    yield f"The recipe, with the defaults left out:\n\n{_fenced(recipe, 'yaml')}"


def _use() -> Iterable[str]:
    yield "## Read it"
    yield _fenced(
        'import pandas as pd\n\nlabels = pd.read_parquet("labels")  # from this folder; one row an item\n',
        "python",
    )
    yield (
        "Columns: `id`, `status` (`labeled`, `abstained`, `error`), `label`, `confidence`, `prob_<class>`,"
        " `runner_up`, `prior`, `reasons`, `error_code`, `error_message`, and the versions of what made the label."
        " `manyeyes.json` names every file with its digest; `_manyeyes/` holds what the job needs to go on or to be"
        " made again, and may be removed when nobody wants that."
    )
    yield "## Verify it"
    yield _fenced("manyeyes verify OUT --sample 200\n", "sh")
    yield (
        "OUT is this folder, or the bucket's prefix. It holds every file to its digest, counts the rows, and makes a"
        " sample of the labels again from the bytes at the source, which must come out the same bit for bit."
    )


def _in_order(value: Any) -> Any:
    """Return a document with its keys in one order, that in which people write them first."""
    if isinstance(value, Mapping):
        known = {key: place for place, key in enumerate(_FIRST)}
        keys = sorted(value, key=lambda key: (known.get(key, len(known)), key))
        return {key: _in_order(value[key]) for key in keys}
    return [_in_order(one) for one in value] if isinstance(value, (list, tuple)) else value


def _class_rows(told: Published) -> list[tuple[str, int]]:
    """Return classes with their rows, in the recipe's order; of very many, the most frequent and all others."""
    rows = [(name, told.by_class.get(name, 0)) for name in told.classes]
    if len(rows) <= _MAX_CLASSES:
        return rows
    ranked = sorted(rows, key=lambda row: -row[1])
    rest = ranked[_MAX_CLASSES - 1 :]
    return [*ranked[: _MAX_CLASSES - 1], (f"({len(rest):,} others)", sum(count for _, count in rest))]


def _below(told: Published) -> str:
    below = told.recipe.get("abstain_below", 0)
    if not isinstance(below, Mapping):
        return f"{below:g}"
    _, _, found = told.versions.label_model.partition("@")
    return f"the one for a precision of {below['precision']:g}, found on known labels: {found or 'none'}"


def _right(right: int, judged: int) -> str:
    return f"{right / judged:.1%} of {judged:,}" if judged else "–"


def _meaning(kind: type[Exception] | None) -> str:
    return _md((kind.__doc__ or "").partition("\n")[0].rstrip(".").lower()) if kind is not None else "–"


def _count(count: int, total: int) -> tuple[str, str]:
    return f"{count:,}", _share(count, total)


def _share(count: int, total: int) -> str:
    if not total:
        return "–"
    share = count / total
    return f"{share:.1%}" if 0.005 <= share < 0.995 else shown_percent(share)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """Return a Markdown table; words: how many columns from the left hold words, the others are numbers."""
    sides = ["---" if i < words else "---:" for i in range(len(heads))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, sides, *rows))


def _md(text: str) -> str:
    """Return text that Markdown and HTML show as it is, on one line."""
    plain = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|#~$])", r"\\\1", plain)


def _code(text: str) -> str:
    # A pipe ends a table's cell even in code, and backticks would end the code.
    if not re.search(r"[`|\n]", text):
        return f"`{text}`"
    return _md(text)


def _fenced(text: str, language: str) -> str:
    longest = max((len(ticks) for ticks in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"
