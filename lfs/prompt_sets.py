"""Named sets of prompt templates and of background prompts, read from ``prompt_sets.yaml``.

>>> template_set("photo")[0], "rooms" in background_names()
('a photo of a {}', True)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from manyeyes.errors import InvalidRecipe, nearest

STANDARD: Final = "standard"
"""The background of every kind."""

_FILE: Final = Path(__file__).with_name("prompt_sets.yaml")


@cache
def _sets() -> dict[str, Any]:
    told: dict[str, Any] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    return told


def template_names() -> list[str]:
    """Return the names of the sets of templates."""
    return list(_sets()["templates"])


def template_set(name: str) -> tuple[str, ...]:
    """Return the templates of a set. Raises InvalidRecipe if there is no such set."""
    if name not in _sets()["templates"]:
        allowed = template_names()
        raise InvalidRecipe(
            f"template {name!r} must hold {{}} once, where the prompt goes, or name a set: {', '.join(allowed)}"
            f"{nearest(name, allowed)}"
        )
    return tuple(_sets()["templates"][name])


def filled_in(templates: Sequence[str]) -> tuple[str, ...]:
    """Return templates with the sets that are named among them in their places, each once.

    >>> filled_in(["photo", "a {} at night"])[-2:]
    ('a photo of the {}', 'a {} at night')
    """
    told = [part for t in templates for part in ((t,) if "{}" in t else template_set(t))]
    return tuple(dict.fromkeys(told))


def background_names() -> list[str]:
    """Return what may stand under ``background``: standard, and the kinds that it is made of."""
    return [STANDARD, *_sets()["backgrounds"]]


def background(kinds: Sequence[str], modality: str) -> tuple[str, ...]:
    """Return the sentences of some kinds of background, each once.

    modality: "image" or "text", which decides the words around each noun. Raises InvalidRecipe if a kind is unknown.
    """
    known = _sets()["backgrounds"]
    for kind in kinds:
        if kind != STANDARD and kind not in known:
            allowed = background_names()
            raise InvalidRecipe(
                f"background: {kind!r} is unknown; allowed: {', '.join(allowed)};"
                f" sentences of your own stand under against{nearest(kind, allowed)}"
            )
    chosen = list(known) if STANDARD in kinds else [kind for kind in known if kind in kinds]
    template = _sets()["background_templates"][modality]
    return tuple(dict.fromkeys(template.replace("{}", noun) for kind in chosen for noun in known[kind]))
