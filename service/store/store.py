"""The store: all that a service keeps, in SQLite beside it or in a PostgreSQL that several replicas share."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sqlalchemy import func, select

from manyeyes.errors import InvalidSettings
from manyeyes.service.store import migrate
from manyeyes.service.store.addresses import address, make_file
from manyeyes.service.store.audit import Audit
from manyeyes.service.store.batches import Batches
from manyeyes.service.store.database import Database
from manyeyes.service.store.idempotency import Idempotency
from manyeyes.service.store.jobs import Jobs
from manyeyes.service.store.keys import Keys
from manyeyes.service.store.label_models import LabelModels
from manyeyes.service.store.recipes import Recipes
from manyeyes.service.store.records import StoreStatus
from manyeyes.service.store.settings import StoreSettings
from manyeyes.service.store.tables import METADATA


class Store:
    """All that a service keeps. Its methods wait for the database, so that they belong on worker threads; any thread.

    Each raises StoreUnavailable where the database does not answer in time, and works again once it does.
    """

    def __init__(self, database: Database, *, keep_days: float | None = None) -> None:
        self.recipes = Recipes(database)
        self.batches = Batches(database, keep_days=keep_days)
        self.label_models = LabelModels(database)
        self.keys = Keys(database)
        self.audit = Audit(database)
        self.idempotency = Idempotency(database)
        self.jobs = Jobs(database, keep_days=keep_days)
        self.database = database

    @classmethod
    def open(
        cls, url: str | None = None, *, settings: StoreSettings | None = None, upgrade: bool | None = None
    ) -> Self:
        """Return the store at a URL, of the settings where none is given, else in ``service.db`` at home.

        upgrade: make or change the tables first, where that is needed; several replicas may do so at once. None is as
        the settings say.
        Raises InvalidSettings for a URL that is none, or tables that are not those of this version of manyeyes;
        StoreUnavailable; MissingDependency without psycopg.
        """
        settings = settings or StoreSettings()
        found = address(url or settings.store_url)
        if found.drivername == "sqlite":
            make_file(found)
        database = Database(found, timeout_s=settings.store_timeout_s, connections=settings.store_connections)
        try:
            if settings.store_upgrade if upgrade is None else upgrade:
                migrate.upgrade(database)
            elif not migrate.is_current(database):
                raise InvalidSettings(
                    f"the tables of the store have revision {migrate.current(database) or 'none'}, and this version of"
                    f" manyeyes needs {migrate.head()}; run `manyeyes store upgrade`"
                )
        except BaseException:
            database.close()
            raise
        return cls(database, keep_days=settings.keep_days)

    def ping(self) -> None:
        """Ask the database for a sign of life. Raises StoreUnavailable."""
        self.database.ping()

    def status(self) -> StoreStatus:
        """Return what the store is, and how much it holds. Raises StoreUnavailable."""
        return StoreStatus(
            database=self.database.engine.dialect.name,
            address=self.database.url.render_as_string(hide_password=True),
            revision=migrate.current(self.database),
            head=migrate.head(),
            rows=self.database.read(
                lambda connection: {
                    table.name: connection.execute(select(func.count()).select_from(table)).scalar_one()
                    for table in METADATA.sorted_tables
                }
            ),
        )

    def close(self) -> None:
        """Commit what waits, and let go of all connections."""
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
