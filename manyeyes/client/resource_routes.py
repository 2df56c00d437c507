"""What can be asked of recipes, label models, batches and keys: one function a route, which returns the call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias

from manyeyes.client.calls import Answer, Call, T, nothing, place
from manyeyes.client.kept import (
    Agreement,
    AuditLine,
    Batch,
    Compared,
    Comparison,
    Explanation,
    Key,
    LabelModel,
    Page,
    RecipeCheck,
    RecipeDiff,
    RecipeLine,
    RecipeProblem,
    RecipeVersion,
    as_record,
)
from manyeyes.client.results import LabelResult, read_versions
from manyeyes.errors import InvalidRequest
from manyeyes.types import Label, Reason

BatchLike: TypeAlias = "str | Batch | LabelResult"
"""A batch by its id, or what came back when it was labeled."""
Scope: TypeAlias = Literal["label", "read", "admin"]
Rows: TypeAlias = "list[dict[str, Any]]"

PAGE: int = 100
"""Rows of one page of a list."""


# recipes


def recipe_rows(cursor: str | None) -> Call[Page[dict[str, Any]]]:
    """List recipes as they are told."""
    return _page("recipes", cursor, dict, rows="recipes")


def recipe_lines(cursor: str | None) -> Call[Page[RecipeLine]]:
    """List recipes."""
    return _page("recipes", cursor, lambda row: as_record(RecipeLine, row), rows="recipes")


def recipe(name: str) -> Call[dict[str, Any]]:
    """Read the recipe that calls by name are labeled with."""
    return Call("GET", place("recipes", name), lambda answer: answer.read(lambda told: dict(told)))


def active_version(name: str) -> Call[str]:
    """Ask which version is active: the ETag of the recipe."""
    return Call("GET", place("recipes", name), lambda answer: answer.headers.get("etag", "").strip('"'))


def recipe_version(name: str, version: str | int) -> Call[RecipeVersion]:
    """Read one version."""
    return Call("GET", place("recipes", name, "versions", str(version)), _one(RecipeVersion))


def create_recipe(text: str, note: str, activate: bool, expect: str | None) -> Call[RecipeVersion]:
    """Keep a recipe."""
    return Call(
        "POST",
        place("recipes"),
        _one(RecipeVersion),
        body={"recipe": text, "note": note, "activate": activate},
        headers=_if_match(expect),
        writes=True,
    )


def recipe_versions(name: str, cursor: str | None) -> Call[Page[RecipeVersion]]:
    """List the versions of a recipe."""
    return _page(("recipes", name, "versions"), cursor, lambda row: as_record(RecipeVersion, row))


def diff(name: str, before: str | int, after: str | int | None) -> Call[RecipeDiff]:
    """Ask what differs between two versions."""

    def read(told: Mapping[str, Any]) -> RecipeDiff:
        return as_record(RecipeDiff, told, before=told["from"], after=told["to"])

    return Call(
        "GET",
        place("recipes", name, "diff"),
        lambda answer: answer.read(read),
        params={"from": before, "to": after},
    )


def validate(text: str) -> Call[RecipeCheck]:
    """Look at a recipe."""

    def read(told: Mapping[str, Any]) -> RecipeCheck:
        problems = tuple(as_record(RecipeProblem, row) for row in told["problems"])
        return as_record(RecipeCheck, told, problems=problems)

    return Call("POST", place("recipes", "validate"), lambda answer: answer.read(read), body={"recipe": text})


def activate_recipe(name: str, version: str | int, expect: str | None) -> Call[RecipeVersion]:
    """Label with a version from now on."""
    return Call(
        "POST",
        place("recipes", name, "activate"),
        _one(RecipeVersion),
        body={"version": version},
        headers=_if_match(expect),
        writes=True,
    )


def delete_recipe(name: str, purge: bool, expect: str | None) -> Call[None]:
    """Take a recipe out of use."""
    return Call(
        "DELETE",
        place("recipes", name),
        nothing,
        params={"purge": "true" if purge else None},
        headers=_if_match(expect),
    )


# label models


def fit(
    recipe: str,
    batches: Sequence[BatchLike],
    *,
    version: str | int | None,
    label_model: str | Mapping[str, Any] | None,
    gold: Mapping[str, str] | None,
    activate: bool,
) -> Call[LabelModel]:
    """Fit a label model."""
    body = {
        "recipe": recipe,
        "batches": batch_ids(batches),
        "version": version,
        "label_model": label_model,
        "gold": None if gold is None else dict(gold),
        "activate": activate,
    }
    return Call(
        "POST",
        place("label-models"),
        _one(LabelModel),
        body={name: value for name, value in body.items() if value is not None},
        writes=True,
    )


def label_models(
    recipe: str | None, recipe_version: str | None, cursor: str | None
) -> Call[Page[LabelModel]]:
    """List label models."""
    return _page(
        "label-models",
        cursor,
        lambda row: as_record(LabelModel, row),
        recipe=recipe,
        recipe_version=recipe_version,
    )


def label_model(id: str) -> Call[LabelModel]:
    """Read one label model."""
    return Call("GET", place("label-models", id), _one(LabelModel))


def activate_label_model(id: str, expect: str | None) -> Call[LabelModel]:
    """Label with a label model from now on."""
    return Call(
        "POST",
        place("label-models", id, "activate"),
        _one(LabelModel),
        headers=_if_match(expect),
        writes=True,
    )


def compare(
    ids: Sequence[str], batches: Sequence[BatchLike], gold: Mapping[str, str] | None
) -> Call[Comparison]:
    """Hold label models beside each other."""

    def read(told: Mapping[str, Any]) -> Comparison:
        return Comparison(
            told["n_items"],
            tuple(as_record(Compared, row) for row in told["label_models"]),
            tuple(as_record(Agreement, row) for row in told["agreement"]),
        )

    body: dict[str, Any] = {"ids": list(ids), "batches": batch_ids(batches)}
    if gold is not None:
        body["gold"] = dict(gold)
    return Call("POST", place("label-models", "compare"), lambda answer: answer.read(read), body=body)


def delete_label_model(id: str) -> Call[None]:
    """Remove a label model."""
    return Call("DELETE", place("label-models", id), nothing)


# batches


def batches(recipe: str | None, cursor: str | None) -> Call[Page[Batch]]:
    """List what was labeled."""
    return _page("batches", cursor, _batch, recipe=recipe)


def batch(id: str) -> Call[Batch]:
    """Read one batch."""
    return Call("GET", place("batches", id), lambda answer: answer.read(_batch))


def batch_labels(id: str, cursor: str | None) -> Call[Page[Label]]:
    """Read labels of a batch."""
    return _page(("batches", id, "labels"), cursor, Label.from_dict)


def delete_batch(id: str) -> Call[None]:
    """Remove a batch."""
    return Call("DELETE", place("batches", id), nothing)


def explain(label_id: str) -> Call[Explanation]:
    """Ask why a label is what it is."""

    def read(told: Mapping[str, Any]) -> Explanation:
        return as_record(
            Explanation,
            told,
            batch=_batch(told["batch"]),
            label=Label.from_dict(told["label"]),
            reasons=tuple(Reason.from_dict(row) for row in told.get("reasons") or ()),
        )

    return Call("GET", place("explain", label_id), lambda answer: answer.read(read))


# keys


def create_key(
    name: str, scopes: Sequence[Scope], expires_at: datetime | None, rate_per_minute: int | None
) -> Call[Key]:
    """Make a key. Its answer is kept nowhere, so that a second call makes a second one."""
    if expires_at is not None and expires_at.tzinfo is None:
        raise InvalidRequest("expires_at has no time zone; write datetime(…, tzinfo=UTC)")
    body = {
        "name": name,
        "scopes": list(scopes),
        "expires_at": None if expires_at is None else expires_at.isoformat(),
        "rate_per_minute": rate_per_minute,
    }
    return Call("POST", place("keys"), _one(Key), body=body, once=True)


def keys(cursor: str | None) -> Call[Page[Key]]:
    """List keys."""
    return _page("keys", cursor, lambda row: as_record(Key, row))


def key(id: str) -> Call[Key]:
    """Read one key."""
    return Call("GET", place("keys", id), _one(Key))


def revoke(id: str) -> Call[Key]:
    """End a key for good."""
    return Call("DELETE", place("keys", id), _one(Key))


def audit(
    subject: str | None, actor: str | None, action: str | None, cursor: str | None
) -> Call[Page[AuditLine]]:
    """List who changed what."""
    return _page(
        "audit",
        cursor,
        lambda row: as_record(AuditLine, row),
        subject=subject,
        actor=actor,
        action=action,
    )


def batch_ids(given: Sequence[BatchLike]) -> list[str]:
    """Return the ids of batches. Raises InvalidRequest for labels that the service does not keep."""
    found: list[str] = []
    for one in given:
        if isinstance(one, LabelResult) and not one.batches:
            raise InvalidRequest(
                "these labels are not kept by the service, so that nothing can be fitted on them; label with store=True"
            )
        found += (one,) if isinstance(one, str) else (one.id,) if isinstance(one, Batch) else one.batches
    return found


def _page(
    parts: str | tuple[str, ...],
    cursor: str | None,
    read: Callable[[Mapping[str, Any]], T],
    *,
    rows: str = "data",
    **params: str | None,
) -> Call[Page[T]]:
    def parse(told: Mapping[str, Any]) -> Page[T]:
        return Page(tuple(read(row) for row in told[rows]), told.get("next_cursor"))

    where = place(*((parts,) if isinstance(parts, str) else parts))
    wanted: dict[str, Any] = {"limit": PAGE, "cursor": cursor} | params
    return Call("GET", where, lambda answer: answer.read(parse), params=wanted)


def _one(kind: Callable[..., T]) -> Callable[[Answer], T]:
    return lambda answer: answer.read(lambda told: as_record(kind, told))


def _batch(told: Mapping[str, Any]) -> Batch:
    return as_record(Batch, told, versions=read_versions(told["versions"]))


def _if_match(expect: str | None) -> dict[str, str]:
    return {} if expect is None else {"If-Match": f'"{expect}"'}
