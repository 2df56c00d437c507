"""What was labeled: one row a call, with its labels and with the votes that a label model can be fitted from."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from manyeyes.fitting import Collected
from manyeyes.service.store.database import Database
from manyeyes.service.store.records import Batch, Page, StoredLabel
from manyeyes.types import Label, Versions


class Batches:
    """The labeled calls of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self,
        *,
        key_id: str,
        recipe_name: str,
        versions: Versions,
        labels: Sequence[Label],
        collected: Collected | None = None,
        request_id: str | None = None,
        id: str | None = None,
    ) -> Batch:
        """Keep the labels of a call; return once they are on disk.

        collected: what the LFs said, as the engine returns it; None keeps no votes. id: from ``new_id()``, where the
        caller needs it before; None makes one.
        Calls that wait at the same time are committed together. Raises StoreUnavailable; then it may or may not be
        kept.
        """
        raise NotImplementedError

    def get(self, id: str) -> Batch:
        """Return a batch. Raises NotFound."""
        raise NotImplementedError

    def labels(self, id: str) -> list[Label]:
        """Return the labels of a batch, in the order of the call. Raises NotFound."""
        raise NotImplementedError

    def label(self, label_id: str) -> StoredLabel:
        """Return one label by ``<batch id>-<position>``. Raises LabelNotFound."""
        raise NotImplementedError

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
        raise NotImplementedError

    def votes(self, ids: Sequence[str]) -> Collected:
        """Return the votes of several batches, one after the other, to fit a label model from.

        Raises NotFound if a batch is not there or holds no votes, InvalidRequest if no batch is named or they are of
        other classes, LFs or sets.
        """
        raise NotImplementedError

    def delete(self, id: str, *, author: str, request_id: str | None = None) -> None:
        """Remove a batch with its labels and votes. Raises NotFound."""
        raise NotImplementedError

    def purge(self, older_than: datetime) -> int:
        """Remove what was made before a time; return how many batches that were."""
        raise NotImplementedError
