"""How a run is split over the ranks of a cluster; the same strategies serve notebooks and scripts under torchrun."""

from typing import TYPE_CHECKING, Any

from dlkit.strategies.data.data_parallel import DataParallel
from dlkit.strategies.data.model_averaging import ModelAveraging
from dlkit.strategies.hybrid import Hybrid, OneWeirdTrick
from dlkit.strategies.spatial.spatial_parallel import SpatialParallel
from dlkit.strategies.tensor.tensor_parallel import TensorParallel

if TYPE_CHECKING:
    from dlkit.strategies.pipeline.pipeline import Pipeline

__all__ = ["DataParallel", "Hybrid", "ModelAveraging", "OneWeirdTrick", "Pipeline", "SpatialParallel", "TensorParallel"]


def __getattr__(name: str) -> Any:
    if name == "Pipeline":  # torch.distributed.pipelining takes most of a second to import
        from dlkit.strategies.pipeline.pipeline import Pipeline

        return Pipeline
    raise AttributeError(f"module 'dlkit.strategies' has no attribute {name!r}")
