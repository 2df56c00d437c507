"""Jobs over HTTP as they are: a service in a process of its own, a real S3 server, and kill -9 in the middle."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from manyeyes import Client, Item, Labeler, Recipe
from manyeyes.errors import AddressRefused, FetchFailed
from manyeyes.types import Label
from tests.service.jobs.over_http.conftest import ADMIN, photo

LOOKS = """
name: looks
classes: [red, blue, green]
label_model: dawid_skene
primitives: {toy: {}}
lfs:
  - {name: looks, kind: prompt, using: toy, prompts: {red: red, green: green, blue: blue}, threshold: 0.2}
  - {name: says, kind: keyword, on: text, votes: {red: [crimson], green: [lime], blue: [navy]}}
  - {name: shelf, kind: metadata, when: "shelf == 'R'", vote: red}
"""
SAID = {"red": "a crimson wall", "green": "a lime wall", "blue": "a navy wall"}


class Server:
    """``manyeyes serve`` in a process of its own, which may be killed and started again."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.folder = folder
        self.environ = os.environ | environ | {"MANYEYES_PORT": str(port), "OMP_NUM_THREADS": "1"}
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-c", "from manyeyes.cli import main; main()", "serve"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=self.environ)
        deadline = time.monotonic() + 60
        while True:
            assert self.process.poll() is None and time.monotonic() < deadline, self.log()
            try:
                if httpx.get(f"{self.url}/healthz", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=10)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")

    def children(self) -> list[int]:
        """Return the processes of jobs that this server has started."""
        children = psutil.Process(self.process.pid).children()
        return [one.pid for one in children if "manyeyes.service.jobs.serving.child" in one.cmdline()]


@pytest.fixture
def serve(tmp_path: Path, buckets_file: Path, recipes: Path) -> Iterator[Callable[..., Server]]:
    """Return what starts a service; more: variables."""
    started: list[Server] = []

    def start(**more: str) -> Server:
        environ = {
            "MANYEYES_RECIPES_DIR": str(recipes),
            "MANYEYES_STORE_URL": f"sqlite:///{tmp_path}/service.db",
            "MANYEYES_BUCKETS_FILE": str(buckets_file),
            "MANYEYES_API_KEYS": ADMIN,
            "MANYEYES_JOBS_LEASE_S": "2",
            "MANYEYES_MAX_WAIT_S": "60",
        }
        started.append(Server(tmp_path, environ | more))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.stop()


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    return serve()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, api_key=ADMIN, timeout_s=60) as made:
        yield made


def some_items(n_items: int, *, wrong: int = 7) -> list[Item]:
    """Return photos of three colours, every second with a text, which is that of another one for some."""
    items = []
    for n in range(n_items):
        colour = ("red", "green", "blue")[n % 3]
        said = SAID["blue" if n % wrong == 0 else colour]
        shelf = {"shelf": "R"} if n % 5 == 0 else {}
        items.append(
            Item(f"{n:04}-{colour}.png", image=photo(colour, n), text=said if n % 2 else None, metadata=shelf)
        )
    return items


def put(s3: Any, prefix: str, items: list[Item]) -> None:
    """Put items below a prefix: the image, its text and its metadata beside it, as jobs read them."""
    for item in items:
        stem = item.id.removesuffix(".png")
        s3.put_object(Bucket="photos", Key=f"{prefix}/{item.id}", Body=item.image)
        if item.text is not None:
            s3.put_object(Bucket="photos", Key=f"{prefix}/{stem}.txt", Body=item.text.encode())
        if item.metadata:
            s3.put_object(
                Bucket="photos", Key=f"{prefix}/{stem}.json", Body=json.dumps(item.metadata).encode()
            )


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recipe and its fitted label model."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "looks.yaml").write_text(LOOKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MANYEYES_HOME", str(folder / "home"))
        labeler = Labeler(Recipe.load(folder / "looks.yaml"))
        labeler.fit(some_items(90, wrong=3)).save_label_model(folder / "looks.label_model")
    return folder


def told(label: Label) -> dict[str, Any]:
    return label.to_dict()


@pytest.mark.slow
def test_a_job_and_a_call_give_the_same_labels_with_a_fitted_label_model(
    s3: Any, client: Client, tmp_path: Path
) -> None:
    items = some_items(45)
    put(s3, "parity", items)
    s3.put_object(Bucket="photos", Key="parity/zz-broken.png", Body=b"\x89PNG\r\n\x1a\nno more")
    called = client.label([*items, Item("zz-broken.png", image=b"\x89PNG\r\n\x1a\nno more")], recipe="looks")
    job = client.jobs.submit("s3://photos/parity", recipe="looks", out="s3://labels/all/parity", shard_rows=7)
    job.wait(timeout_s=120)
    assert (job.counts.total, job.counts.completed, job.counts.failed) == (46, 45, 1)
    assert [told(label) for label in job.labels()] == [told(label) for label in called]
    assert len({label.confidence for label in called}) > 3, "labels that could differ"
    fitted = client.jobs.submit(
        "s3://photos/parity", recipe="looks", out="s3://labels/all/parity-fit", fit=True, shard_rows=7
    ).wait(timeout_s=120)
    assert [told(label) for label in fitted.labels()] != [told(label) for label in called]
    addressed = [replace(item, image=f"s3://photos/parity/{item.id}") for item in items]
    sent = client.jobs.submit(addressed, recipe="looks", out="s3://labels/all/parity-items")
    sent.wait(timeout_s=120)
    assert [told(label) for label in sent.labels()] == [told(label) for label in called][:-1]


@pytest.mark.slow
def test_the_process_of_a_job_and_the_service_are_killed_and_nothing_is_lost_or_twice(
    s3: Any, server: Server, client: Client
) -> None:
    items = some_items(240)
    put(s3, "killed", items)
    call: dict[str, Any] = {"recipe": "looks", "shard_rows": 4}
    job = client.jobs.submit("s3://photos/killed", out="s3://labels/all/killed", **call)
    kills = 0
    for n in range(4):
        deadline = time.monotonic() + 60
        wanted = 5 + 12 * n
        while (progress := job.refresh().state.progress) is None or progress.shards_done < wanted:
            if job.state.is_final:
                break
            assert time.monotonic() < deadline, server.log()[-3000:]
            time.sleep(0.05)
        if job.state.is_final:
            break
        if n % 2 == 0:
            for pid in server.children():
                os.kill(pid, signal.SIGKILL)
        else:
            orphans = server.children()
            server.kill()
            server.start()
            assert orphans
        kills += 1
    assert kills >= 2
    job.wait(timeout_s=200)
    assert (job.counts.total, job.counts.completed, job.counts.failed) == (240, 240, 0)
    labels = list(job.labels())
    assert [label.id for label in labels] == [item.id for item in items]
    whole = client.jobs.submit("s3://photos/killed", out="s3://labels/all/whole", **call).wait(timeout_s=200)

    def published(folder: str) -> dict[str, bytes]:
        listed = s3.list_objects_v2(Bucket="labels", Prefix=f"all/{folder}/labels/")["Contents"]
        return {
            one["Key"].rpartition("/")[2]: s3.get_object(Bucket="labels", Key=one["Key"])["Body"].read()
            for one in listed
        }

    assert whole.status == "completed"
    assert published("killed") == published("whole")
    numbers = [event.number for event in job.events() if event.number is not None]
    assert numbers == list(range(1, len(numbers) + 1))
    statuses = [event.data["status"] for event in job.events() if event.kind == "status"]
    assert statuses == ["validating", "in_progress", "finalizing", "completed"]
    deadline = time.monotonic() + 30
    while [one for one in psutil.process_iter(["cmdline"]) if _is_orphan(one, server)]:
        assert time.monotonic() < deadline, "processes of jobs are left over"
        time.sleep(0.2)


def _is_orphan(process: psutil.Process, server: Server) -> bool:
    try:
        mine = process.environ().get("MANYEYES_PORT") == server.environ["MANYEYES_PORT"]
        return mine and process.pid != server.process.pid and process.ppid() != server.process.pid
    except psutil.Error:
        return False


@pytest.mark.slow
def test_a_service_that_stops_leaves_its_job_to_the_next_start(
    s3: Any, server: Server, client: Client
) -> None:
    put(s3, "drained", items := some_items(160))
    job = client.jobs.submit(
        "s3://photos/drained", recipe="looks", out="s3://labels/all/drained", shard_rows=4
    )
    while job.refresh().status != "in_progress":
        assert not job.state.is_final
        time.sleep(0.05)
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 25
    assert "Traceback" not in server.log()
    server.start()
    assert job.wait(timeout_s=120).status == "completed"
    assert job.counts.completed == len(items)
    assert not [line for line in job.logs() if line.level == "warning"], "a stop in good order is no crash"


@pytest.mark.slow
def test_cancelled_in_the_middle_and_gone_on_with_later(s3: Any, client: Client) -> None:
    put(s3, "cancelled", some_items(200))
    job = client.jobs.submit(
        "s3://photos/cancelled", recipe="looks", out="s3://labels/all/cancelled", shard_rows=4
    )
    while (progress := job.refresh().state.progress) is None or progress.shards_done < 3:
        time.sleep(0.05)
    assert job.cancel().status in ("cancelling", "cancelled")
    assert job.wait(timeout_s=60).status == "cancelled"
    assert job.retry().status == "validating"
    assert job.wait(timeout_s=120).status == "completed"
    assert (job.counts.completed, job.state.cancelled_at) == (200, None)


@pytest.mark.slow
def test_rows_that_name_what_is_not_the_operators_are_errors_and_secrets_are_nowhere(
    s3: Any, server: Server, client: Client, tmp_path: Path
) -> None:
    s3.put_object(Bucket="photos", Key="hostile/ok.png", Body=photo("red"))
    rows = [
        {"id": "ok", "image": "s3://photos/hostile/ok.png"},
        {"id": "beside", "image": "ok.png"},
        {"id": "file", "image": "file:///etc/passwd"},
        {"id": "path", "image": "/etc/passwd"},
        {"id": "up", "image": "../../secrets/all/red.png"},
        {"id": "bucket", "image": "s3://secrets/all/red.png"},
        {"id": "meta", "image": "http://169.254.169.254/latest/meta-data/"},
        {"id": "local", "image": f"{s3.meta.endpoint_url}/secrets/all/red.png"},
        {"id": "web", "image": "https://example.org/a.png"},
        {"id": "text", "image": None, "text": "a crimson wall"},
    ]
    body = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    s3.put_object(Bucket="photos", Key="hostile/table.jsonl", Body=body)
    job = client.jobs.submit(
        "s3://photos/hostile/table.jsonl", recipe="looks", out="s3://labels/all/hostile", max_error_rate=1.0
    ).wait(timeout_s=60)
    labels = {label.id: label for label in job.labels()}
    assert {id for id, label in labels.items() if label.error is None} == {"ok", "beside", "text"}
    for id in ("file", "bucket", "meta", "local", "web"):
        assert isinstance(labels[id].error, AddressRefused), (id, labels[id].error)
    for one in s3.list_objects_v2(Bucket="labels", Prefix="all/hostile/")["Contents"]:
        data = s3.get_object(Bucket="labels", Key=one["Key"])["Body"].read()
        for secret in (b"a-secret-of-buckets", ADMIN.encode(), b"an-id"):
            assert secret not in data, one["Key"]
    for secret in ("a-secret-of-buckets", ADMIN):
        assert secret not in server.log()
    assert not re.search(r"root:.*:0:0", server.log())


@pytest.mark.slow
def test_a_wrong_place_fails_in_seconds_and_says_so(s3: Any, client: Client) -> None:
    began = time.monotonic()
    job = client.jobs.submit("s3://photos/nothing-here", recipe="looks", out="s3://labels/all/nothing")
    with pytest.raises(Exception, match=r"holds nothing|nothing to label") as caught:
        job.wait(timeout_s=60)
    assert caught.value.code in ("invalid_source", "invalid_request")  # type: ignore[attr-defined]
    assert time.monotonic() - began < 20


class Site(BaseHTTPRequestHandler):
    """A host that is busy until it is told not to be."""

    is_busy = True

    def do_GET(self) -> None:
        self.send_response(503 if Site.is_busy else 200)
        body = b"" if Site.is_busy else photo("blue")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.slow
def test_rows_whose_failure_passed_are_retried_and_no_others(serve: Callable[..., Server], s3: Any) -> None:
    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    host = f"127.0.0.1:{site.server_address[1]}"
    server = serve(MANYEYES_FETCH_HOSTS=host, MANYEYES_FETCH_HTTP="1", MANYEYES_FETCH_NETWORKS="127.0.0.0/8")
    s3.put_object(Bucket="photos", Key="retried/red.png", Body=photo("red"))
    s3.put_object(Bucket="photos", Key="retried/broken.png", Body=b"no image")
    items = [
        Item("red", image="s3://photos/retried/red.png"),
        Item("web", image=f"http://{host}/blue.png"),
        Item("broken", image="s3://photos/retried/broken.png"),
        Item("other", image="http://127.0.0.1:1/blue.png"),
    ]
    with Client(server.url, api_key=ADMIN) as client:
        job = client.jobs.submit(
            items, recipe="looks", out="s3://labels/all/retried", attempts=1, max_error_rate=1
        ).wait(timeout_s=60)
        first = {label.id: label for label in job.labels()}
        assert (job.counts.completed, job.counts.failed) == (1, 3)
        assert isinstance(first["web"].error, FetchFailed)
        assert isinstance(first["other"].error, AddressRefused)
        Site.is_busy = False
        assert job.retry().wait(timeout_s=60).status == "completed"
        second = {label.id: label for label in job.labels()}
        assert (job.counts.completed, job.counts.failed) == (2, 2)
        assert second["web"].label == "blue"
        assert second["red"].to_dict() == first["red"].to_dict()
        assert job.retry().wait(timeout_s=60).status == "completed", "nothing is left that may pass"
        assert any("nothing is tried again" in line.message for line in job.logs())
    site.shutdown()
    site.server_close()
