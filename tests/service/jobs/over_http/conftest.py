"""A service with buckets in a real S3 server, whose jobs run in processes that do what a test says."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from manyeyes.service.settings import ServiceSettings

ADMIN = "the-operators-own-key"
PAINT = {
    "name": "paint",
    "classes": ["red", "blue"],
    "lfs": [
        {"name": "says_red", "kind": "keyword", "on": "text", "any": ["red", "crimson"], "vote": "red"},
        {"name": "says_blue", "kind": "keyword", "on": "text", "any": ["blue", "navy"], "vote": "blue"},
    ],
}


def photo(colour: str, number: int = 0) -> bytes:
    """Return a PNG of one colour; every number is another file."""
    stream = io.BytesIO()
    image = Image.new("RGB", (16, 16), colour)
    image.putpixel((15, 15), (number & 255, number >> 8 & 255, 0))
    image.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="package")
def s3() -> Iterator[Any]:
    """Return a client of an S3 server with the buckets `photos`, `labels` and `secrets`; ``s3.address`` is its own."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="eu-central-1",
        aws_access_key_id="an-id",
        aws_secret_access_key="a-secret-of-buckets",
    )
    # All its servers in a process share what they hold.
    httpx.post(f"http://{host}:{port}/moto-api/reset", trust_env=False)
    for bucket in ("photos", "labels", "secrets"):
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    client.put_object(Bucket="secrets", Key="all/red.png", Body=photo("red"))
    yield client
    client.close()
    server.stop()


@pytest.fixture
def buckets_file(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file of buckets: `photos` may be read, and `labels/all` written to."""
    monkeypatch.setenv("S3_KEY_ID", "an-id")
    monkeypatch.setenv("S3_SECRET", "a-secret-of-buckets")
    address = s3.meta.endpoint_url
    open_with = (
        f"region: eu-central-1, endpoint: '{address}',"
        " credentials: {access_key_id: S3_KEY_ID, secret_access_key: S3_SECRET}"
    )
    file = tmp_path / "buckets.yaml"
    file.write_text(f"""
photos: {{url: "s3://photos", {open_with}}}
labels: {{url: "s3://labels/all", write: true, {open_with}}}
""")
    return file


@pytest.fixture
def settings_of(tmp_path: Path, buckets_file: Path) -> Callable[..., ServiceSettings]:
    """Return a maker of settings with a store, a folder of recipes and buckets."""
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "paint.yaml").write_text(json.dumps(PAINT))
    coded = {"name": "c", "kind": "python", "function": "os:getcwd"}
    (recipes / "coded.yaml").write_text(json.dumps(PAINT | {"name": "coded", "lfs": [*PAINT["lfs"], coded]}))

    def make(**more: Any) -> ServiceSettings:
        told = {
            "recipes_dir": recipes,
            "store_url": f"sqlite:///{tmp_path / 'service.db'}",
            "buckets_file": buckets_file,
            "jobs_lease_s": 2.0,
        }
        return ServiceSettings(**(told | more))

    return make


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Return what lets the processes of jobs do as told: see ``player.py``."""
    from manyeyes.service.jobs.serving import service_jobs

    command = (sys.executable, str(Path(__file__).with_name("player.py")), str(tmp_path))
    defaults = dict(service_jobs.ServiceJobs.__init__.__kwdefaults__ or {})
    monkeypatch.setattr(service_jobs.ServiceJobs.__init__, "__kwdefaults__", defaults | {"command": command})

    def play(*steps: Any) -> None:
        (tmp_path / "play.json").write_text(json.dumps(steps))

    play("shards", 3, "end", "completed")
    return play
