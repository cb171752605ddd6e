"""Bars and stripes: a data set of images so small that all possible images can be enumerated."""

import torch
from jaxtyping import Float32
from torch import Tensor


def bars_and_stripes(size: int = 4) -> Float32[Tensor, "patterns size size"]:
    """The 2·2^size - 2 different images of size x size in which every row, or every column, has one value, 0 or 1.

    Stripes (uniform columns) come first. The two images with all pixels equal are both, and are given once.
    Source: MacKay 2003, Information theory, inference, and learning algorithms, ch. 43.
    """
    if not 2 <= size <= 12:
        raise ValueError(f"bars and stripes of size {size}: use 2 to 12.")
    lines = (torch.arange(2**size)[:, None] >> torch.arange(size) & 1).float()
    stripes = lines[:, None, :].expand(-1, size, -1)
    bars = stripes[1:-1].transpose(1, 2)
    return torch.cat([stripes, bars])
