"""How a run is split over the ranks of a cluster; the same strategies serve notebooks and scripts under torchrun."""

from dlkit.strategies.data_parallel import DataParallel, ModelAveraging

__all__ = ["DataParallel", "ModelAveraging"]
