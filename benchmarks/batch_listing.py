"""What a job's listing, manifest and fetching cost: seconds and memory, from ten thousand rows to a million.

The million keys come from a small HTTP server in a process of its own that answers ListObjectsV2 as S3 does, a thousand
keys a page; to put them into a real server would take it hours. Each figure of memory is the highest of a process that
does nothing else.

    python -m benchmarks.batch_listing [--quick] [--json]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from benchmarks.bars import Bar, arguments, at_most, show, told

SMALL, LARGE = 10_000, 1_000_000
PAGE: Final = 1000
_MIB: Final = 2**20
KINDS: Final = ("bucket", "folder", "parquet", "jsonl", "update")


class ManyKeys(BaseHTTPRequestHandler):
    """ListObjectsV2 over keys that nobody keeps: ``photos/00000000.jpg`` and so on."""

    protocol_version = "HTTP/1.1"
    n_keys = LARGE

    def do_GET(self) -> None:
        """Answer one page."""
        asked = parse_qs(urlsplit(self.path).query)
        after = (asked.get("continuation-token") or asked.get("start-after") or ["photos/"])[0]
        start = int(after.removeprefix("photos/").removesuffix(".jpg") or -1) + 1
        end = min(start + int(asked.get("max-keys", [str(PAGE)])[0]), self.n_keys)
        entries = "".join(
            f"<Contents><Key>photos/{i:08}.jpg</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f'<ETag>"{i:032x}"</ETag><Size>{1000 + i}</Size><StorageClass>STANDARD</StorageClass></Contents>'
            for i in range(start, end)
        )
        is_more = end < self.n_keys
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>many</Name><Prefix>photos/</Prefix>'
            f"<KeyCount>{end - start}</KeyCount><MaxKeys>{PAGE}</MaxKeys>"
            f"<IsTruncated>{str(is_more).lower()}</IsTruncated>"
            + (f"<NextContinuationToken>photos/{end - 1:08}.jpg</NextContinuationToken>" if is_more else "")
            + f"{entries}</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def many_keys(n_keys: int) -> Iterator[str]:
    """Run the server in a process of its own; give its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.batch_listing", "--serve", str(n_keys)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def serve(n_keys: int) -> None:
    """Serve until killed; prints the port."""
    ManyKeys.n_keys = n_keys
    server = ThreadingHTTPServer(("127.0.0.1", 0), ManyKeys)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def peak_bytes() -> int:
    """Return the most memory that this process has held, in bytes."""
    # Not ru_maxrss, which a new process takes over from the one that started it.
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def work(kind: str, n_rows: int, folder: str) -> dict[str, float]:
    """List so many rows of a kind, and write their manifest; return seconds and bytes. In a process of its own."""
    from manyeyes.service.jobs.manifests.manifest import update_manifest, write_manifest
    from manyeyes.service.jobs.places.storage import Storage
    from manyeyes.service.jobs.shapes import Row, Source
    from manyeyes.service.jobs.sources import open_source

    storage = Storage.open(f"{folder}/out-{kind}-{n_rows}")
    uris = {
        "bucket": "s3://many/photos",
        "list": "s3://many/photos",
        "folder": f"{folder}/files-{n_rows}",
        "parquet": f"{folder}/t-{n_rows}.parquet",
        "jsonl": f"{folder}/t-{n_rows}.jsonl",
    }
    import pyarrow.parquet  # noqa: F401 - part of every job, and not of its growth

    # What any listing needs is there before the figures begin: 4,096 rows, written as one shard.
    write_manifest(
        (Row(f"{i}", uri=f"s3://x/{i}") for i in range(5000)), Storage.open(f"{folder}/warm"), uri="x"
    )
    before = peak_bytes()
    started = time.perf_counter()
    if kind == "list":
        count = sum(1 for _ in open_source(Source(uri=uris[kind])).rows())
    elif kind == "update":

        def rows(etag: str) -> Iterator[Row]:
            for i in range(n_rows):
                yield Row(f"{i:08}", uri=f"s3://x/{i}", etag="1" if i % 100 else etag)

        first = write_manifest(rows("1"), storage, uri="x")
        started = time.perf_counter()
        count = update_manifest(first, rows("2"), storage).n_rows
    else:
        listing = open_source(Source(uri=uris[kind]))
        count = write_manifest(listing.rows(), storage, uri=listing.uri).n_rows
    assert count == n_rows, (count, n_rows)
    return {"seconds": time.perf_counter() - started, "before": before, "peak": peak_bytes()}


def measured(kind: str, n_rows: int, folder: str, address: str) -> dict[str, float]:
    """Do ``work`` in a process of its own."""
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        # Threads of obstore would otherwise each keep an arena of memory of their own.
        "MALLOC_ARENA_MAX": "2",
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.batch_listing", "--work", kind, str(n_rows), folder],
        env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def lay(kind: str, n_rows: int, folder: str) -> None:
    """Make what is listed."""
    if kind == "folder":
        for start in range(0, n_rows, 250_000):
            below = Path(folder, f"files-{n_rows}", f"{start // 250_000:02}")
            below.mkdir(parents=True)
            for i in range(start, min(start + 250_000, n_rows)):
                os.close(os.open(below / f"{i:08}.jpg", os.O_CREAT | os.O_WRONLY))
                os.truncate(below / f"{i:08}.jpg", 1)
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetWriter(
            f"{folder}/t-{n_rows}.parquet", pa.schema([("id", pa.string()), ("image", pa.string())])
        ) as writer:
            for start in range(0, n_rows, 10_000):
                # In no order, so that every id has to be remembered.
                ids = [f"{(i * 7919) % n_rows:08}" for i in range(start, start + 10_000)]
                writer.write_table(pa.table({"id": ids, "image": [f"s3://x/{one}.jpg" for one in ids]}))
    elif kind == "jsonl":
        with open(f"{folder}/t-{n_rows}.jsonl", "w") as file:
            for i in range(n_rows):
                file.write(
                    json.dumps({"id": f"{(i * 7919) % n_rows:08}", "text": "a few words", "n": i}) + "\n"
                )


def fetching(folder: str, n_files: int) -> list[Bar]:
    """Measure what fetching adds to reading files one after the other."""
    from manyeyes.service.jobs.manifests.fetch import Fetcher
    from manyeyes.service.jobs.shapes import Source
    from manyeyes.service.jobs.sources import open_source

    files = Path(folder, "photos")
    files.mkdir()
    for i in range(n_files):
        (files / f"{i:06}.jpg").write_bytes(os.urandom(64) * 400)
    rows = list(open_source(Source(uri=str(files))).rows())
    paths = [str(path) for path in sorted(files.iterdir())]
    direct: list[float] = []
    fetched: list[float] = []
    with Fetcher() as fetcher:
        for _ in range(5):
            started = time.perf_counter()
            for path in paths:
                with open(path, "rb") as file:
                    file.read()
            direct.append(time.perf_counter() - started)
            started = time.perf_counter()
            for _, got, _ in fetcher.fetch(rows, attempts=1):
                assert isinstance(got, bytes)
            fetched.append(time.perf_counter() - started)
    per_row = [1e6 * min(times) / n_files for times in (direct, fetched)]
    return [
        told("reading a file of 26 kB directly", per_row[0], unit="µs"),
        told("fetching it: read ahead, checked, in order", per_row[1], unit="µs", peer="directly"),
    ]


def main() -> int:
    """Measure and show."""
    parser = arguments(__doc__)
    parser.add_argument("--only", choices=["list", *KINDS, "fetch"], help="one part of it")
    parser.add_argument("--serve", type=int)
    parser.add_argument("--work", nargs=3)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve)
        return 0
    if args.work is not None:
        print(json.dumps(work(args.work[0], int(args.work[1]), args.work[2])))
        return 0
    large = LARGE // 10 if args.quick else LARGE
    bars: list[Bar] = []
    with tempfile.TemporaryDirectory() as folder, many_keys(SMALL) as few, many_keys(large) as many:
        figures: dict[tuple[str, int], dict[str, Any]] = {}
        kinds = [kind for kind in ("list", *KINDS) if args.only in (None, kind)]
        for kind in kinds:
            for n_rows, address in ((SMALL, few), (large, many)):
                lay(kind, n_rows, folder)
                figures[kind, n_rows] = measured(kind, n_rows, folder, address)
        if "list" in kinds:
            listed = figures["list", large]
            bars.append(
                at_most(f"peak while {large:,} keys are listed", listed["peak"] / _MIB, 200, unit="MiB")
            )
            bars.append(told(f"listing {large:,} keys", listed["seconds"], unit="s"))
        for kind in kinds[kinds[:1] == ["list"] :]:
            ratio = figures[kind, large]["peak"] / figures[kind, SMALL]["peak"]
            bars.append(at_most(f"{kind}: peak at {large:,} rows over {SMALL:,}", ratio, 1.1))
            bars.append(
                told(f"{kind}: peak at {large:,} rows", figures[kind, large]["peak"] / _MIB, unit="MiB")
            )
            bars.append(told(f"{kind}: rows a second", large / figures[kind, large]["seconds"], unit="/s"))
        if args.only in (None, "fetch"):
            bars += fetching(folder, 2000 if args.quick else 10_000)
    return show("listing and fetching of jobs", bars, as_json=args.json)


if __name__ == "__main__":
    sys.exit(main())
