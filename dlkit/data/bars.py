"""Bars and stripes: images small enough to enumerate every one that could be."""

import torch
from jaxtyping import Float32
from torch import Tensor


def bars_and_stripes(size: int = 4) -> Float32[Tensor, "patterns size size"]:
    """The 2·2^size - 2 different images of size x size in which every row is uniform, or every column is.

    0 and 1, the stripes (uniform columns) first; all off and all on are both bars and stripes, and are given once.
    Source: MacKay 2003, Information theory, inference, and learning algorithms, ch. 43.
    """
    if not 2 <= size <= 12:
        raise ValueError(f"bars and stripes of size {size}: use 2 to 12.")
    lines = (torch.arange(2**size)[:, None] >> torch.arange(size) & 1).float()
    stripes = lines[:, None, :].expand(-1, size, -1)
    bars = stripes[1:-1].transpose(1, 2)
    return torch.cat([stripes, bars])
