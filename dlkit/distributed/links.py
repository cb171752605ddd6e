"""Links to emulate: how long an exchange takes with a given latency and bandwidth.

The bandwidths of the named links are published ones, of one direction, before protocol overhead; the latencies are
round figures.
NVLINK: the fourth generation, 900 GB/s in both directions together (NVIDIA 2022, H100 Tensor Core GPU architecture); a
    latency is not published: 2 µs is of the order of a small copy from GPU to GPU.
FDR_INFINIBAND: four lanes of 14.0625 Gb/s, 64 of 66 bits of them data, 54.5 Gb/s (InfiniBand Trade Association), and
    about 1 µs between two processes. The COTS HPC system had it (Coates et al. 2013, Deep learning with COTS HPC
    systems).
TEN_GIGABIT: IEEE 802.3ae; 20 µs between two programs (Hurwitz, Feng 2003, Initial end-to-end performance evaluation of
    10-gigabit Ethernet), and up to 50 elsewhere.
GIGABIT: IEEE 802.3ab; by TCP 50 to 100 µs, of which this is the better end.
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Link:
    """A link between any two ranks: `latency` in seconds a message, `bandwidth` in bytes a second in each direction.

    ValueError for a latency below zero, or a bandwidth that is not above it.
    """

    latency: float
    bandwidth: float
    name: str = "link"

    def __post_init__(self):
        if not 0 <= self.latency < math.inf:
            raise ValueError(f"latency={self.latency:g} of {self.name}: give seconds, 0 or more, such as 50e-6.")
        if not 0 < self.bandwidth < math.inf:
            raise ValueError(f"bandwidth={self.bandwidth:g} of {self.name}: give bytes a second, such as 1.25e9.")

    def seconds(self, name: str, size: int, world_size: int) -> float:
        """How long an exchange takes, in seconds; all but a send go round a ring.

        name: "all-reduce", "broadcast", "reduce", "all-gather" or "reduce-scatter"; any other is a send to a neighbour.
        size: the bytes of the tensor that each rank has; for an all-gather or a reduce-scatter, of all ranks' parts
        together; for a send, of the message.
        Source: Patarasuk, Yuan 2009, Bandwidth optimal all-reduce algorithms for clusters of workstations, §4; NVIDIA,
        nccl-tests, doc/PERFORMANCE.md (without latencies).
        """
        if world_size < 2:
            return 0.0
        hops, moved = world_size - 1, size / self.bandwidth
        if name == "all-reduce":
            return 2 * (moved * hops / world_size + hops * self.latency)
        if name in ("all-gather", "reduce-scatter"):
            return moved * hops / world_size + hops * self.latency
        if name in ("broadcast", "reduce"):
            return moved + hops * self.latency
        return moved + self.latency

    def __str__(self) -> str:
        return f"emulated {self.name}: {self.bandwidth / 1e9:.4g} GB/s, {self.latency * 1e6:.4g} µs"


NVLINK = Link(2e-6, 450e9, "NVLink 4")
FDR_INFINIBAND = Link(1e-6, 6.8e9, "FDR InfiniBand")
TEN_GIGABIT = Link(20e-6, 1.25e9, "10 gigabit Ethernet")
GIGABIT = Link(50e-6, 125e6, "gigabit Ethernet")
