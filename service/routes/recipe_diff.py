"""What differs between two recipes: by name, by field, and line by line."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from manyeyes.recipe import Recipe

_PARTS: Final = ("name", "classes", "lfs", "primitives")


def diff_recipes(name: str, before: Recipe, after: Recipe) -> dict[str, Any]:
    """Return what differs, as the shape ``RecipeDiff``; both are compared in their canonical form."""
    old, new = before.document(), after.document()
    unified = difflib.unified_diff(
        before.to_yaml().splitlines(keepends=True),
        after.to_yaml().splitlines(keepends=True),
        fromfile=f"{name}@{before.version}",
        tofile=f"{name}@{after.version}",
    )
    return {
        "name": name,
        "from": before.version,
        "to": after.version,
        "same": before.version == after.version,
        "classes": _classes(before.classes, after.classes),
        "lfs": _parts(_by_name(old["lfs"]), _by_name(new["lfs"])),
        "primitives": _parts(old.get("primitives", {}), new.get("primitives", {})),
        "settings": _fields(_rest(old), _rest(new)),
        "unified": "".join(unified),
    }


def _classes(before: Sequence[str], after: Sequence[str]) -> dict[str, Any]:
    both_before = [name for name in before if name in set(after)]
    both_after = [name for name in after if name in set(before)]
    return _names(before, after) | {"reordered": both_before != both_after}


def _parts(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    changed = [
        {"name": name, "fields": _fields(before[name], after[name])}
        for name in before
        if name in after and before[name] != after[name]
    ]
    return _names(list(before), list(after)) | {"changed": changed}


def _names(before: Sequence[str], after: Sequence[str]) -> dict[str, Any]:
    had, has = set(before), set(after)
    return {
        "added": [name for name in after if name not in had],
        "removed": [name for name in before if name not in has],
    }


def _fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"field": field, "from": before.get(field), "to": after.get(field)}
        for field in dict.fromkeys([*before, *after])
        if before.get(field) != after.get(field)
    ]


def _by_name(lfs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {lf["name"]: {field: value for field, value in lf.items() if field != "name"} for lf in lfs}


def _rest(document: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in document.items() if field not in _PARTS}
