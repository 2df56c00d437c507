"""Jobs from the command line: run, stopped, gone on with, followed, retried, verified and exported."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from manyeyes.commands.job_progress import figures, shown, what
from manyeyes.service.jobs.datasets.dataset import Dataset
from manyeyes.service.jobs.places.storage import Storage
from manyeyes.service.jobs.shapes import Counts, Progress
from tests.service.jobs.faulty_s3 import faulty_s3
from tests.service.jobs.toy_jobs import RECIPE, n_commits, paint, wait_for, with_function
from tests.test_cli import call

SLOW = "import time\ndef vote(item):\n    time.sleep(0.05)\n    return None\n"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return paint(tmp_path / "photos", 30, broken={4})


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "paint.yaml"
    path.write_text(yaml.safe_dump(dict(RECIPE)))
    return path


def program(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "manyeyes.cli", *map(str, arguments)]
    env = os.environ | {"PYTHONPATH": str(cwd), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_a_folder_becomes_a_dataset(tmp_path: Path, photos: Path, recipe: Path) -> None:
    out = tmp_path / "out"
    done = program("job", "run", "photos", "-r", recipe, "-o", "out", "--shard-rows", "8", cwd=tmp_path)
    told, said = done.communicate(timeout=120)
    assert done.returncode == 0, said
    assert re.search(r"looks +blue, green, red +100\.0%", told)
    assert re.search(r"undecodable_image +1", told)
    assert "Wrote 30 rows (29 labeled, 0 abstained, 1 error) to" in said.replace("\n", " ")
    assert "30 rows are listed" in said or "is listed" in said
    assert len(Dataset.open(out)) == 30

    result = call("job", "status", out)
    assert re.search(r"status +completed", result.stdout)
    assert re.search(r"failed +1\b", result.stdout)
    assert json.loads(call("job", "status", out, "--json").stdout)["counts"]["labeled"] == 29
    lines = call("job", "logs", out, "--follow").stdout.splitlines()
    assert "completed: 30 rows" in lines[-1]
    events = [json.loads(line) for line in call("job", "logs", out, "--json").stdout.splitlines()]
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)
    (one,) = json.loads(call("job", "list", out, "--json").stdout)
    assert (one["status"], one["rows"], one["latest"], one["published"]) == ("completed", 30, True, True)
    assert one["job"] in call("job", "list", out).stdout
    assert "has ended already" in call("job", "cancel", out).stderr


def progress(**told: Any) -> Progress:
    given = {
        "job": "x",
        "status": "in_progress",
        "pass_": "votes",
        "shards_done": 1,
        "shards": 4,
        "counts": Counts(),
    }
    return Progress(**(given | told))


@pytest.mark.parametrize(
    ("how_far", "doing", "told"),
    [
        (
            progress(status="validating", shards=0, message="x is listed", n_rows=1234),
            "x is listed",
            "1,234 rows",
        ),
        (progress(status="validating", shards=0), "validating", ""),
        (progress(n_rows=4000), "seeing and voting", "1,000 of 4,000 rows"),
        (
            progress(n_rows=4000, counts=Counts(1000, failed=7), rows_per_s=12.4, eta_s=240.2),
            "seeing and voting",
            "1,000 of 4,000 rows, 7 failed, 12 rows/s, 0:04:00 left",
        ),
        (progress(status="finalizing", pass_="labels", shards_done=4, n_rows=9), "labeling", "9 of 9 rows"),
        (progress(status="cancelled", n_rows=9, shards_done=0), "cancelled", "0 of 9 rows"),
    ],
)
def test_how_far_a_job_is_reads_well(how_far: Progress, doing: str, told: str) -> None:
    assert (what(how_far), figures(how_far)) == (doing, told)


def test_without_a_terminal_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with shown() as show:
        for done in range(4):
            show(progress(n_rows=4000, shards_done=done))
        monkeypatch.setattr("manyeyes.commands.job_progress.LINE_EVERY_S", 0.0)
        show(progress(n_rows=4000, shards_done=4))
        show(progress(n_rows=4000, shards_done=4, pass_="labels"))
    assert capsys.readouterr().err.splitlines() == [
        "seeing and voting: 0 of 4,000 rows",
        "seeing and voting: 4,000 of 4,000 rows",
        "labeling: 4,000 of 4,000 rows",
    ]


def test_the_same_command_finds_the_job_done(tmp_path: Path, photos: Path, recipe: Path) -> None:
    out = tmp_path / "out"
    call("job", "run", photos, "-r", recipe, "-o", out)
    before = (out / "manyeyes.json").stat().st_mtime_ns
    again = json.loads(call("job", "run", photos, "-r", recipe, "-o", out, "--json").stdout)
    assert again["status"] == "completed"
    assert again["counts"]["rows"] == 30
    assert (out / "manyeyes.json").stat().st_mtime_ns == before
    (photos / "later.png").write_bytes(next(photos.glob("*.png")).read_bytes())
    rows = [
        json.loads(call("job", "run", photos, "-r", recipe, "-o", out, *how, "--json").stdout)["counts"][
            "rows"
        ]
        for how in (["--same-rows"], [])
    ]
    assert rows == [30, 31]


def test_ctrl_c_says_how_to_go_on_and_that_works(tmp_path: Path) -> None:
    paint(tmp_path / "photos", 40)
    (tmp_path / "slow_vote.py").write_text(SLOW)
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(dict(with_function("slow_vote:vote"))))
    command = ["job", "run", "photos", "-r", "slow.yaml", "-o", "out", "--shard-rows", "4", "--workers", "1"]
    running = program(*command, cwd=tmp_path)
    wait_for(lambda: n_commits(tmp_path / "out") >= 2, seconds=60)
    began = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 130, said
    assert time.monotonic() - began < 10
    assert "Traceback" not in said
    assert "The same command goes on where it was stopped." in " ".join(said.split())
    done = n_commits(tmp_path / "out")
    assert 2 <= done < 10
    assert re.search(rf"shards +{done} of 10", call("job", "status", tmp_path / "out").stdout)

    again = program("job", "resume", "out", cwd=tmp_path)
    told, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert "Labels" in told
    assert len(list(Dataset.open(tmp_path / "out").labels())) == 40


def test_a_job_is_cancelled_from_elsewhere(tmp_path: Path) -> None:
    paint(tmp_path / "photos", 40)
    (tmp_path / "slow_vote.py").write_text(SLOW)
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(dict(with_function("slow_vote:vote"))))
    running = program(
        "job",
        "run",
        "photos",
        "-r",
        "slow.yaml",
        "-o",
        "out",
        "--shard-rows",
        "4",
        "--workers",
        "1",
        cwd=tmp_path,
    )
    wait_for(lambda: n_commits(tmp_path / "out") >= 1, seconds=60)
    assert "is asked to stop" in call("job", "cancel", tmp_path / "out").stderr
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1
    assert re.search(r"Job [0-9a-f]{20} cancelled", said)
    assert re.search(r"status +cancelled", call("job", "status", tmp_path / "out").stdout)


def test_failed_rows_are_tried_again(tmp_path: Path, photos: Path, recipe: Path) -> None:
    out = tmp_path / "out"
    call("job", "run", photos, "-r", recipe, "-o", out)
    assert "has no row whose failure may pass" in " ".join(call("job", "retry", out).stderr.split())
    told = call("job", "retry", out, "--every").stdout
    assert "undecodable_image" in told
    assert "everything is as it says" in call("verify", out).stdout


def test_verify_says_what_is_wrong(tmp_path: Path, photos: Path, recipe: Path) -> None:
    out = tmp_path / "out"
    call("job", "run", photos, "-r", recipe, "-o", out)
    told = call("verify", out, "--sample", "10").stdout
    assert "10 of 10 labels that were made again came out the same, bit for bit" in told
    part = out / "labels" / "part-00000000.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"x")
    result = call("verify", out, code=1)
    assert re.search(r"labels/part-00000000\.parquet +damaged +is not what was written", result.stdout)
    found = json.loads(call("verify", out, "--json", "--sample", "0", code=1).stdout)
    assert (found["ok"], found["findings"][0]["kind"]) == (False, "damaged")
    (out / "README.md").unlink()
    result = call("verify", out, "--repair")
    assert "was written again" in result.stderr
    assert "everything is as it says" in result.stdout
    assert call("verify", out).stdout == result.stdout


def test_a_dataset_is_exported(tmp_path: Path, photos: Path, recipe: Path) -> None:
    out = tmp_path / "out"
    call("job", "run", photos, "-r", recipe, "-o", out, "--format", "csv")
    assert list((out / "exports" / "csv").rglob("*.csv"))
    told = call(
        "export", out, "--format", "jsonl", "--to", tmp_path / "jsonl", "--min-confidence", "0.5", "--no-soft-labels",
        "--reasons", "--split", "train=0.5", "--split", "test=0.5", "--option", "near_duplicates=off", "--json",
    ).stdout  # fmt: skip
    report = json.loads(told)
    assert report["rows"] == 29
    assert report["left_out"] == {"error": 1}
    assert set(report["splits"]) == {"train", "test"}
    assert report["examples"]["error"] == ["00004.png"]
    result = call("export", out, "-f", "jsonl", "--to", tmp_path / "more")
    assert "Wrote 29 rows" in result.stderr


def test_a_table_with_columns_and_joined_metadata(tmp_path: Path, photos: Path) -> None:
    table = tmp_path / "photos.csv"
    table.write_text("sku,picture\n" + "".join(f"s{i},photos/{i:05d}.png\n" for i in range(3)))
    (tmp_path / "goods.jsonl").write_text(
        "".join(json.dumps({"sku": f"s{i}", "shelf": "R"}) + "\n" for i in range(3))
    )
    recipe = tmp_path / "shelf.yaml"
    shelf = {"name": "shelf", "kind": "metadata", "when": "shelf == 'R'", "vote": "red"}
    recipe.write_text(yaml.safe_dump({**RECIPE, "lfs": [shelf, RECIPE["lfs"][0]]}))
    call(
        "job", "run", table, "-r", recipe, "-o", tmp_path / "out", "--column", "id=sku", "--column", "image=picture",
        "--join", f"{tmp_path / 'goods.jsonl'}:sku",
    )  # fmt: skip
    rows = list(Dataset.open(tmp_path / "out").labels())
    assert [row.id for row in rows] == ["s0", "s1", "s2"]
    assert [row.reasons[0].vote for row in rows] == ["red"] * 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["job", "run", "photos", "-r", "nowhere.yaml", "-o", "out"], r"\[recipe_not_found\]"),
        (["job", "run", "nowhere", "-r", "paint.yaml", "-o", "out"], r"\[invalid_source\] .*nowhere"),
        (["job", "run", "photos", "-r", "paint.yaml", "-o", "ftp://x/y"], r"ftp:// is not a place for objects"),
        (["job", "run", "photos", "-r", "paint.yaml", "-o", "out", "--engine", "rai"], r"engine.name: .*or 'ray'"),
        (["job", "run", "photos", "-r", "paint.yaml", "-o", "out", "--kind", "zip"], r"kind: .*got 'zip'"),
        (["job", "run", "photos", "-r", "paint.yaml", "-o", "out", "--column", "img=x"], r"ours are id, image, text"),
        (["job", "run", "photos", "-r", "paint.yaml", "-o", "out", "--format", "coc"], r"did you mean 'coco'"),
        (["job", "run", "photos", "-r", "paint.yaml", "-o", "out", "--gold", "no.csv"], r"there are no gold labels"),
        (["job", "run", "photos", "-r", "paint.yaml", "-o", "out", "--join-on", "x"], r"join"),
        (["job", "run", "photos", "-r", "paint.yaml", "-o", "out", "--same-rows"], r"there is no earlier job in"),
        (["job", "status", "out"], r"\[not_found\] no job was begun"),
        (["job", "logs", "out", "--job", "abc"], r"\[not_found\] no job 'abc'"),
        (["job", "resume", "out"], r"\[not_found\]"),
        (["verify", "out"], r"\[not_found\] there is no finished dataset in .*: no job was begun there"),
        (["export", "out", "-f", "jsonl", "--to", "x"], r"\[not_found\]"),
        (["export", "out", "-f", "jsonl", "--to", "x", "--option", "bxes=label"], r"did you mean 'boxes'"),
        (["export", "out", "-f", "jsonl", "--to", "x", "--split", "train"], r"--split says NAME=PART"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_sentence(
    tmp_path: Path,
    photos: Path,
    recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--join-on" in arguments:
        arguments = [*arguments, "--join", "goods.csv"]
    result = call(*arguments, code=2)
    assert result.stdout == ""
    assert re.search(said, " ".join(result.stderr.split())), result.stderr
    assert not (tmp_path / "out" / "manyeyes.json").exists()


def test_a_job_that_is_hopeless_ends_with_its_reason(tmp_path: Path, recipe: Path) -> None:
    photos = paint(tmp_path / "photos", 150, broken=set(range(0, 150, 2)))
    result = call(
        "job", "run", photos, "-r", recipe, "-o", tmp_path / "out", "--max-error-rate", "0.2", code=1
    )
    assert "failed" in result.stderr
    assert "undecodable_image" in result.stderr
    assert call("job", "status", tmp_path / "out", code=1)


def test_files_that_a_recipe_names_go_with_the_job(tmp_path: Path, photos: Path) -> None:
    """So that another process, which knows nothing of the recipe's folder, goes on with it and verifies it."""
    kept = tmp_path / "recipes"
    examples = paint(kept / "examples", 3)
    like = {
        "name": "like",
        "kind": "neighbors",
        "using": "toy",
        "examples": {name: [f"examples/{i:05d}.png"] for i, name in enumerate(("red", "green", "blue"))},
    }
    (kept / "near.yaml").write_text(yaml.safe_dump({**RECIPE, "lfs": [like, RECIPE["lfs"][0]]}))
    call("job", "run", photos, "-r", kept / "near.yaml", "-o", tmp_path / "out")
    moved = tmp_path / "elsewhere"
    examples.rename(moved)
    again = program("job", "retry", tmp_path / "out", "--every", cwd=tmp_path)
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    told = program("verify", tmp_path / "out", "--trust-recipe", cwd=tmp_path)
    found, said = told.communicate(timeout=120)
    assert told.returncode == 0, found
    assert "30 of 30 labels" in found


def test_from_bucket_to_bucket(tmp_path: Path, photos: Path, recipe: Path) -> None:
    with faulty_s3() as server, pytest.MonkeyPatch.context() as patch:
        server.make_bucket("jobs")
        for name, value in server.env(straight=True).items():
            patch.setenv(name, value)
        place = Storage.open("s3://jobs/photos")
        for path in photos.iterdir():
            place.put(path.name, path.read_bytes())
        done = program("job", "run", "s3://jobs/photos", "-r", recipe, "-o", "s3://jobs/out", cwd=tmp_path)
        _, said = done.communicate(timeout=120)
        assert done.returncode == 0, said
        assert re.search(r"status +completed", call("job", "status", "s3://jobs/out").stdout)
        assert "30 of 30 labels" in call("verify", "s3://jobs/out").stdout
        call("export", "s3://jobs/out", "-f", "parquet", "--to", "s3://jobs/exported")
        assert any(meta.path.endswith(".parquet") for meta in Storage.open("s3://jobs/exported").list())
