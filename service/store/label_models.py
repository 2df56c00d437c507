"""Fitted label models, and which of them labels for which version of a recipe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from safetensors import SafetensorError
from safetensors.numpy import load
from sqlalchemy import Connection, Row, and_, delete, insert, select, update

from manyeyes.errors import InvalidRequest, NotFound, VersionConflict, WeightsMismatch
from manyeyes.service.store import tables
from manyeyes.service.store.database import Database
from manyeyes.service.store.ids import new_id
from manyeyes.service.store.records import LabelModelRecord, Page
from manyeyes.service.store.rows import audited, page, storable

_T = tables.label_models
_F = tables.label_model_files

HEADER: Final = "label_model.json"
ARRAYS: Final = "label_model.safetensors"
THRESHOLDS: Final = "thresholds.json"
_MAX_BYTES: Final = 256 * 2**20


class LabelModels:
    """The label models of a store. Every change writes a row of the audit in the same transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        *,
        recipe_name: str,
        recipe_version: str,
        files: Mapping[str, bytes],
        author: str,
        batches: Sequence[str] = (),
        metrics: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> LabelModelRecord:
        """Keep a label model; it does not label before ``activate``.

        recipe_name, recipe_version: whose votes it was fitted from; the recipe may be stored here or lie in the
        operator's folder. files: name → content of every file in the folder that ``Labeler.save_label_model`` writes;
        kind and version are read from them.
        Raises InvalidRequest if the files are not those.
        """
        header = _checked(files)
        now = self._database.now()
        record = LabelModelRecord(
            id=new_id(),
            created_at=now,
            recipe_name=storable("the name of a recipe", recipe_name),
            recipe_version=storable("the version of a recipe", recipe_version),
            kind=header["label_model"],
            version=header["version"],
            batches=tuple(batches),
            metrics=dict(metrics or {}),
            author=storable("the author", author),
            request_id=request_id if request_id is None else storable("the request id", request_id),
            is_active=False,
        )

        def work(connection: Connection) -> LabelModelRecord:
            row = {column.name: getattr(record, column.name) for column in _T.c if column.name != "active"}
            connection.execute(insert(_T).values(row | {"batches": list(batches), "active": False}))
            for name, content in files.items():
                digest = hashlib.sha256(content).hexdigest()
                connection.execute(
                    insert(_F).values(
                        label_model_id=record.id, name=name, sha256=digest, content=bytes(content)
                    )
                )
            self._told(connection, "add", record, author, request_id)
            return record

        return self._database.write(work)

    def list(
        self,
        limit: int = 50,
        cursor: str | None = None,
        *,
        recipe_name: str | None = None,
        recipe_version: str | None = None,
    ) -> Page[LabelModelRecord]:
        """Return label models, the newest first. Raises InvalidRequest for a wrong cursor."""
        query = select(_T)
        for column, wanted in ((_T.c.recipe_name, recipe_name), (_T.c.recipe_version, recipe_version)):
            if wanted is not None:
                query = query.where(column == storable(column.name, wanted))
        return self._database.read(
            lambda connection: page(connection, query, _T.c.id, limit, cursor, _record)
        )

    def get(self, id: str) -> LabelModelRecord:
        """Return a label model without its files. Raises NotFound."""
        return self._database.read(lambda connection: _get(connection, id))

    def files(self, id: str) -> dict[str, bytes]:
        """Return name → content of each file, for a folder that ``Labeler.load_label_model`` reads.

        Raises NotFound, WeightsMismatch if they are not what was kept.
        """

        def work(connection: Connection) -> Sequence[Row[Any]]:
            _get(connection, id)
            return connection.execute(select(_F).where(_F.c.label_model_id == id)).all()

        found = self._database.read(work)
        for row in found:
            if hashlib.sha256(row.content).hexdigest() != row.sha256:
                raise WeightsMismatch(
                    f"{row.name} of label model {id} is not what was kept: the database is damaged; restore a backup,"
                    " or fit the label model again"
                )
        return {row.name: bytes(row.content) for row in found}

    def activate(
        self, id: str, *, author: str, expect: str | None = None, request_id: str | None = None
    ) -> LabelModelRecord:
        """Make a label model the one that labels for its version of its recipe.

        expect: the id of the one that does so now. Raises NotFound; VersionConflict if it is another one.
        """
        now_active = and_(_T.c.active, _T.c.id != id)

        def work(connection: Connection) -> LabelModelRecord:
            wanted = _get(connection, id)
            siblings = _siblings(connection, wanted.recipe_name, wanted.recipe_version)
            active = next((row.id for row in siblings if row.active), None)
            if expect is not None and expect != active:
                raise VersionConflict(
                    f"label model {active or 'none'} is active for recipe {wanted.recipe_name!r}, not {expect!r:.80}:"
                    " somebody changed it in the meantime. Look at it, and activate again"
                )
            if active != id:
                these = _T.c.id.in_([row.id for row in siblings])
                connection.execute(update(_T).where(these, now_active).values(active=False))
                connection.execute(update(_T).where(_T.c.id == id).values(active=True))
                self._told(connection, "activate", wanted, author, request_id, {"from": active})
            return _get(connection, id)

        return self._database.write(work)

    def deactivate(
        self, recipe_name: str, recipe_version: str, *, author: str, request_id: str | None = None
    ) -> None:
        """Let no stored label model label for a version of a recipe."""

        def work(connection: Connection) -> None:
            for row in _siblings(connection, recipe_name, recipe_version):
                if row.active:
                    connection.execute(update(_T).where(_T.c.id == row.id).values(active=False))
                    self._told(connection, "deactivate", _record(row), author, request_id)

        self._database.write(work)

    def active(self, recipe_name: str, recipe_version: str) -> LabelModelRecord | None:
        """Return the label model that labels for a version of a recipe, or None."""
        query = select(_T).where(
            _T.c.recipe_name == storable("the name of a recipe", recipe_name),
            _T.c.recipe_version == storable("the version of a recipe", recipe_version),
            _T.c.active,
        )
        row = self._database.read(lambda connection: connection.execute(query).one_or_none())
        return None if row is None else _record(row)

    def delete(self, id: str, *, author: str, request_id: str | None = None) -> None:
        """Remove a label model. Raises NotFound; VersionConflict while it labels."""

        def work(connection: Connection) -> None:
            record = _get(connection, id, lock=True)
            if record.is_active:
                raise VersionConflict(f"label model {id} is in use; activate another one or none first")
            connection.execute(delete(_T).where(_T.c.id == id))
            self._told(connection, "delete", record, author, request_id)

        self._database.write(work)

    def _told(
        self,
        connection: Connection,
        what: str,
        record: LabelModelRecord,
        author: str,
        request_id: str | None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        told = {"recipe": record.recipe_name, "recipe_version": record.recipe_version}
        audited(
            connection,
            self._database.now(),
            actor=author,
            action=f"label_model.{what}",
            subject=f"label_model:{record.id}",
            request_id=request_id,
            details=told | {"version": record.version} | dict(details or {}),
        )


def _checked(files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the header of a label model. Raises InvalidRequest if the files are not what saving one writes."""
    wanted = f"the files of a label model are {HEADER}, {ARRAYS} and perhaps {THRESHOLDS}"
    if not {HEADER, ARRAYS} <= files.keys() <= {HEADER, ARRAYS, THRESHOLDS}:
        raise InvalidRequest(f"{wanted}; got {', '.join(sorted(files)) or 'none'}")
    n_bytes = sum(map(len, files.values()))
    if n_bytes > _MAX_BYTES:
        raise InvalidRequest(f"the files of a label model may hold {_MAX_BYTES:,} bytes, got {n_bytes:,}")
    try:
        header = json.loads(files[HEADER])
        json.loads(files.get(THRESHOLDS, b"{}"))
        kind, version = header["label_model"], header["version"]
        storable("the kind of a label model", kind), storable("the version of a label model", version)
        if header["sha256"] != hashlib.sha256(files[ARRAYS]).hexdigest():
            raise InvalidRequest(
                f"{ARRAYS} is not the file that {HEADER} describes; save the label model again"
            )
        load(bytes(files[ARRAYS]))
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(
            f"{wanted}, as saving one writes them ({type(error).__name__}: {error})"
        ) from None
    told: dict[str, Any] = header
    return told


def _siblings(connection: Connection, recipe_name: str, recipe_version: str) -> Sequence[Row[Any]]:
    """Return all label models of a version of a recipe, locked: who is active changes for one caller at a time."""
    query = select(_T).where(_T.c.recipe_name == recipe_name, _T.c.recipe_version == recipe_version)
    return connection.execute(query.order_by(_T.c.id).with_for_update()).all()


def _get(connection: Connection, id: str, *, lock: bool = False) -> LabelModelRecord:
    query = select(_T).where(_T.c.id == storable("the id", id))
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise NotFound(f"there is no label model {id!r:.80}; GET /v1/label-models lists all")
    return _record(row)


def _record(row: Row[Any]) -> LabelModelRecord:
    told = dict(row._mapping)
    active = told.pop("active")
    return LabelModelRecord(**(told | {"batches": tuple(told["batches"]), "is_active": bool(active)}))
