"""The store: all that a service keeps, in SQLite beside it or in a PostgreSQL that several replicas share."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from manyeyes.service.store.audit import Audit
from manyeyes.service.store.batches import Batches
from manyeyes.service.store.database import Database
from manyeyes.service.store.idempotency import Idempotency
from manyeyes.service.store.keys import Keys
from manyeyes.service.store.label_models import LabelModels
from manyeyes.service.store.recipes import Recipes
from manyeyes.service.store.records import StoreStatus
from manyeyes.service.store.settings import StoreSettings


class Store:
    """All that a service keeps. Its methods wait for the database, so that they belong on worker threads; any thread.

    Each raises StoreUnavailable where the database does not answer in time, and works again once it does.
    """

    def __init__(self, database: Database) -> None:
        self.recipes = Recipes(database)
        self.batches = Batches(database)
        self.label_models = LabelModels(database)
        self.keys = Keys(database)
        self.audit = Audit(database)
        self.idempotency = Idempotency(database)
        self._database = database

    @classmethod
    def open(
        cls, url: str | None = None, *, settings: StoreSettings | None = None, upgrade: bool = True
    ) -> Self:
        """Return the store at a URL, of the settings where none is given, else in ``service.db`` at home.

        upgrade: make or change the tables first, where that is needed; several replicas may do so at once.
        Raises InvalidSettings for a URL that is none, or tables newer than this version of manyeyes; StoreUnavailable;
        MissingDependency without psycopg.
        """
        raise NotImplementedError

    def ping(self) -> None:
        """Ask the database for a sign of life. Raises StoreUnavailable."""
        raise NotImplementedError

    def status(self) -> StoreStatus:
        """Return what the store is, and how much it holds."""
        raise NotImplementedError

    def close(self) -> None:
        """Commit what waits, and let go of all connections."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
