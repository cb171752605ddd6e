"""What an engine says of its GPU, and what the cluster says where other programs use it."""

from collections.abc import Mapping, Sequence
from typing import Any

from dlkit.cluster.placement import Placement
from dlkit.core.text_table import format_bytes

OWN = 2 * 10**9  # bytes that CUDA and NCCL may take on a GPU for an engine, besides its tensors


def gpu_facts() -> dict[str, Any]:
    """Of this engine's GPU: its name, free memory and UUID in words, "" if there is none; its bytes; those in use.

    A part of a GPU (MIG) has that in its name. own_bytes: those that torch has here, of those in use.
    """
    import torch

    if not torch.cuda.is_available():
        return {"gpu": ""}
    properties = torch.cuda.get_device_properties(0)
    free, size = torch.cuda.mem_get_info(0)
    words = f"{properties.name}, {format_bytes(free)} of {format_bytes(size)} free, {properties.uuid}"
    return {"gpu": words, "bytes": size, "used_bytes": size - free, "own_bytes": torch.cuda.memory_reserved(0)}


def used_by_others(plan: Sequence[Placement], facts: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """A sentence for each GPU on which programs other than engines hold memory. facts: of each rank."""
    sentences = []
    for gpu in sorted({placement.gpu for placement in plan if placement.gpu is not None}):
        reported = [facts.get(placement.rank, {}) for placement in plan if placement.gpu == gpu]
        known = [fact for fact in reported if "bytes" in fact]
        if not known:
            continue
        engines = sum(fact["own_bytes"] + OWN for fact in known)
        others = min(fact["used_bytes"] for fact in known) - engines
        if others > 0:
            held = f"about {format_bytes(others)} of its {format_bytes(known[0]['bytes'])}"
            sentences.append(
                f"cuda:{gpu} is used by other programs too, this notebook's own perhaps: they hold {held}; start "
                "Jupyter with CUDA_VISIBLE_DEVICES set to other GPUs if there are free ones."
            )
    return sentences
