"""Random numbers that do not depend on how a batch is split: each rank draws those of all rows and keeps its own."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dlkit.core.slices import Slice


class ShardedGenerator(torch.Generator):
    """A torch.Generator for a rank that holds only some rows of a batch; its state is the same on all ranks.

    `rows` says which rows of the whole this rank holds; None if it holds all.
    """

    rows: Slice | None = None

    def __repr__(self) -> str:
        return f"ShardedGenerator(device={str(self.device)!r}, rows={self.rows})"


@contextmanager
def sharded(generator: torch.Generator, rows: Slice | None) -> Iterator[None]:
    """Context in which tensors hold the rows `rows` of something other than the batch, such as persistent chains."""
    if rows is None or not isinstance(generator, ShardedGenerator):
        yield
        return
    previous, generator.rows = generator.rows, rows
    try:
        yield
    finally:
        generator.rows = previous


def sample_like(
    fill: Callable[[Tensor], Tensor], like: Tensor, generator: torch.Generator | None, *, dim: int = 0
) -> Tensor:
    """A tensor with the shape, dtype and device of `like`, filled with random numbers by `fill(tensor)`.

    It is filled on the generator's device, so that a GPU can get the CPU's numbers. If `like` holds only the rows of a
    ShardedGenerator, along dimension `dim`, numbers are drawn for the whole and those of these rows are returned.
    """
    device = generator.device if generator is not None else like.device
    rows = generator.rows if isinstance(generator, ShardedGenerator) else None
    shape = list(like.shape)
    if rows is not None:
        assert shape[dim] == rows.count, f"a tensor of {shape[dim]} rows for {rows}"
        shape[dim] = rows.whole
    sample = fill(torch.empty(shape, dtype=like.dtype, device=device))
    return (sample if rows is None else sample.narrow(dim, rows.start, rows.count)).to(like.device)


def bernoulli(p: Float[Tensor, "*shape"], generator: torch.Generator | None = None) -> Float[Tensor, "*shape"]:
    """Samples of 0 and 1 that are 1 with probability `p`; on a CPU four times as fast as torch.bernoulli."""
    return sample_like(lambda x: x.uniform_(generator=generator), p, generator).lt_(p)


def normal(mean: Float[Tensor, "*shape"], generator: torch.Generator | None = None) -> Float[Tensor, "*shape"]:
    """Samples from N(0, 1) in the shape of `mean`."""
    return sample_like(lambda x: x.normal_(generator=generator), mean, generator)


def categorical(p: Float[Tensor, "rows classes"], generator: torch.Generator | None = None) -> Int64[Tensor, "rows 1"]:
    """One class for each row, with probabilities proportional to `p`, by the exponential race (Gumbel-max).

    Gives the same classes as torch.multinomial, which cannot draw the numbers of rows on other ranks.
    """
    q = sample_like(lambda x: x.exponential_(1, generator=generator), p, generator)
    return (p / q).argmax(1, keepdim=True)
