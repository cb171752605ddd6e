"""Where it runs: engines on this machine, each on a device or on CPU cores of its own."""

from typing import TYPE_CHECKING

from dlkit.cluster.placement import Placement, placements

if TYPE_CHECKING:
    from dlkit.cluster.cluster import Cluster, ClusterError

__all__ = ["Cluster", "ClusterError", "Placement", "placements"]


def __getattr__(name: str):
    if name in ("Cluster", "ClusterError"):  # ipyparallel is for who starts engines: ranks do without it
        from dlkit.cluster import cluster

        return getattr(cluster, name)
    raise AttributeError(f"module 'dlkit.cluster' has no attribute {name!r}")
