"""A full disk costs what is kept, and no label."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from manyeyes import Client, Item

Photo = Callable[..., bytes]


def test_no_room_for_the_cache_stops_no_label(serve: Callable[..., Any], photo: Photo) -> None:
    server = serve(MANYEYES_STORE_LABELS="false")

    def ask(n: int, first: int) -> list[str | None]:
        items = [Item(f"{i}", image=photo("red", first + i)) for i in range(n)]
        with Client(server.address, max_retries=0) as client:
            return [label.label for label in client.label(items, recipe="looks")]

    assert ask(10, 0) == ["red"] * 10
    (data,) = Path(server.environment["MANYEYES_HOME"]).rglob("data.mdb")
    room = data.stat().st_size
    # From now on no file of the process may grow past the size that the cache has.
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (room, room))
    for first in range(10_000, 18_000, 400):
        assert ask(400, first) == ["red"] * 400
    assert data.stat().st_size <= room
    assert server.answers("/healthz")
    assert "features are not kept" in server.log()
