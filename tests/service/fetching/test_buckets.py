"""Objects of buckets, from a real S3 server: those that the operator named, and no others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from manyeyes.errors import (
    AddressRefused,
    FetchFailed,
    ImageTooLarge,
    InvalidSettings,
    ItemError,
    SourceNotFound,
)
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.fetching.fetcher import Address, Fetcher
from manyeyes.service.settings import ServiceSettings
from manyeyes.types import Item
from tests.service.fetching.sites import png


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Return the address of an S3 server with the buckets `photos` and `secrets`."""
    import boto3
    from moto.server import ThreadedMotoServer

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
    for bucket in ("photos", "secrets"):
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    for key in ("2026/red.png", "2026/ä b+c%20#?.png", "2025/old.png", "root.png"):
        client.put_object(Bucket="photos", Key=key, Body=png())
    client.put_object(Bucket="photos", Key="2026/big", Body=b"x" * (2**20 + 1))
    client.put_object(Bucket="photos", Key="2026/most", Body=b"x" * 2**20)
    client.put_object(Bucket="secrets", Key="red.png", Body=png())
    client.close()
    yield address
    server.stop()


@pytest.fixture
def buckets_file(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PHOTOS_KEY_ID", "an-id")
    monkeypatch.setenv("PHOTOS_SECRET", "a-secret")
    file = tmp_path / "buckets.yaml"
    file.write_text(f"""
photos:
  url: s3://photos/2026
  region: eu-central-1
  endpoint: {s3}
  credentials: {{access_key_id: PHOTOS_KEY_ID, secret_access_key: PHOTOS_SECRET}}
gone: {{url: "s3://no-such-bucket", region: eu-central-1, endpoint: "{s3}", anonymous: true}}
away: {{url: "s3://away", region: eu-central-1, endpoint: "http://127.0.0.1:1", anonymous: true}}
""")
    return file


def read(objects: list[str], file: Path | None, held: list[int] | None = None) -> list[object]:
    settings = ServiceSettings(buckets_file=file, max_image_bytes=2**20)
    counted = [] if held is None else held

    async def is_gone() -> bool:
        return False

    async def run() -> list[object]:
        rows = [(str(n), Item(str(n), image=Address("object", told))) for n, told in enumerate(objects)]  # type: ignore[arg-type]
        resolved = await Fetcher(settings).resolve_rows(rows, hold=counted.append, is_gone=is_gone)
        return [one.image if isinstance(one, Item) else one for _, one in resolved]

    return asyncio.run(run())


def test_objects_below_the_prefix_are_read(buckets_file: Path) -> None:
    held: list[int] = []
    got = read(["s3://photos/2026/red.png", "s3://photos/2026/ä b+c%20#?.png"], buckets_file, held)
    assert got == [png(), png()]
    assert sum(held) == 2 * len(png())


def test_each_failure_is_one_item_and_tells_nothing_of_the_store(buckets_file: Path, s3: str) -> None:
    held: list[int] = []
    got = read(
        ["s3://photos/2026/none.png", "s3://photos/2026/big", "s3://photos/2026/most", "s3://no-such-bucket/a",
         "s3://away/a", "s3://photos/2026/red.png"],
        buckets_file,
        held,
    )  # fmt: skip
    kinds = [type(one) for one in got]
    assert kinds == [SourceNotFound, ImageTooLarge, bytes, SourceNotFound, FetchFailed, bytes]
    assert sum(held) == 2**20 + len(png())
    told = " ".join(str(one) for one in got if isinstance(one, ItemError))
    assert s3 not in told
    assert "an-id" not in told


@pytest.mark.parametrize(
    "object_",
    [
        "s3://secrets/red.png", "s3://photos/root.png", "s3://photos/2025/old.png", "s3://photos/2026",
        "s3://photos/2026/", "s3://photos/20260/a", "s3://photos/2026/../2025/old.png", "s3://photos/2026/..",
        "s3://photos/2026/./red.png", "s3://photos/2026//red.png", "s3://photos/2026/..\\old.png",
        "s3://photos/2026/a\nb", "s3://photos/2026/a\x00", "s3://PHOTOS/2026/red.png", "S3://photos/2026/red.png",
        "gs://photos/2026/red.png", "file:///etc/passwd", "/etc/passwd", "2026/red.png", "s3:/photos/2026/red.png",
        "s3://an-id:a-secret@photos/2026/red.png", "memory:///a", "http://photos/2026/red.png", "s3://photos/2026/\ud800",
        "s3://photos/2026/" + "a" * 3000,
    ],
)  # fmt: skip
def test_nothing_else_is_read(buckets_file: Path, object_: str) -> None:
    (refused,) = read([object_], buckets_file)
    assert isinstance(refused, AddressRefused)


def test_what_looks_like_a_path_is_a_key_and_stays_below(buckets_file: Path) -> None:
    got = read(["s3://photos/2026/%2e%2e/2025/old.png", "s3://photos/2026/..%2f2025%2fold.png"], buckets_file)
    assert [type(one) for one in got] == [SourceNotFound, SourceNotFound]


def test_without_a_file_no_bucket_is_read() -> None:
    (refused,) = read(["s3://photos/2026/red.png"], None)
    assert isinstance(refused, AddressRefused)
    assert "MANYEYES_BUCKETS_FILE" in str(refused)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: {url: 'file:///srv'}", "url"),
        ("a: {url: 'memory:///'}", "url"),
        ("a: {url: 's3://bbb/../c'}", "url"),
        ("a: {url: 's3://bbb', credentials: {access_key_id: NOT_SET_AT_ALL}}", "NOT_SET_AT_ALL"),
        ("a: {url: 's3://bbb', credentials: {account_key: PATH}}", "account_key"),
        ("a: {url: 's3://bbb', credentials: {access_key_id: PATH}, anonymous: true}", "anonymous"),
        ("a: {url: 's3://bbb', endpoint: 'ftp://c'}", "endpoint"),
        ("a: {url: 's3://bbb', secret: x}", "secret"),
        ("a b: {url: 's3://bbb'}", "cannot name a bucket"),
        ("[1, 2]", "mapping"),
        ("a: !!python/object/apply:os.system [id]", "cannot be read"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "buckets.yaml"
    file.write_text(text)
    with pytest.raises(InvalidSettings, match=told):
        Buckets.load(file)


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="cannot be read"):
        Buckets.load(tmp_path / "none.yaml")


def test_secrets_do_not_show(buckets_file: Path) -> None:
    bucket, _ = Buckets.load(buckets_file).find("s3://photos/2026/red.png")
    _ = bucket.store
    assert os.environ["PHOTOS_SECRET"] not in repr(bucket)


def test_the_file_that_is_shown_in_the_documentation_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    import re

    text = (root / "docs" / "items.md").read_text("utf-8")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", text, flags=re.M | re.S)
    for variable in set(re.findall(r"\b[A-Z]+_(?:KEY_ID|SECRET)\b", shown)):
        monkeypatch.setenv(variable, "x")
    (tmp_path / "buckets.yaml").write_text(shown)
    buckets = Buckets.load(tmp_path / "buckets.yaml")
    assert buckets.find("s3://acme-photos/2026/coat.jpg")[1] == "coat.jpg"
    assert buckets.find("gs://open-images/a/b.jpg")[1] == "a/b.jpg"
    for bucket in ("s3://scans/a", "gs://open-images/a"):
        _ = buckets.find(bucket)[0].store
