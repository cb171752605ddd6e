"""BatchNorm in a trial, in one process: parts of a batch are passed one after another, with the whole's statistics."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dlkit.distributed.batch_norm import Key, combined


class Kept:
    """Keeps what a pass would send to other ranks. whole: of a pass of all images, which answers in their place."""

    def __init__(self, whole: "Kept | None" = None):
        self.whole = whole or self
        self.moments: dict[Key, Tensor] = {}
        self.sums: dict[Key, Tensor] = {}

    def gather(self, key: Key, moments: Tensor) -> Tensor:
        self.moments[key] = moments
        return self.whole.moments.get(key, moments)[None]

    def sum(self, key: Key, sums: Tensor) -> Tensor:
        self.sums[key] = sums
        return self.whole.sums.get(key, sums)


class Fixed:
    """A mean of 0 and a variance of 1, whatever the images are, which may be one."""

    def gather(self, key: Key, moments: Tensor) -> Tensor:
        channels = (len(moments) - 1) // 2
        return torch.cat([moments.new_tensor([2.0]), moments.new_zeros(channels), moments.new_full((channels,), 2.0)])[
            None
        ]

    def sum(self, key: Key, sums: Tensor) -> Tensor:
        return sums


def wrong_statistics(whole: Kept, parts: Sequence[Kept], tolerance: float) -> str:
    """Whose statistics, or gradients of these, do not follow from those of the parts, in words; "" if all do."""
    for part in parts:
        for key in (whole.moments.keys() ^ part.moments.keys()) | (whole.sums.keys() ^ part.sums.keys()):
            return _words(key)
    for key, moments in whole.moments.items():
        count, mean, squares = combined(torch.stack([part.moments[key] for part in parts]))
        own_count, own_mean, own_squares = combined(moments[None])
        rounding = 1e-12 * (1 + own_count * own_mean.square())
        spread = (own_squares / own_count).sqrt()
        if count != own_count or bool(((mean - own_mean).abs() > tolerance * (spread + own_mean.abs()) + 1e-12).any()):
            return _words(key)
        if bool(((squares - own_squares).abs() > tolerance * own_squares + rounding).any()):
            return _words(key)
    for key, sums in whole.sums.items():
        own = [part.sums[key] for part in parts]
        size = sum(one.norm() for one in (sums, *own))
        if not (sums - own[0] - own[1]).norm() <= tolerance * size + 1e-12:
            return _words(key)
    return ""


def _words(key: Key) -> str:
    return f"what {key[0]} sees of a batch" if key[0] else "what BatchNorm sees of a batch"
