"""Items by address through the whole service: JSON and forms, the names that they get, and what is wrong with them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from manyeyes.service.app import create_app
from manyeyes.service.settings import ServiceSettings
from tests.service.fetching.sites import Site, a_site, png

RECIPE = {
    "name": "told",
    "classes": ["small", "blue"],
    "lfs": [
        {"name": "size", "kind": "metadata", "when": "width == 8", "vote": "small"},
        {
            "name": "name",
            "kind": "keyword",
            "on": "filename",
            "any": ["blau"],
            "whole_words": False,
            "vote": "blue",
        },
    ],
}


@pytest.fixture
def site() -> Iterator[Site]:
    with a_site() as running:
        yield running


def ask(settings: ServiceSettings, *calls: dict[str, Any]) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [await client.post("/v1/label", **call) for call in calls]

    return asyncio.run(run())


def settings_for(site: Site, **more: Any) -> ServiceSettings:
    hosts = f"127.0.0.1:{site.port}"
    return ServiceSettings(
        **{"fetch_hosts": hosts, "fetch_http": True, "fetch_networks": "127.0.0.1", "store_url": "none"}
        | more
    )


def test_items_are_labeled_as_if_they_had_been_sent(site: Site) -> None:
    url = f"http://127.0.0.1:{site.port}"
    items = [
        {"url": f"{url}/red.png"},
        {"id": "gone", "url": f"{url}/none.png"},
        {"url": "http://10.0.0.1/x.png"},
    ]
    by_json, by_form = ask(
        settings_for(site),
        {"json": {"recipe": RECIPE, "items": [*items, {"text": "a"}]}},
        {
            "data": {"recipe": json.dumps(RECIPE), "items": json.dumps([*items, {"file": 0}])},
            "files": [("files", ("blau.png", png("blue"), "image/png"))],
        },
    )
    for answer in (by_json, by_form):
        rows = answer.json()["labels"]
        assert [row["id"] for row in rows[:3]] == ["red.png", "gone", "x.png"]
        assert [row["status"] for row in rows[:3]] == ["labeled", "error", "error"]
        assert [row["error"]["code"] for row in rows[1:3]] == ["source_not_found", "address_refused"]
        assert rows[0]["label"] == "small"


def test_what_is_fetched_counts_as_what_was_sent(site: Site) -> None:
    url = f"http://127.0.0.1:{site.port}"
    call = {"recipe": RECIPE, "items": [{"url": f"{url}/red.png?{n}"} for n in range(2)]}
    body = json.dumps(call).encode()
    body += b" " * (2048 - len(body) - len(png()) * 3 // 2)  # room for one and a half of them
    headers = {"Content-Type": "application/json"}
    (answer,) = ask(settings_for(site, max_body_bytes=2048), {"content": body, "headers": headers})
    rows = answer.json()["labels"]
    assert sorted(row["status"] for row in rows) == ["error", "labeled"]
    assert {row["error"]["code"] for row in rows if row["status"] == "error"} == {"fetch_failed"}


def test_a_file_of_buckets_that_is_wrong_stops_the_start(tmp_path: Path) -> None:
    from manyeyes.errors import InvalidSettings

    (tmp_path / "buckets.yaml").write_text("a: {url: 'file:///srv'}")
    with pytest.raises(InvalidSettings, match="bucket 'a'"):
        create_app(ServiceSettings(buckets_file=tmp_path / "buckets.yaml", store_url="none"))
