"""Plays the process of a job: says what ``play.json`` in a folder says, and does as it is told while it waits.

Steps: "shards" n, "wait" (until it is told to stop or cancel), "sleep" s, "die" code, "kill", "end" status.
It notes each start, with what it was told, and whether the environment held secrets, in ``starts.jsonl``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from pathlib import Path


def tell(**said: object) -> None:
    print(json.dumps(said), flush=True)


def progress(status: str, done: int, shards: int = 10) -> None:
    counts = {
        "rows": 10 * done,
        "labeled": 0,
        "abstained": 0,
        "failed": done,
        "errors": {"undecodable_image": done},
    }
    tell(
        kind="progress",
        progress={
            "job": "core0",
            "status": status,
            "pass_": "votes",
            "shards_done": done,
            "shards": shards,
            "counts": counts,
            "computed": {"image": 9 * done},
            "message": None,
            "seconds": float(done),
            "rows_per_s": 10.0,
            "eta_s": 1.0,
            "n_rows": 10 * shards,
        },
    )


def told(seconds: float) -> str:
    """Return what the service says within some seconds; "gone" where it is gone."""
    ready, _, _ = select.select([0], [], [], seconds)
    if not ready:
        return ""
    return os.read(0, 1000).decode().strip() or "gone"


def main() -> None:
    folder = Path(sys.argv[1])
    line = b""
    while not line.endswith(b"\n"):
        line += os.read(0, 1)
    task = json.loads(line)
    environ = [name for name in os.environ if name.startswith("MANYEYES_")]
    with (folder / "starts.jsonl").open("a") as notes:
        notes.write(json.dumps({"pid": os.getpid(), "task": task, "environ": environ}) + "\n")
    steps = json.loads((folder / "play.json").read_text())
    if task["wish"] == "retry":
        tell(kind="retried")
    done = 0
    while steps:
        step = steps.pop(0)
        if step == "shards":
            for _ in range(steps.pop(0)):
                done += 1
                progress("in_progress", done)
                time.sleep(0.05)
        elif step == "log":
            tell(kind="log", level="warning", message=steps.pop(0))
        elif step == "sleep":
            time.sleep(steps.pop(0))
        elif step == "wait":
            said = ""
            while not said:
                said = told(1.0)
            if "cancel" in said:
                tell(kind="ended", status="cancelled", errors=[])
            else:
                tell(kind="stopped")
            return
        elif step == "die":
            os._exit(steps.pop(0))
        elif step == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif step == "end":
            status = steps.pop(0)
            progress(status, max(done, 1))
            errors = (
                [{"code": "storage_failed", "message": "the bucket is gone"}] if status == "failed" else []
            )
            tell(kind="ended", status=status, errors=errors)
            return


main()
