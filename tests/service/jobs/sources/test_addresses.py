"""Lists of addresses, on this machine, in a bucket and on the web; and the web itself, which is called with care."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manyeyes.errors import AddressRefused, InvalidSettings, InvalidSource
from manyeyes.service.fetching.buckets import Buckets
from manyeyes.service.fetching.settings import FetchSettings
from manyeyes.service.jobs.manifests.fetch import Fetcher
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Row, Source
from manyeyes.service.jobs.sources import open_source
from tests.service.fetching.sites import a_site, png
from tests.service.jobs.faulty_s3 import FaultyS3
from tests.service.jobs.sources.conftest import Lay, read


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine be called, as an operator would let a network of theirs."""
    monkeypatch.setenv("MANYEYES_FETCH_NETWORKS", "127.0.0.0/8")
    monkeypatch.setenv("MANYEYES_FETCH_TIMEOUT_S", "2")


def test_a_list_of_addresses(lay: Lay, near: None) -> None:
    with a_site() as site:
        root = f"http://127.0.0.1:{site.port}"
        named = {"url": f"{root}/red.png", "id": "named", "k": 2, "text": "t"}
        lines = [
            "# photos", "", f"{root}/red.png", f"  {root}/none.png ", f"{root}/fails", f"{root}/big", "/etc/passwd",
            "file:///etc/passwd", "gopher://x", json.dumps(named), json.dumps(f"{root}/red.png?2"), "{",
            json.dumps({"k": 1}), json.dumps({"image_base64": "aa"}), f"{root}/cut",
        ]  # fmt: skip
        listed = read(lay({"photos.txt": "\n".join(lines).encode()}) + "/photos.txt")
    codes = [getattr(one, "code", one) for one in listed.got]
    assert codes == [
        png(), "source_not_found", "fetch_failed", "image_too_large", "invalid_item", "address_refused",
        "address_refused", png(), png(), "invalid_item", "empty_item", "invalid_item", "fetch_failed",
    ]  # fmt: skip
    assert listed.rows[0].id == f"{root}/red.png"
    row = listed.row("named")
    assert (row.text, row.metadata) == ("t", '{"k":2}')


def test_what_may_pass_is_tried_again_and_what_may_not_is_not(near: None) -> None:
    with a_site() as site:
        rows = [
            Row(path, uri=f"http://127.0.0.1:{site.port}/{path}") for path in ("fails", "cut", "none", "gzip")
        ]
        with Fetcher(pause_s=0.01) as fetcher:
            made = [attempts for _, _, attempts in fetcher.fetch(rows, attempts=3)]
    assert made[:3] == [3, 3, 1]


def test_a_list_on_the_web(near: None, tmp_path: Path) -> None:
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    (tmp_path / "list.txt").write_text("https://example.org/a.jpg\nhttps://example.org/b.jpg\n")

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *given: object) -> None:
            super().__init__(*given, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        root = f"http://127.0.0.1:{server.server_address[1]}"
        rows = list(open_source(Source(uri=f"{root}/list.txt")).rows())
        assert [row.uri for row in rows] == ["https://example.org/a.jpg", "https://example.org/b.jpg"]
        with pytest.raises(InvalidSource, match="cannot be fetched"):
            list(open_source(Source(uri=f"{root}/none.txt")).rows())
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_this_machine_and_its_network_are_not_called_unless_that_is_said(tmp_path: Path) -> None:
    with a_site() as site:
        uris = [f"http://127.0.0.1:{site.port}/red.png", f"http://localhost:{site.port}/red.png",
                "http://169.254.169.254/latest/meta-data", "http://[::1]/x", "http://10.0.0.1/x"]  # fmt: skip
        with Fetcher() as fetcher:
            found = fetcher.fetch([Row(uri, uri=uri) for uri in uris], attempts=2)
            assert [(getattr(one, "code", one), made) for _, one, made in found] == [
                ("address_refused", 1)
            ] * 5
        assert site.asked == []
        with pytest.raises(AddressRefused):
            list(open_source(Source(uri=f"http://127.0.0.1:{site.port}/l.txt")).rows())


def test_for_callers_only_the_hosts_of_the_operator_are_called(data_s3: FaultyS3, tmp_path: Path) -> None:
    file = tmp_path / "buckets.yaml"
    root = f"s3://data/{tmp_path.name}"
    file.write_text(
        f"b: {{url: {root}, endpoint: '{data_s3.address}', region: us-east-1,"
        " credentials: {access_key_id: AWS_ACCESS_KEY_ID, secret_access_key: AWS_SECRET_ACCESS_KEY}}\n"
    )
    buckets = Buckets.load(file)
    with a_site() as site:
        address = f"http://127.0.0.1:{site.port}/red.png"
        Storage.open(root).put("l.txt", f"{address}\n/etc/passwd\n".encode())
        rows = list(open_source(Source(uri=f"{root}/l.txt"), buckets=buckets).rows())
        with Fetcher(buckets=buckets) as fetcher:
            assert [one.code for _, one, _ in fetcher.fetch(rows, attempts=1)] == [
                "address_refused",
                "invalid_item",
            ]  # type: ignore[union-attr]
        assert site.asked == []
        web = FetchSettings(
            fetch_hosts=f"127.0.0.1:{site.port}",
            fetch_http=True,
            fetch_networks="127.0.0.0/8",  # type: ignore[arg-type]
        )
        for fetcher in (Fetcher(buckets=buckets, web=web), Fetcher(buckets=Buckets.load(file, web=web))):
            with fetcher:
                assert [one for _, one, _ in fetcher.fetch(rows[:1], attempts=1)] == [png()]
        with pytest.raises(AddressRefused):
            list(open_source(Source(uri="https://example.org/l.txt"), buckets=buckets).rows())


def test_settings_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MANYEYES_FETCH_NETWORKS", "everywhere")
    (tmp_path / "l.txt").write_text("https://example.org/a.jpg\n")
    with pytest.raises(InvalidSettings, match="MANYEYES_FETCH_NETWORKS"):
        list(open_source(Source(uri=str(tmp_path / "l.txt"))).rows())


def test_a_list_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("# nothing\n\n")
    with pytest.raises(InvalidSource, match="nothing that can be labeled"):
        read(str(tmp_path / "l.txt"))


def test_what_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\n" + b"x" * 3_000_000 + b"\nhttps://example.org/a.jpg\n")
    listed = [row.error and row.error[0] for row in open_source(Source(uri=str(tmp_path / "l.txt"))).rows()]
    assert listed == ["invalid_item", "invalid_item", None]
