"""What was labeled: one row a call, with its labels and with the votes that a label model can be fitted from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NotRequired, TypedDict, Unpack

from sqlalchemy import Connection, Row, Select, delete, select

from manyeyes.errors import InvalidRequest, LabelNotFound, NotFound
from manyeyes.fitting import Collected
from manyeyes.service.store import tables
from manyeyes.service.store.database import SWEPT_AT_ONCE, Database
from manyeyes.service.store.ids import new_id
from manyeyes.service.store.packing import pack_labels, pack_votes, unpack_labels, unpack_votes
from manyeyes.service.store.records import Batch, Page, StoredLabel
from manyeyes.service.store.rows import audited, page, storable
from manyeyes.types import Label, Versions

_T = tables.batches
_TOLD: Final = tuple(column for column in _T.c if column.name not in ("labels", "votes"))
_ID: Final = re.compile(r"[0-9a-f]{32}")
_LABEL_ID: Final = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]{0,8})")
_CHUNK: Final = 500


class ToKeep(TypedDict):
    """What there is to keep of a call.

    collected: what the LFs said, as the engine returns it; None keeps no votes. id: from ``new_id()``, where the caller
    needs it before; None makes one.
    """

    key_id: str
    recipe_name: str
    versions: Versions
    labels: Sequence[Label]
    collected: NotRequired[Collected | None]
    request_id: NotRequired[str | None]
    id: NotRequired[str | None]


class Batches:
    """The labeled calls of a store. keep_days: older ones are removed a few at a time, as others come; None: never."""

    def __init__(self, database: Database, *, keep_days: float | None = None) -> None:
        self._database = database
        self._keep = None if keep_days is None else timedelta(days=keep_days)

    def add(self, **told: Unpack[ToKeep]) -> Batch:
        """Keep the labels of a call; return once they are on disk.

        Calls that wait at the same time are committed together. Raises StoreUnavailable; then it may or may not be
        kept.
        """
        batch, row = self._made(**told)
        self._database.insert(_T, row)
        self._sweep(batch)
        return batch

    async def add_soon(self, **told: Unpack[ToKeep]) -> Batch:
        """Do the same as ``add`` where whoever waits for the disk is an event loop; for calls of few items."""
        batch, row = self._made(**told)
        await self._database.insert_soon(_T, row)
        self._sweep(batch)
        return batch

    def _made(self, **told: Unpack[ToKeep]) -> tuple[Batch, dict[str, Any]]:
        id, labels = told.get("id"), told["labels"]
        request_id, collected = told.get("request_id"), told.get("collected")
        if id is not None and not _ID.fullmatch(id):
            raise InvalidRequest(f"the id of a batch is one that new_id() made, got {id!r:.80}")
        batch = Batch(
            id=id or new_id(),
            created_at=self._database.now(),
            key_id=storable("the id of a key", told["key_id"]),
            request_id=None if request_id is None else storable("the request id", request_id),
            recipe_name=storable("the name of a recipe", told["recipe_name"]),
            recipe_version=told["versions"].recipe,
            primitives=dict(told["versions"].primitives),
            label_model=told["versions"].label_model,
            n_items=len(labels),
            n_errors=sum(label.status == "error" for label in labels),
            has_votes=collected is not None,
        )
        row = {column.name: getattr(batch, column.name) for column in _TOLD}
        row["labels"] = pack_labels(labels)
        row["votes"] = None if collected is None else pack_votes(collected)
        return batch, row

    def _sweep(self, batch: Batch) -> None:
        if self._keep is not None:
            older_than = batch.created_at - self._keep
            self._database.sweep(lambda connection: _remove_some(connection, older_than, SWEPT_AT_ONCE))

    def get(self, id: str) -> Batch:
        """Return a batch. Raises NotFound."""
        return self._database.read(lambda connection: _get(connection, id))

    def labels(self, id: str) -> Sequence[Label]:
        """Return the labels of a batch, in the order of the call. Raises NotFound."""
        return unpack_labels(self._database.read(lambda connection: _get_labels(connection, id))[1])

    def label(self, label_id: str) -> StoredLabel:
        """Return one label by ``<batch id>-<position>``. Raises LabelNotFound."""
        named = _LABEL_ID.fullmatch(label_id)
        absent = LabelNotFound(
            f"no label {label_id!r:.80} is stored; ids of labels come with the answer of /v1/label, and labels are kept"
            " for as long as the operator says"
        )
        if named is None:
            raise absent
        try:
            batch, packed = self._database.read(lambda connection: _get_labels(connection, named[1]))
        except NotFound:
            raise absent from None
        position = int(named[2])
        if position >= batch.n_items:
            raise absent
        return StoredLabel(id=label_id, position=position, label=unpack_labels(packed)[position], batch=batch)

    def list(
        self,
        limit: int = 50,
        cursor: str | None = None,
        *,
        recipe_name: str | None = None,
        recipe_version: str | None = None,
        key_id: str | None = None,
    ) -> Page[Batch]:
        """Return batches, the newest first. Raises InvalidRequest for a wrong cursor."""
        query = select(*_TOLD)
        for column, wanted in (
            (_T.c.recipe_name, recipe_name),
            (_T.c.recipe_version, recipe_version),
            (_T.c.key_id, key_id),
        ):
            if wanted is not None:
                query = query.where(column == storable(column.name, wanted))
        return self._database.read(
            lambda connection: page(connection, query, _T.c.id, limit, cursor, _record)
        )

    def votes(self, ids: Sequence[str]) -> Collected:
        """Return the votes of several batches, one after the other, to fit a label model from.

        Raises NotFound if a batch is not there or holds no votes, InvalidRequest if no batch is named or they are of
        other classes, LFs or sets.
        """
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            raise InvalidRequest("name at least one batch to take votes from")
        for id in wanted:
            _checked(id)

        def work(connection: Connection) -> dict[str, bytes]:
            found: dict[str, bytes] = {}
            for start in range(0, len(wanted), _CHUNK):
                some = select(_T.c.id, _T.c.votes).where(_T.c.id.in_(wanted[start : start + _CHUNK]))
                found |= {row.id: row.votes for row in connection.execute(some) if row.votes is not None}
            return found

        found = self._database.read(work)
        for id in wanted:
            if id not in found:
                raise NotFound(f"there is no batch {id!r} with votes; GET /v1/batches lists all")
        return unpack_votes([found[id] for id in wanted])

    def delete(self, id: str, *, author: str, request_id: str | None = None) -> None:
        """Remove a batch with its labels and votes. Raises NotFound."""
        now = self._database.now()

        def work(connection: Connection) -> None:
            batch = _get(connection, id)
            if not connection.execute(delete(_T).where(_T.c.id == id)).rowcount:
                raise _absent(id)
            audited(
                connection,
                now,
                actor=author,
                action="batch.delete",
                subject=f"batch:{id}",
                request_id=request_id,
                details={"recipe": batch.recipe_name, "n_items": batch.n_items},
            )

        self._database.write(work)

    def purge(self, older_than: datetime, *, author: str = "local") -> int:
        """Remove what was made before a time; return how many batches that were.

        A few at a time, so that calls to label do not wait for all of it.
        """
        total = 0
        while n := self._database.write(lambda connection: _remove_some(connection, older_than, _CHUNK)):
            total += n
        now = self._database.now()
        told = {"older_than": older_than.isoformat(), "n_batches": total}
        if total:
            self._database.write(
                lambda connection: audited(
                    connection, now, actor=author, action="batch.purge", subject="batches", details=told
                )
            )
            self._database.give_back_space()
        return total


def _remove_some(connection: Connection, older_than: datetime, limit: int) -> int:
    old = select(_T.c.id).where(_T.c.created_at < older_than).limit(limit)
    return connection.execute(delete(_T).where(_T.c.id.in_(old))).rowcount


def _get(connection: Connection, id: str) -> Batch:
    row = connection.execute(select(*_TOLD).where(_T.c.id == _checked(id))).one_or_none()
    if row is None:
        raise _absent(id)
    return _record(row)


def _get_labels(connection: Connection, id: str) -> tuple[Batch, bytes]:
    query: Select[Any] = select(*_TOLD, _T.c.labels).where(_T.c.id == _checked(id))
    row = connection.execute(query).one_or_none()
    if row is None:
        raise _absent(id)
    return _record(row), row.labels


def _checked(id: str) -> str:
    if not _ID.fullmatch(id):
        raise _absent(id)
    return id


def _absent(id: str) -> NotFound:
    return NotFound(f"there is no batch {id!r:.80}; GET /v1/batches lists all")


def _record(row: Row[Any]) -> Batch:
    return Batch(**{column.name: getattr(row, column.name) for column in _TOLD})
