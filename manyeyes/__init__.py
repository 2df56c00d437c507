"""manyeyes labels images and texts with programs instead of clicks: many weak eyes, one strong label.

>>> from manyeyes import Item, Labeler, Recipe
>>> recipe = Recipe.parse('''
... name: paint
... classes: [red, blue]
... lfs:
...   - {name: says_red, kind: keyword, on: text, any: [red, crimson], vote: red}
...   - {name: says_blue, kind: keyword, on: text, any: [blue, navy], vote: blue}
... ''')
>>> labels = Labeler(recipe).label([Item("1", text="A navy coat"), Item("2", text="no colour at all")])
>>> [(label.id, label.status, label.label) for label in labels]
[('1', 'labeled', 'blue'), ('2', 'abstained', None)]

What a batch job wrote is opened with ``manyeyes.service.jobs.datasets.dataset.Dataset``, or, as plain Parquet, with
``pandas.read_parquet(f"{out}/labels")``, ``polars.read_parquet(f"{out}/labels/*.parquet")`` or
``pyarrow.dataset.dataset(f"{out}/labels")``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from manyeyes import errors
from manyeyes.types import ABSTAIN, Item, Label, Labels, Reason, Versions, Votes

if TYPE_CHECKING:
    from manyeyes.client import AsyncClient, Client, Url
    from manyeyes.labeler import Labeler
    from manyeyes.recipe import Recipe

__version__ = "0.1.0"

__all__ = [
    "ABSTAIN",
    "AsyncClient",
    "Client",
    "Item",
    "Label",
    "Labeler",
    "Labels",
    "Reason",
    "Recipe",
    "Url",
    "Versions",
    "Votes",
    "errors",
]

# Loaded when first asked for: the SDK needs an HTTP library and recipes need a validator, a type checker's import of
# `Item` needs neither.
_LAZY = {
    "AsyncClient": "manyeyes.client",
    "Client": "manyeyes.client",
    "Labeler": "manyeyes.labeler",
    "Recipe": "manyeyes.recipe",
    "Url": "manyeyes.client",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'manyeyes' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))
