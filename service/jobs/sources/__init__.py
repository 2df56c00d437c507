"""Where the rows of a job come from: one module a kind of source, and ``open_source``, which tells them apart.

Listings are streams: no source is held in memory. Their order depends on names alone, never on the order in which a
store happens to answer. What cannot be a row is a row with an error; only a source that is wrong as a whole raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.jobs.shapes import Row, Source
from manyeyes.settings import Limits


class Listing(Protocol):
    """What a source holds.

    uri: its address, without secrets. skipped: reason → how many files were passed over so far, because they are no
    data: hidden ones, programs, tables.
    """

    uri: str
    skipped: Counter[str]

    def rows(self) -> Iterator[Row]:
        """Yield every row, in a fixed order. Ids may repeat.

        Raises InvalidSource if there is nothing to label, and StorageFailed if the store fails.
        """


def open_source(
    source: Source,
    *,
    buckets: Buckets | None = None,
    limits: Limits | None = None,
    web: FetchSettings | None = None,
) -> Listing:
    """Return what lists a source; little is asked of it yet.

    buckets: those of an operator; then nothing else is read, and nothing of this machine. Without, addresses are those
    of whoever runs the job here. limits: what one item may cost. web: which hosts may be called for a list of
    addresses, where an operator says so.
    Raises InvalidSource or AddressRefused if it can be told from the address that it cannot be read.
    """
    from manyeyes.service.jobs.sources.opening import open_listing

    return open_listing(source, buckets=buckets, limits=limits or Limits(), web=web)
