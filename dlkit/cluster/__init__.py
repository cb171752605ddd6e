"""Where it runs: engines on this machine, each on a device or on CPU cores of its own."""

from dlkit.cluster.engines import Cluster, ClusterError
from dlkit.cluster.places import Place, places

__all__ = ["Cluster", "ClusterError", "Place", "places"]
