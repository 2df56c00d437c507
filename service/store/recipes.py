"""Recipes under names, in versions that never change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, delete, insert, select, update

from manyeyes.errors import InvalidRequest, RecipeNotFound, VersionConflict, nearest
from manyeyes.service.store import tables
from manyeyes.service.store.database import Database
from manyeyes.service.store.ids import new_id
from manyeyes.service.store.records import Page, RecipeSummary, RecipeVersion
from manyeyes.service.store.rows import audited, insert_unless_there, page, storable

_R = tables.recipes
_V = tables.recipe_versions

_MAX_CHARS: Final = 200
_MAX_TEXT_CHARS: Final = 2**24
_SHOWN: Final = 20


class Recipes:
    """The recipes of a store. Every change writes a row of the audit in the same transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, name: str, text: str, *, author: str, note: str = "", request_id: str | None = None
    ) -> RecipeVersion:
        """Return the version that holds a text, a new one where no version of the recipe does.

        text: ``Recipe.canonical()``. The first version of a recipe is active at once; a later one once ``activate`` is
        called. A text for an archived recipe brings the recipe back.
        Raises InvalidRequest for a name or a note that cannot be kept.
        """
        if not name:
            raise InvalidRequest("a recipe needs a name")
        storable("the name of a recipe", name, max_chars=_MAX_CHARS)
        storable("the text of a recipe", text, max_chars=_MAX_TEXT_CHARS)
        storable("the note", note)
        storable("the author", author)
        storable("the request id", request_id or "")
        version = hashlib.sha256(text.encode()).hexdigest()[:16]
        now = self._database.now()

        def work(connection: Connection) -> RecipeVersion:
            recipe = _open_or_begin(connection, name, author=author, now=now)
            known = connection.execute(
                select(_V.c.id).where(_V.c.recipe_id == recipe.id, _V.c.version == version)
            ).first()
            changes: dict[str, Any] = {}
            if known is None:
                changes["n_versions"] = recipe.n_versions + 1
                connection.execute(
                    insert(_V).values(
                        id=new_id(),
                        recipe_id=recipe.id,
                        number=recipe.n_versions + 1,
                        version=version,
                        author=author,
                        note=note,
                        request_id=request_id,
                        created_at=now,
                        text=text,
                    )
                )
                if not recipe.n_versions:
                    changes["active_number"] = 1
            if recipe.archived_at is not None:
                changes["archived_at"] = None
            if changes:
                connection.execute(
                    update(_R).where(_R.c.id == recipe.id).values(changes | {"updated_at": now})
                )
                told = {"version": version, "note": note} | {
                    what: changes[what] for what in changes if what != "archived_at"
                }
                action = "recipe.create" if known is None else "recipe.restore"
                _told(connection, now, author, action, name, request_id, told)
            return _version(connection, name, version)

        return self._database.write(work)

    def list(
        self, limit: int = 50, cursor: str | None = None, *, archived: bool = False
    ) -> Page[RecipeSummary]:
        """Return recipes, the newest first. archived: also those. Raises InvalidRequest for a wrong cursor."""
        query = select(_R, _V.c.version, _V.c.number).join(
            _V, (_V.c.recipe_id == _R.c.id) & (_V.c.number == _R.c.active_number)
        )
        if not archived:
            query = query.where(_R.c.archived_at.is_(None))
        return self._database.read(
            lambda connection: page(connection, query, _R.c.id, limit, cursor, _summary)
        )

    def versions(self, name: str, limit: int = 50, cursor: str | None = None) -> Page[RecipeVersion]:
        """Return the versions of a recipe, archived or not, the newest first. Raises RecipeNotFound."""

        def work(connection: Connection) -> Page[RecipeVersion]:
            _recipe(connection, name)
            return page(connection, _versions().where(_R.c.name == name), _V.c.id, limit, cursor, _record)

        return self._database.read(work)

    def get(self, name: str, version: str | int | None = None) -> RecipeVersion:
        """Return a version, by its hash or its number; None is the active one.

        Raises RecipeNotFound, with the nearest name; without a version, also for an archived recipe.
        """
        return self._database.read(lambda connection: _version(connection, name, version))

    def activate(
        self,
        name: str,
        version: str | int,
        *,
        author: str,
        expect: str | None = None,
        request_id: str | None = None,
    ) -> RecipeVersion:
        """Make a version the one that ``get(name)`` returns. expect: the version that is active now.

        Raises RecipeNotFound, also for an archived recipe; VersionConflict if another version is active than the one
        expected.
        """
        now = self._database.now()

        def work(connection: Connection) -> RecipeVersion:
            recipe = _recipe(connection, name, lock=True, in_use=True)
            before = _version(connection, name, recipe.active_number)
            if expect is not None and expect != before.version:
                raise VersionConflict(
                    f"version {before.version} of recipe {name!r} is active, not {expect!r:.40}: somebody changed it in"
                    " the meantime. Look at it, and activate again"
                )
            wanted = _version(connection, name, version)
            if wanted.number != before.number:
                change = update(_R).where(_R.c.id == recipe.id)
                connection.execute(change.values(active_number=wanted.number, updated_at=now))
                told = {"from": before.version, "to": wanted.version}
                _told(connection, now, author, "recipe.activate", name, request_id, told)
            return _version(connection, name, wanted.number)

        return self._database.write(work)

    def archive(self, name: str, *, author: str, request_id: str | None = None) -> None:
        """Take a recipe out of use; its versions can still be read by number or hash. Raises RecipeNotFound."""
        now = self._database.now()

        def work(connection: Connection) -> None:
            recipe = _recipe(connection, name, lock=True)
            if recipe.archived_at is None:
                change = update(_R).where(_R.c.id == recipe.id)
                connection.execute(change.values(archived_at=now, updated_at=now))
                _told(connection, now, author, "recipe.archive", name, request_id, {})

        self._database.write(work)

    def delete(self, name: str, *, author: str, request_id: str | None = None) -> None:
        """Remove a recipe, its versions and its label models; labels made with it stay. Raises RecipeNotFound."""
        now = self._database.now()

        def work(connection: Connection) -> None:
            recipe = _recipe(connection, name, lock=True)
            models = delete(tables.label_models).where(tables.label_models.c.recipe_name == name)
            told = {
                "n_versions": recipe.n_versions,
                "n_label_models": connection.execute(models).rowcount,
            }
            connection.execute(delete(_R).where(_R.c.id == recipe.id))
            _told(connection, now, author, "recipe.delete", name, request_id, told)

        self._database.write(work)


def _open_or_begin(connection: Connection, name: str, *, author: str, now: datetime) -> Row[Any]:
    """Return a recipe, locked, and a new one without versions where there is none of that name."""
    fresh = {
        "id": new_id(),
        "name": name,
        "active_number": 0,
        "n_versions": 0,
        "author": author,
        "created_at": now,
        "updated_at": now,
    }
    # Two replicas that begin the same recipe at once: the second waits here, then reads the first one's.
    insert_unless_there(connection, _R, fresh)
    return _recipe(connection, name, lock=True)


def _recipe(connection: Connection, name: str, *, lock: bool = False, in_use: bool = False) -> Row[Any]:
    """Return a recipe. in_use: not an archived one. Raises RecipeNotFound."""
    query = select(_R).where(_R.c.name == storable("the name of a recipe", name))
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise _not_found(connection, name)
    if in_use and row.archived_at is not None:
        raise RecipeNotFound(
            f"recipe {name!r} is archived; its versions can be read one by one, and creating it again brings it back"
        )
    return row


def _version(connection: Connection, name: str, version: str | int | None = None) -> RecipeVersion:
    recipe = _recipe(connection, name, in_use=version is None)
    query = _versions().where(_R.c.id == recipe.id)
    if version is None:
        query = query.where(_V.c.number == recipe.active_number)
    elif isinstance(version, int):
        # Beyond what an integer of the database holds, there is nothing to ask for.
        query = query.where(_V.c.number == (version if 0 < version < 2**31 else 0))
    else:
        query = query.where(_V.c.version == storable("the version of a recipe", version))
    row = connection.execute(query).one_or_none()
    if row is None:
        raise RecipeNotFound(
            f"recipe {name!r} has no version {version!r:.40}; it has {recipe.n_versions}, numbered from 1"
        )
    return _record(row)


def _versions() -> Select[Any]:
    return select(_V, _R.c.name, _R.c.active_number, _R.c.archived_at).join(_R, _R.c.id == _V.c.recipe_id)


def _record(row: Row[Any]) -> RecipeVersion:
    return RecipeVersion(
        id=row.id,
        name=row.name,
        number=row.number,
        version=row.version,
        text=row.text,
        author=row.author,
        note=row.note,
        request_id=row.request_id,
        created_at=row.created_at,
        is_active=row.number == row.active_number and row.archived_at is None,
    )


def _summary(row: Row[Any]) -> RecipeSummary:
    return RecipeSummary(
        name=row.name,
        version=row.version,
        number=row.number,
        n_versions=row.n_versions,
        author=row.author,
        created_at=row.created_at,
        updated_at=row.updated_at,
        archived_at=row.archived_at,
    )


def _not_found(connection: Connection, name: str) -> RecipeNotFound:
    known = list(
        connection.execute(
            select(_R.c.name).where(_R.c.archived_at.is_(None)).order_by(_R.c.name).limit(1000)
        ).scalars()
    )
    told = f"stored are {', '.join(known[:_SHOWN])}" if known else "the store holds none"
    return RecipeNotFound(f"no recipe {name!r:.80} is stored; {told}{nearest(name, known)}")


def _told(
    connection: Connection,
    now: datetime,
    author: str,
    action: str,
    name: str,
    request_id: str | None,
    details: Mapping[str, Any],
) -> None:
    audited(
        connection,
        now,
        actor=author,
        action=action,
        subject=f"recipe:{name}",
        request_id=request_id,
        details=details,
    )
