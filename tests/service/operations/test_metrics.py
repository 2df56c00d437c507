"""What /metrics tells: parsed as Prometheus parses it, counted right, bounded, and closed to strangers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from manyeyes.service.app import create_app
from manyeyes.service.operations.metrics import MAX_LINES, MAX_VOTE_SERIES, Metrics
from manyeyes.service.operations.observer import Observer
from manyeyes.service.operations.processes import descendants
from manyeyes.service.settings import ServiceSettings

KEY = "a key of at least sixteen characters"
CALL = {"recipe": "paint", "items": [{"text": "a crimson wall"}, {"text": "a navy wall"}, {"text": "?"}]}


def told(page: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Return what a page says: name → labels → value."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in parse(page):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def one(found: dict[str, Any], name: str, **labels: str) -> float:
    return found.get(name, {}).get(tuple(sorted(labels.items())), 0.0)


def filled() -> Metrics:
    """Return metrics of which every one has been told something."""
    metrics = Metrics()
    watching: Observer = metrics
    watching.queued("clip", 3)
    watching.waited("clip", 0.02)
    watching.inferred("clip", 3, 0.2)
    watching.decoded(0.01)
    watching.lost(2, "gone")
    watching.voted("paint", {"looks": {"red": 2, "abstain": 1}})
    watching.restarted("clip")
    metrics.answered("/v1/label", "POST", 200, 0.3)
    metrics.problem("overloaded")
    metrics.queried("select", 0.001, failed=True)
    metrics.checked({"store": True, "pipeline": False})
    metrics.sang("clip", 0.1, failed=True)
    return metrics


def test_names_are_as_prometheus_wants_them() -> None:
    page = filled().page()[0].decode()
    families = {family.name: family for family in parse(page)}
    ours = {name: family for name, family in families.items() if name.startswith("manyeyes_")}
    assert len(ours) >= 20
    for name, family in ours.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert family.documentation.endswith((".", "1 or 0.")), name
        assert "_milliseconds" not in name and "_ms" not in name
        assert f"# TYPE {name}{'_total' if family.type == 'counter' else ''} {family.type}" in page
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), name
    assert not any(name.endswith("_created") for name in told(page))
    list(parse_openmetrics(filled().page("application/openmetrics-text; version=1.0.0")[0].decode()))


def test_promtool_finds_nothing() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed here (Debian: the package prometheus)")
    done = subprocess.run([promtool, "check", "metrics"], input=filled().page()[0], capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_every_number_is_the_one_that_was_told() -> None:
    found = told(filled().page()[0].decode())
    assert one(found, "manyeyes_queue_items", line="clip") == 3
    assert one(found, "manyeyes_queue_wait_seconds_sum", line="clip") == 0.02
    assert one(found, "manyeyes_batch_items_bucket", line="clip", le="2.0") == 0
    assert one(found, "manyeyes_batch_items_bucket", line="clip", le="4.0") == 1
    assert one(found, "manyeyes_inference_seconds_sum", line="clip") == 0.2
    assert one(found, "manyeyes_decode_seconds_count") == 1
    assert one(found, "manyeyes_dropped_items_total", reason="gone") == 2
    assert one(found, "manyeyes_dropped_items_total", reason="expired") == 0
    assert one(found, "manyeyes_votes_total", recipe="paint", lf="looks", vote="red") == 2
    assert one(found, "manyeyes_votes_total", recipe="paint", lf="looks", vote="abstain") == 1
    assert one(found, "manyeyes_stage_restarts_total", stage="clip") == 1
    assert one(found, "manyeyes_http_problems_total", code="overloaded") == 1
    assert one(found, "manyeyes_store_errors_total", operation="select") == 1
    assert one(found, "manyeyes_ready_check", check="store") == 1
    assert (one(found, "manyeyes_ready"), one(found, "manyeyes_ready_check", check="pipeline")) == (0, 0)
    assert one(found, "process_resident_memory_bytes") > 10**6


def test_two_apps_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.decoded(1)
    assert one(told(second.page()[0].decode()), "manyeyes_decode_seconds_count") == 0


def test_nobody_makes_series_without_end() -> None:
    metrics = Metrics()
    for n in range(MAX_LINES + 50):
        metrics.queued(f"line-{n}", 1)
    for n in range(MAX_VOTE_SERIES + 50):
        metrics.voted(f"recipe-{n}", {"lf": {"red": 1}})
    for n in range(50):
        metrics.answered("/v1/label", f"BREW{n}", 405, 0.1)
    found = told(metrics.page()[0].decode())
    assert len(found["manyeyes_queue_items"]) == MAX_LINES + 1
    assert len(found["manyeyes_votes_total"]) == MAX_VOTE_SERIES + 1
    assert one(found, "manyeyes_votes_total", recipe="other", lf="other", vote="other") == 50
    assert one(found, "manyeyes_http_requests_total", route="/v1/label", method="other", status="405") == 50


def test_many_threads_count_every_vote() -> None:
    metrics = Metrics()

    def vote() -> None:
        for n in range(500):
            metrics.voted("paint", {f"lf{n % 7}": {"red": 1}})

    threads = [threading.Thread(target=vote) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(told(metrics.page()[0].decode())["manyeyes_votes_total"].values()) == 4000


def test_children_are_seen_with_their_memory() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        while len(descendants(os.getpid())) < 2:
            assert child.poll() is None
        found = told(Metrics().page()[0].decode())
        assert one(found, "manyeyes_decode_processes") >= 2
        assert one(found, "manyeyes_decode_processes_resident_memory_bytes") > 10**5
    finally:
        child.communicate(b"\n")
    assert child.pid not in descendants(os.getpid())


@pytest.fixture
def ask() -> Callable[..., httpx.Response]:
    """Return what sends a request to an app, in this process."""

    def ask(app: Any, method: str, path: str, **more: Any) -> httpx.Response:
        import anyio

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **more)

        return anyio.run(send)

    return ask


def test_a_scrape_needs_a_key_that_may_read(ask: Callable[..., httpx.Response]) -> None:
    app = create_app(ServiceSettings(api_keys=f"{KEY}=read,{KEY}2=label"))
    assert ask(app, "GET", "/metrics").status_code == 401
    assert ask(app, "GET", "/metrics", headers={"X-Api-Key": f"{KEY}2"}).status_code == 403
    allowed = ask(app, "GET", "/metrics", headers={"Authorization": f"Bearer {KEY}"})
    assert allowed.status_code == 200
    assert allowed.headers["content-type"].startswith("text/plain; version=")
    assert KEY not in allowed.text
    opened = create_app(ServiceSettings(api_keys=KEY, open_metrics=True))
    assert ask(opened, "GET", "/metrics").status_code == 200


def test_what_is_refused_is_counted_under_its_route(ask: Callable[..., httpx.Response]) -> None:
    app = create_app(ServiceSettings(api_keys=KEY, open_metrics=True))
    for path in ("/v1/recipes/one", "/v1/recipes/two"):
        assert ask(app, "GET", path).status_code == 401
    for n in range(5):
        ask(app, "GET", f"/nothing/{n}")
    found = told(ask(app, "GET", "/metrics").text)
    refused = {"method": "GET", "status": "401"}
    assert one(found, "manyeyes_http_requests_total", route="/v1/recipes/{name}", **refused) == 2
    assert one(found, "manyeyes_http_requests_total", route="(none)", **refused) == 5
    assert one(found, "manyeyes_http_problems_total", code="access_denied") == 7
    assert one(found, "manyeyes_http_requests_in_progress") == 1


def test_a_call_moves_the_counters(url: str) -> None:
    def page() -> dict[str, Any]:
        return told(httpx.get(f"{url}/metrics").text)

    before = page()
    for _ in range(2):
        assert httpx.post(f"{url}/v1/label", json=CALL).status_code == 200
    after = page()
    labels = {"route": "/v1/label", "method": "POST"}
    counted = [one(p, "manyeyes_http_requests_total", status="200", **labels) for p in (before, after)]
    assert counted[1] - counted[0] == 2
    assert one(after, "manyeyes_http_request_duration_seconds_count", **labels) >= 2
    assert one(after, "manyeyes_http_request_duration_seconds_sum", **labels) > 0
