"""The double that users test with, tested: it reads what clients send, and answers as it is told."""

from __future__ import annotations

import asyncio
import doctest
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest

from manyeyes import Item, Label, Url, testing
from manyeyes.errors import NotFound, RateLimited, ServiceUnavailable, UnsupportedFormat
from manyeyes.testing import FakeService, Sent


def test_its_examples_hold() -> None:
    told = doctest.testmod(testing)
    assert told.attempted > 5 and told.failed == 0


def test_every_part_of_an_item_arrives() -> None:
    fake = FakeService()
    image = b"\r\n--line\r\n\x00\xff boundary"
    with fake.client(api_key="secret-of-a-test") as client:
        client.label(
            [
                Item("a", image=image, text="zwölf\r\n", metadata={"n": 1, "none": None}),
                Url("https://example.org/x.png"),
                Item("c", image="s3://b/k"),
                np.zeros((1, 1), np.uint8),
            ],
            recipe="name: x\nclasses: [a, b]",
            store=True,
        )
    (call,) = fake.calls
    assert call.items[0] == Sent("a", "zwölf\r\n", image, {"n": 1, "none": None})
    assert (call.items[1].url, call.items[2].object) == ("https://example.org/x.png", "s3://b/k")
    assert call.items[3].image is not None
    assert call.recipe == "name: x\nclasses: [a, b]"
    assert call.fields["store"] == "true"
    assert call.headers["authorization"] == "Bearer secret-of-a-test"
    assert len(call.headers["idempotency-key"]) == 32


def test_answers_are_what_was_told() -> None:
    whole = Label("d", "labeled", "a", 1.0, {"a": 1.0}, "b", 0.0)
    fake = FakeService(
        {"a": "cat", "b": {"cat": 0.25, "dog": 0.75}, "c": UnsupportedFormat("a PDF"), "d": whole},
        recipe="pets",
    )
    with fake.client() as client:
        labels = client.label([{"id": name, "text": "t"} for name in "abcde"], recipe="pets")
    assert [label.label for label in labels] == ["cat", "dog", None, "a", None]
    assert [label.status for label in labels] == ["labeled", "labeled", "error", "labeled", "abstained"]
    assert labels[0].probs == {"cat": 1.0, "dog": 0.0, "a": 0.0}
    assert labels[1].runner_up == "cat"
    assert labels.recipe == "pets" and labels.request_id == "fake-1"


def test_failures_come_in_order_and_are_over() -> None:
    fake = FakeService()
    fake.fail(RateLimited("slow down"), times=2)
    fake.fail(502)
    fake.fail(httpx.ReadError("reset"))
    with fake.client() as client:
        began = time.monotonic()
        assert client.label(["a"], recipe="r")[0].status == "abstained"
        assert (client.stats.retries, client.stats.busy) == (4, 2)
        assert time.monotonic() - began < 1
        fake.fail(RateLimited("slow down"), retry_after_s=1)
        client.label(["a"], recipe="r")
        assert time.monotonic() - began > 1
    assert len(fake.calls) == 7


def test_other_routes_are_answered_as_told() -> None:
    fake = FakeService()
    line = {"name": "r", "version": "v", "description": "", "classes": ["a"], "fitted": False}
    fake.answer("GET", "/v1/recipes", {"recipes": [line], "broken": []})
    fake.answer("GET", "/v1/models", {"data": []})
    with fake.client() as client:
        assert [recipe.name for recipe in client.recipes.list()] == ["r"]
        assert client.models() == ()
        assert client.healthy() and client.ready()
        with pytest.raises(NotFound, match="answer"):
            client.keys.get("k")

    async def run() -> bool:
        async with fake.async_client() as client:
            return await client.healthy() and await client.ready()

    assert asyncio.run(run())


def test_it_can_be_gone_for_good() -> None:
    fake = FakeService()
    fake.fail(httpx.ConnectError("refused"), times=100)
    with fake.client() as client:
        assert not client.healthy()
        with pytest.raises(ServiceUnavailable, match="no service answers at http://fake"):
            client.recipes()


def test_neither_the_sdk_nor_the_double_needs_more_than_the_base_install() -> None:
    code = """
import sys
heavy = ["torch", "PIL", "pandas", "pyarrow", "polars", "fastapi", "sqlalchemy", "scipy"]
for name in heavy: sys.modules[name] = None
import manyeyes, numpy
from manyeyes.testing import FakeService
fake = FakeService({"a": "red"})
with fake.client() as client:
    labels = client.label([manyeyes.Item("a", image=numpy.zeros((2, 2, 3), numpy.uint8))], recipe="r")
    assert labels.to_dicts()[0]["label"] == "red"
    assert [label.label for label in client.label_many(["x", "y"], recipe="r")] == [None, None]
"""
    subprocess.run([sys.executable, "-c", code], check=True)
