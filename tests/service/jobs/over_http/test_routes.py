"""Jobs over HTTP: what may be asked for, who sees what, and what is told."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from manyeyes.service.app import create_app
from manyeyes.service.jobs.shapes import JobRequest
from manyeyes.service.operations.processes import descendants
from manyeyes.service.schemas.jobs import JobLog, JobOut
from manyeyes.service.settings import ServiceSettings
from tests.service.jobs.over_http.conftest import ADMIN, PAINT

CODE = {"name": "c", "kind": "python", "function": "os:getcwd"}
CALL: dict[str, Any] = {"recipe": "paint", "source": "s3://photos/2026", "out": "s3://labels/all/a"}


@pytest.fixture
def http(settings_of: Callable[..., ServiceSettings], played: Callable[..., None]) -> Iterator[TestClient]:
    with TestClient(create_app(settings_of(api_keys=ADMIN)), headers={"X-Api-Key": ADMIN}) as client:
        yield client


def key(http: TestClient, *scopes: str) -> dict[str, str]:
    made = http.post("/v1/keys", json={"name": "k", "scopes": list(scopes)}).json()
    return {"X-Api-Key": made["secret"]}


def until(http: TestClient, id: str, *statuses: str, timeout_s: float = 20) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    while True:
        job: dict[str, Any] = http.get(f"/v1/jobs/{id}").json()
        if job["status"] in statuses:
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.05)


def starts(tmp_path: Path) -> list[dict[str, Any]]:
    file = tmp_path / "starts.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_job_from_the_call_to_its_end(http: TestClient, tmp_path: Path) -> None:
    made = http.post("/v1/jobs", json=CALL | {"metadata": {"team": "x"}, "shard_rows": 10, "same_rows": True})
    assert made.status_code == 201
    id = made.json()["id"]
    assert made.headers["location"] == f"/v1/jobs/{id}"
    JobOut.model_validate(made.json())
    assert made.json()["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
    job = until(http, id, "completed")
    JobOut.model_validate(job)
    assert job["request_counts"] == {"total": 100, "completed": 27, "failed": 3}
    assert job["metadata"] == {"team": "x"}
    assert job["in_progress_at"] and job["completed_at"] and not job["failed_at"]
    assert job["output"] == {
        "uri": "s3://labels/all/a",
        "job": "core0",
        "labels": "s3://labels/all/a/labels/",
    }
    (start,) = starts(tmp_path)
    asked = JobRequest.model_validate(start["task"]["request"])
    assert (
        asked.shard_rows == 10 and asked.source.uri == "s3://photos/2026" and asked.recipe["name"] == "paint"
    )
    assert asked.same_rows
    assert not {"MANYEYES_API_KEYS", "MANYEYES_STORE_URL"} & set(start["environ"])
    assert "a-secret-of-buckets" not in json.dumps(start["task"])
    assert ADMIN not in json.dumps(start["task"])
    log = http.get(f"/v1/jobs/{id}/logs?limit=2").json()
    JobLog.model_validate(log)
    assert log["has_more"] and log["data"][0]["message"] == "the job is validating"
    rest = http.get(f"/v1/jobs/{id}/logs?cursor={log['next_cursor']}").json()
    assert rest["data"][-1]["message"] == "the job is completed"
    assert not rest["has_more"]
    again = http.get(f"/v1/jobs/{id}", headers={"If-None-Match": http.get(f"/v1/jobs/{id}").headers["etag"]})
    assert again.status_code == 304
    listed = http.get("/v1/jobs?status=completed").json()
    assert [one["id"] for one in listed["data"]] == [id]
    assert http.get("/v1/jobs?status=failed").json()["data"] == []
    page = http.get("/metrics").text
    assert 'manyeyes_jobs_ended_total{status="completed"} 1.0' in page
    assert 'manyeyes_job_rows_total{outcome="done",pass="votes"} 27.0' in page
    assert 'manyeyes_jobs{status="in_progress"} 0.0' in page


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"source": "s3://secrets/all"}, 422, "address_refused"),
        ({"source": "/etc"}, 422, "address_refused"),
        ({"source": "file:///etc/passwd"}, 422, "address_refused"),
        ({"source": "http://169.254.169.254/list.txt"}, 422, "address_refused"),
        ({"source": "s3://photos/../secrets/all"}, 422, "address_refused"),
        ({"source": "s3://me:password@photos/a"}, 422, "address_refused"),
        ({"source": {"uri": "s3://photos/a", "join": {"table": "file:///etc/passwd"}}}, 422, "address_refused"),
        ({"gold": "/etc/passwd"}, 422, "address_refused"),
        ({"gold": "s3://secrets/gold.csv"}, 422, "address_refused"),
        ({"out": "s3://photos/out"}, 403, "not_permitted"),
        ({"out": "s3://labels/other"}, 422, "address_refused"),
        ({"out": "s3://labels/all/../other"}, 422, "address_refused"),
        ({"out": "/tmp/out"}, 422, "address_refused"),
        ({"out": "file:///tmp/out"}, 422, "address_refused"),
        ({"out": "memory://x"}, 422, "address_refused"),
        ({"out": "s3://labels/all/a/_manyeyes/jobs/x"}, 422, "invalid_request"),
        ({"recipe": "coded"}, 403, "untrusted_recipe"),
        ({"recipe": PAINT | {"lfs": [CODE]}}, 403, "untrusted_recipe"),
        ({"recipe": PAINT | {"primitives": {"clip": {"model": "/etc/model.pt"}}}}, 403, "untrusted_recipe"),
        ({"recipe": "none"}, 404, "recipe_not_found"),
        ({"recipe": {"name": "x"}}, 422, "invalid_recipe"),
        ({"source": None}, 422, "invalid_request"),
        ({"items": [{"id": "a", "text": "red"}]}, 422, "invalid_request"),
        ({"source": None, "items": [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}]}, 422, "invalid_request"),
        ({"source": None, "items": [{"id": "a"}]}, 422, "invalid_request"),
        ({"source": None, "items": [{"id": "a", "image": "/etc/passwd"}]}, 422, "invalid_request"),
        ({"label_model": "/etc"}, 422, "invalid_request"),
        ({"shard_rows": 0}, 422, "invalid_request"),
        ({"attempts": 1000}, 422, "invalid_request"),
        ({"metadata": {"n": 1}}, 422, "invalid_request"),
        ({"metadata": {str(n): "x" for n in range(17)}}, 422, "invalid_request"),
        ({"engine": {"name": "ray"}}, 422, "invalid_request"),
        ({"engine": {"name": "ray", "address": "10.0.0.1:6379"}}, 422, "invalid_request"),
    ],
)  # fmt: skip
def test_what_is_refused(
    http: TestClient, tmp_path: Path, change: dict[str, Any], status: int, code: str
) -> None:
    answer = http.post("/v1/jobs", json=CALL | change)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert http.get("/v1/jobs").json()["data"] == []
    assert not starts(tmp_path)


def test_scopes_and_whose_job_it_is(http: TestClient, played: Callable[..., None]) -> None:
    played("wait")
    ours, others, reads = key(http, "label", "read"), key(http, "label", "read"), key(http, "read")
    assert http.post("/v1/jobs", json=CALL, headers=reads).status_code == 403
    id = http.post("/v1/jobs", json=CALL, headers=ours).json()["id"]
    assert http.get(f"/v1/jobs/{id}", headers=ours).status_code == 200
    for path in ("", "/logs", "/events", "/labels"):
        for other in (others, reads):
            assert http.get(f"/v1/jobs/{id}{path}", headers=other).status_code == 404
    for path in ("cancel", "retry"):
        assert http.post(f"/v1/jobs/{id}/{path}", headers=others).status_code == 404
        assert http.post(f"/v1/jobs/{id}/{path}", headers=reads).status_code == 403
    assert http.get("/v1/jobs", headers=others).json()["data"] == []
    assert len(http.get("/v1/jobs").json()["data"]) == 1
    http.post(f"/v1/jobs/{id}/cancel", headers=ours)
    until(http, id, "cancelled")
    audit = http.get(f"/v1/audit?subject=job:{id}").json()["data"]
    assert [line["action"] for line in audit] == ["job.cancel", "job.create"]


def test_a_key_has_so_many_jobs(
    settings_of: Callable[..., ServiceSettings], played: Callable[..., None]
) -> None:
    played("wait")
    with TestClient(create_app(settings_of(jobs_max_open=2))) as http:
        ids = [http.post("/v1/jobs", json=CALL).json()["id"] for _ in range(2)]
        refused = http.post("/v1/jobs", json=CALL)
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        assert refused.headers["retry-after"]
        for id in ids:
            http.post(f"/v1/jobs/{id}/cancel")
            until(http, id, "cancelled")
        assert http.post("/v1/jobs", json=CALL).status_code == 201


def test_the_same_call_with_a_key_of_idempotency_makes_one_job(http: TestClient, tmp_path: Path) -> None:
    answers = [http.post("/v1/jobs", json=CALL, headers={"Idempotency-Key": "once"}) for _ in range(3)]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert answers[1].headers["idempotency-replayed"] == "true"
    until(http, answers[0].json()["id"], "completed")
    assert len(starts(tmp_path)) == 1


def test_items_of_the_call_are_put_where_the_job_finds_them(
    http: TestClient, s3: Any, tmp_path: Path
) -> None:
    items = [{"id": "a", "text": "red"}, {"id": "b", "object": "s3://photos/a.png", "metadata": {"price": 3}}]
    call = {"recipe": "paint", "items": items, "out": "s3://labels/all/items"}
    first, second = (http.post("/v1/jobs", json=call).json() for _ in range(2))
    assert first["source"] is None
    until(http, second["id"], "completed")
    one, other = starts(tmp_path)
    assert one["task"]["request"] == other["task"]["request"], "the same call is the same job"
    uri = one["task"]["request"]["source"]["uri"]
    assert uri.startswith("s3://labels/all/items/_manyeyes/submitted/")
    body = s3.get_object(Bucket="labels", Key=uri.removeprefix("s3://labels/"))["Body"].read()
    assert [json.loads(line)["id"] for line in body.splitlines()] == ["a", "b"]


def test_without_a_store_there_are_no_jobs(settings_of: Callable[..., ServiceSettings]) -> None:
    with TestClient(create_app(settings_of(store_url="none"))) as http:
        assert http.post("/v1/jobs", json=CALL).status_code == 404
        assert http.get("/v1/jobs").status_code == 404


def test_without_buckets_there_is_nowhere_to_write(settings_of: Callable[..., ServiceSettings]) -> None:
    with TestClient(create_app(settings_of(buckets_file=None))) as http:
        refused = http.post("/v1/jobs", json=CALL)
        assert (refused.status_code, refused.json()["code"]) == (422, "address_refused")


def test_retry_and_what_cannot_be_retried(
    http: TestClient, played: Callable[..., None], tmp_path: Path
) -> None:
    played("shards", 1, "end", "failed")
    id = http.post("/v1/jobs", json=CALL).json()["id"]
    job = until(http, id, "failed")
    assert job["errors"]["data"] == [{"code": "storage_failed", "message": "the bucket is gone"}]
    assert job["failed_at"]
    assert http.get(f"/v1/jobs/{id}/labels").status_code == 404
    played("shards", 2, "end", "completed")
    again = http.post(f"/v1/jobs/{id}/retry")
    assert again.status_code == 200 and again.json()["errors"] is None and not again.json()["failed_at"]
    until(http, id, "completed")
    assert [start["task"]["wish"] for start in starts(tmp_path)] == ["run", "resume"]
    assert http.post(f"/v1/jobs/{id}/retry").status_code == 200
    until(http, id, "completed")
    assert starts(tmp_path)[-1]["task"]["wish"] == "retry"
    assert starts(tmp_path)[-1]["task"]["job"] == "core0"


def test_a_bucket_that_does_not_answer_is_no_fault_of_the_service(
    settings_of: Callable[..., ServiceSettings], buckets_file: Path, played: Callable[..., None]
) -> None:
    with buckets_file.open("a") as file:
        file.write("away: {url: 's3://away', write: true, endpoint: 'http://127.0.0.1:1', anonymous: true}\n")
    call = {"recipe": "paint", "items": [{"id": "a", "text": "red"}], "out": "s3://away/a"}
    with TestClient(create_app(settings_of())) as http:
        began = time.monotonic()
        refused = http.post("/v1/jobs", json=call)
        assert (refused.status_code, refused.json()["code"]) == (502, "storage_failed"), refused.text
        assert time.monotonic() - began < 40
        assert "127.0.0.1" not in refused.text
        assert http.get("/v1/jobs").json()["data"] == []
        assert http.get("/readyz").status_code == 200


def test_a_job_that_runs_leaves_the_service_ready(
    http: TestClient, played: Callable[..., None], tmp_path: Path
) -> None:
    played("shards", 1, "wait")
    id = http.post("/v1/jobs", json=CALL).json()["id"]
    until(http, id, "in_progress")
    assert http.get("/readyz").json()["status"] == "ready"
    page = http.get("/metrics").text
    assert (
        'manyeyes_jobs{status="in_progress"} 1.0' in page or 'manyeyes_jobs{status="validating"} 1.0' in page
    )
    (start,) = starts(tmp_path)
    assert start["pid"] not in descendants(os.getpid()), "a job's process is none that decodes"
    http.post(f"/v1/jobs/{id}/cancel")
    until(http, id, "cancelled")
