"""What /readyz looks at."""

from __future__ import annotations

from manyeyes.errors import ManyeyesError
from manyeyes.service.operations.readiness import Check
from manyeyes.service.store.store import Store


def store_check(store: Store) -> Check:
    """Return a check that the database answers."""

    def check() -> str | None:
        try:
            store.ping()
        except ManyeyesError as error:
            # Not the message: it names the address of the database, and probes need no key.
            return f"the database does not answer ({error.code})"
        return None

    return check
