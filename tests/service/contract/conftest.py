"""A service with everything that its description names: recipes, an index, a store, a Label Studio backend."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from manyeyes import Item
from manyeyes.search import Finder
from manyeyes.service.schemas.labels import EXAMPLE_RECIPE
from manyeyes.service.settings import ServiceSettings


@pytest.fixture
def key() -> str:
    """Return a key that opens everything."""
    return "an-admin-key-for-the-contract"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Return the address of an S3 server with a bucket that jobs write to."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="eu-central-1",
        aws_access_key_id="an-id",
        aws_secret_access_key="a-secret",
    )
    httpx.post(
        f"{address}/moto-api/reset", trust_env=False
    )  # all its servers in a process share what they hold
    client.create_bucket(Bucket="labels", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    client.close()
    yield address
    server.stop()


@pytest.fixture
def settings_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: str) -> Callable[..., ServiceSettings]:
    """Return a maker of settings for a service on which the examples of the description work."""
    monkeypatch.setenv("MANYEYES_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("S3_KEY_ID", "an-id")
    monkeypatch.setenv("S3_SECRET", "a-secret")
    (tmp_path / "buckets.yaml").write_text(
        f"labels: {{url: 's3://labels', write: true, region: eu-central-1, endpoint: '{s3}',"
        " credentials: {access_key_id: S3_KEY_ID, secret_access_key: S3_SECRET}}"
    )
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for name in ("paint", "garments"):
        (recipes / f"{name}.yaml").write_text(yaml.safe_dump(EXAMPLE_RECIPE | {"name": name}))
    finder = Finder(clip="toy", on="text")
    finder.index([Item("a", text="a red car"), Item("b", text="a blue door")]).save(
        tmp_path / "indexes" / "photos"
    )

    def make(**more: Any) -> ServiceSettings:
        return ServiceSettings(
            **{
                "recipes_dir": recipes,
                "indexes_dir": tmp_path / "indexes",
                "label_studio_recipe": "paint",
                "store_url": f"sqlite:///{tmp_path / 'store.db'}",
                "failures_per_minute": 1_000_000,
                "buckets_file": tmp_path / "buckets.yaml",
                "jobs_max_open": 2,  # whoever follows one waits for those before it
                **more,
            }
        )

    return make
