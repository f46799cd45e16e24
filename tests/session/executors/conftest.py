"""A cluster of Ray on this machine."""

import pytest


@pytest.fixture
def ray_cluster(monkeypatch):
    """A function that begins one whose head has so many processors; `--executor ray` finds it."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'ray>=2.60,<3'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    begun = []

    def begin(processors):
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": processors, "include_dashboard": False})
        begun.append(found)
        monkeypatch.setenv("RAY_ADDRESS", found.address)
        return found

    yield begin
    ray.shutdown()
    for found in begun:
        found.shutdown()
