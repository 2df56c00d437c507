"""The data card: a page in Markdown, with pictures beside it, that says what a dataset is and what it is not."""

from __future__ import annotations

from manyeyes.service.jobs.published import Published
from manyeyes.service.jobs.storage import Storage


def write_card(storage: Storage, published: Published) -> None:
    """Write ``README.md`` and ``card/*.svg``; the same dataset gives the same bytes. ``publish`` calls it."""
    raise NotImplementedError
