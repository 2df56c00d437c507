"""Removes what is kept no longer from the store, now and then, for as long as the service runs."""

from __future__ import annotations

import logging
import random
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import anyio
import anyio.to_thread

from manyeyes.errors import ManyeyesError
from manyeyes.service.store.store import Store

log: Final = logging.getLogger("manyeyes.service")

EVERY_S: Final = 3600.0
AUTHOR: Final = "service"


async def sweep(store: Store, *, keep_days: float | None, every_s: float = EVERY_S) -> None:
    """Remove old answers of calls with a key of idempotency, and labels older than keep_days, until cancelled.

    Replicas do so at different moments, and it harms nothing where two do so at once.
    """
    while True:
        await anyio.sleep(every_s * random.uniform(0.5, 1.0))
        try:
            n_answers = await anyio.to_thread.run_sync(store.idempotency.purge)
            n_batches = 0
            if keep_days is not None:
                limit = datetime.now(UTC) - timedelta(days=keep_days)
                n_batches = await anyio.to_thread.run_sync(partial(store.batches.purge, limit, author=AUTHOR))
            if n_answers or n_batches:
                log.info("removed %d answers and %d batches that are kept no longer", n_answers, n_batches)
        except ManyeyesError as error:
            log.warning("what is kept no longer could not be removed: %s", error)
