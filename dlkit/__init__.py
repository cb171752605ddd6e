"""dlkit: deep learning and high-performance computing, to run, break and measure."""

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlkit.cluster import Cluster
    from dlkit.training import Experiment, Run

__version__ = version("dlkit")
__all__ = ["Cluster", "Experiment", "Run"]


def __getattr__(name: str):
    if name == "Cluster":
        from dlkit.cluster import Cluster

        return Cluster
    if name in __all__:  # torch takes a second to import: only who trains waits for it
        from dlkit import training

        return getattr(training, name)
    raise AttributeError(f"module 'dlkit' has no attribute {name!r}")
