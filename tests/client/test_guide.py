"""docs/guide_sdk.md, run as it stands: the service by its command, then every block, top to bottom."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from PIL import Image

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "guide_sdk.md"


def _blocks(*languages: str) -> list[str]:
    found = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), flags=re.M | re.S)
    return [code for language, code in found if language in languages]


def _lines(code: str) -> list[str]:
    return [line for line in code.splitlines() if line.strip() and not line.lstrip().startswith("#")]


@pytest.fixture
def buckets_file(working_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Write the file of buckets that docs/jobs.md shows, for an S3 server with three photos."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    place = {"endpoint_url": f"http://{host}:{port}", "region_name": "eu-central-1"}
    s3 = boto3.client("s3", **place, aws_access_key_id="id", aws_secret_access_key="secret")
    # All its servers in a process share what they hold.
    httpx.post(f"{place['endpoint_url']}/moto-api/reset", trust_env=False)
    for bucket in ("photos", "labels"):
        s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
    for n, colour in enumerate(("red", "blue", "red")):
        stream = io.BytesIO()
        Image.new("RGB", (8 + n, 8), colour).save(stream, "PNG")
        s3.put_object(Bucket="photos", Key=f"2026/{colour}-{n}.png", Body=stream.getvalue())
    monkeypatch.setenv("JOBS_KEY_ID", "id")
    monkeypatch.setenv("JOBS_SECRET", "secret")
    text = PAGE.with_name("jobs.md").read_text("utf-8").partition("## Over HTTP")[2]
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", text.partition("\n## ")[0], flags=re.M | re.S)
    told = {
        name: bucket | {"endpoint": place["endpoint_url"]} for name, bucket in yaml.safe_load(shown).items()
    }
    file = working_directory / "buckets.yaml"
    file.write_text(yaml.safe_dump(told))
    yield file
    s3.close()
    server.stop()


@pytest.fixture
def served(working_directory: Path, buckets_file: Path) -> Iterator[str]:
    """Run the command of the guide; give the service's address."""
    (command,) = [line for line in _lines(_blocks("sh")[0]) if line.startswith("manyeyes ")]
    run = [sys.executable, "-c", "from manyeyes.cli import main; main()", *command.split()[1:]]
    environ = os.environ | {
        "MANYEYES_PORT": "0",
        "MANYEYES_HOME": str(working_directory / "home"),
        "MANYEYES_BUCKETS_FILE": str(buckets_file),
    }
    with subprocess.Popen(run, stderr=subprocess.PIPE, env=environ, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if found := re.search(r"listening on (http://127\.0\.0\.1:\d+)", line):
                    break
            else:
                pytest.fail("the service did not start")
            # Nobody reads what follows, and a full pipe would stop the service.
            with subprocess.Popen(["cat"], stdin=process.stderr, stdout=subprocess.DEVNULL):
                yield found[1]
                process.terminate()
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.mark.slow
def test_the_guide_runs_from_top_to_bottom(served: str, capsys: pytest.CaptureFixture[str]) -> None:
    from skimage import data

    Image.fromarray(data.chelsea()).save("cat.jpg", quality=95)
    Image.new("RGB", (8, 8), "red").save("red.png")
    names: dict[str, object] = {"__name__": "guide"}
    told: list[str] = []
    for code in _blocks("python"):
        code = code.replace("http://127.0.0.1:8000", served)
        exec(compile(code, str(PAGE), "exec", dont_inherit=True), names)
        told.append(capsys.readouterr().out)
        assert told[-1], f"this block says nothing:\n{code}"
    names["client"].close()  # type: ignore[attr-defined]
    first, sent, back, why, votes, recipes, fits, many, tables, job, again, errors, retries, later, tests = (
        told
    )
    assert [line.split()[:2] for line in first.splitlines()] == [["cat.jpg", "cat"], ["item-1", "dog"]]
    assert [line.split()[2] for line in sent.splitlines()] == ["red", "blue", "red", "red", "red", "None"]
    assert "address_refused" in sent
    assert "says_blue" in back and "prob_red" in back
    assert "item-1: blue rather than red" in why
    assert "[[-1  1 -1 -1]\n [ 0 -1 -1 -1]]" in votes
    assert "scarlet" in recipes and recipes.splitlines()[-1] == "red"
    assert fits.count("1.0") >= 2 and fits.splitlines()[-1].startswith("dawid_skene")
    assert many == "Counter({'blue': 1333, 'red': 667}) 2000 done, 0 errors\n"
    assert "A3" in tables and "unreadable_item" in tables
    assert job.startswith("completed 3 0 s3://labels/jobs/2026/labels/\nCounter({'red': 2, 'blue': 1})")
    assert "the job is completed" in job
    assert again.splitlines()[-2:] == ["None end completed", "['completed']"]
    assert errors.startswith("recipe_not_found 404 True") and "did you mean 'paint'" in errors
    assert retries.split()[:3] == ["True", "True", "True"]
    assert later.startswith("red blue\n['paint']")
    assert tests == "as told\n"


def test_the_first_label_takes_fewer_than_ten_lines() -> None:
    """From ``pip install`` to the first label: the shell's lines and Python's, blank ones and comments left out."""
    shell, python = _lines(_blocks("sh")[0]), _lines(_blocks("python")[0])
    assert shell[0].startswith("pip install") and shell[1].startswith("manyeyes serve")
    assert "client.label(" in "\n".join(python) and "print(" in python[-1]
    assert len(shell) + len(python) < 10
