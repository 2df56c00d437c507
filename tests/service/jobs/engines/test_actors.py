"""Decoders that feed a worker: the same bytes and pixels as without, whatever becomes of them."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from manyeyes.errors import ItemError, UndecodableImage
from manyeyes.primitives.images import decode_image
from manyeyes.service.jobs.engines.actors import FETCH_ROWS, Ask, DecoderActor, Fed
from manyeyes.service.jobs.shapes import Row


class Lost(Exception):
    """What Ray raises for an actor that is gone."""


class Handle:
    """A decoder of this process, called as Ray calls one. loses: which of its calls are lost."""

    def __init__(self, *, loses: set[int] = frozenset()) -> None:  # type: ignore[assignment]
        self.asks: list[Ask] = []
        self._decoder = DecoderActor()
        self._loses = loses
        self.get = SimpleNamespace(remote=self._remote)

    def _remote(self, ask: Ask) -> Any:
        self.asks.append(ask)
        return Lost() if len(self.asks) - 1 in self._loses else self._decoder.get(ask)


def _get(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer


RAY = SimpleNamespace(get=_get, exceptions=SimpleNamespace(RayError=Lost))


@pytest.fixture(autouse=True)
def _no_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manyeyes.service.jobs.engines.actors.take_core", lambda: None)


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    """Return rows of 200 photographs, two of them damaged and one missing."""
    made = []
    for i in range(200):
        path = tmp_path / f"{i}.jpg"
        if i in (70, 140):
            path.write_bytes(b"\xff\xd8\xff\xe0 no more")
        elif i != 100:
            rng = np.random.default_rng(i)
            Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
        made.append(Row(str(i), uri=path.as_uri()))
    return made


def test_pixels_are_those_that_would_be_decoded_here(rows: list[Row]) -> None:
    fed = Fed([Handle(), Handle()], RAY, None, ahead=4)
    wrong = []
    for place, data, attempts in fed.fetch(rows, attempts=2):
        assert attempts == 1
        if isinstance(data, ItemError):
            wrong.append(place)
            continue
        assert isinstance(data, bytes)
        try:
            pixels = fed.decode(data, least_side=16).pixels
        except UndecodableImage:
            wrong.append(place)
            continue
        assert pixels.tobytes() == decode_image(data, least_side=16).pixels.tobytes()
    assert wrong == [70, 100, 140]
    # What was asked for before the first image was decoded came without pixels.
    assert fed.n_used == 197 - 4 * FETCH_ROWS


def test_later_shards_are_decoded_elsewhere(rows: list[Row]) -> None:
    handle = Handle()
    fed = Fed([handle], RAY, None)
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "JPEG")
    fed.decode(buffer.getvalue(), least_side=16)
    sound = 0
    for _, data, _ in fed.fetch(rows, attempts=1):
        if isinstance(data, bytes):
            try:
                fed.decode(data, least_side=16)
                sound += 1
            except UndecodableImage:
                continue
    assert fed.n_used == sound == 197
    assert all(ask.decode and ask.side == 16 for ask in handle.asks)


def test_pixels_of_another_size_are_not_taken(rows: list[Row]) -> None:
    fed = Fed([Handle()], RAY, None)
    fed._side = (16,)
    [(_, data, _), *_] = list(fed.fetch(rows[:1], attempts=1))
    assert isinstance(data, bytes)
    assert fed.decode(data, least_side=None).pixels.tobytes() == decode_image(data).pixels.tobytes()
    assert fed.n_used == 0
    fed.decode(data, least_side=16)
    assert fed.n_used == 1


def test_a_lost_decoder_is_replaced_by_the_worker(rows: list[Row]) -> None:
    fed = Fed([Handle(loses={0, 2})], RAY, None)
    found = list(fed.fetch(rows, attempts=1))
    alone = list(Fed([Handle()], RAY, None).fetch(rows, attempts=1))
    assert [place for place, _, _ in found] == list(range(200))
    assert [str(data) for _, data, _ in found] == [str(data) for _, data, _ in alone]
    fed.close()
