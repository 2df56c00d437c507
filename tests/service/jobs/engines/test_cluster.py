"""A job on a cluster that is there already, one node of which is lost on the way."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from manyeyes.service.jobs.run import run_job
from manyeyes.service.jobs.shapes import EngineSpec
from tests.service.jobs.toy_jobs import n_commits, paint, published, request, wait_for, with_function

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

SLOW = """
import time
def vote(item):
    time.sleep(0.02)
    return None
"""


def test_a_lost_node_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.cluster_utils import Cluster

    functions = tmp_path / "functions"
    functions.mkdir()
    (functions / "slow_on_nodes.py").write_text(SLOW)
    monkeypatch.syspath_prepend(str(functions))
    # Nodes have an environment of their own; here it is this one.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(functions), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    source, recipe = paint(tmp_path / "photos", 300), with_function("slow_on_nodes:vote")
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_job(request(source, whole, recipe=recipe, engine=EngineSpec(workers=8)))

    small = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    try:
        other = cluster.add_node(**small)
        engine = EngineSpec(name="ray", address=cluster.address, workers=4)

        def lose() -> None:
            wait_for(lambda: n_commits(out) >= 4, seconds=100)
            cluster.remove_node(other, allow_graceful=False)

        loser = threading.Thread(target=lose)
        loser.start()
        done = run_job(request(source, out, recipe=recipe, engine=engine), lease_s=5)
        loser.join()
        assert not ray.is_initialized(), "the job has left the cluster"
    finally:
        cluster.shutdown()
    assert (done.status, done.counts.rows) == ("completed", 300)
    assert published(out) == published(whole)
