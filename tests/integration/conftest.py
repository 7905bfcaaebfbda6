"""The cluster that integration tests run on: one for each process of pytest, started when the first test asks."""

import os
from collections.abc import Iterator

import pytest

from lab.backend import KUBECONFIG, Cluster, ExistingCluster, kind_of_cluster
from lab.cluster import LocalCluster, LocalClusterOptions


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A control plane with twelve nodes of eight GPUs; with DYNAMOLLM_CLUSTER=kubeconfig the user's own."""
    if kind_of_cluster() == KUBECONFIG:
        yield ExistingCluster()
        return
    # Named after the process, so that the workers of pytest-xdist do not meet.
    with LocalCluster.start(LocalClusterOptions(name=f"test-{os.getpid()}")) as local:
        yield local
