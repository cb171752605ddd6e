"""A tensor whose rows and columns are split over a grid of ranks, and that a layer reads as if it were whole.

Source: Coates, Huval, Wang, Wu, Catanzaro, Ng 2013, Deep learning with COTS HPC systems, whose
"simple distributed array abstraction" hides all communication.
"""

from dlkit.distributed.arrays import elements, norms, resampling, shapes, windows
from dlkit.distributed.arrays.core import DistributedArray, Grid

RULES = (elements, norms, resampling, shapes, windows)  # each has registered its rules

__all__ = ["DistributedArray", "Grid"]
