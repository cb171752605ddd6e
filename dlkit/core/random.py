"""Random numbers that do not depend on how a batch is split: a rank skips to those of its rows, and draws no others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod, sqrt

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dlkit.core.slices import Slice

PCG_BYTES = 32  # of the state of numpy's generator, at the end of a ShardedGenerator's


class ShardedGenerator(torch.Generator):
    """The generator of a run: what the functions of this module draw from it does not depend on how rows are split.

    `rows` says which rows of the whole this rank holds; None if it holds all. On a CPU `uniform` draws by numpy's
    PCG64 DXSM, which can skip ahead; on a GPU by torch, for all rows, of which it keeps its own.
    Source: O'Neill 2014, PCG: a family of simple fast space-efficient statistically good algorithms for random number
    generation, §4.3.1 (skipping ahead).
    """

    rows: Slice | None = None

    def __init__(self, device: str | torch.device = "cpu"):
        self._use(np.random.PCG64DXSM(0))

    def __repr__(self) -> str:
        return f"ShardedGenerator(device={str(self.device)!r}, rows={self.rows})"

    def _use(self, bits: np.random.PCG64DXSM) -> None:
        self._bits, self._numpy = bits, np.random.Generator(bits)

    def manual_seed(self, seed: int) -> "ShardedGenerator":
        super().manual_seed(seed)
        self._use(np.random.PCG64DXSM(seed % (1 << 64)))
        return self

    def get_state(self) -> Tensor:
        """All of its state, as bytes: torch's, then numpy's."""
        pcg = self._bits.state["state"]
        own = b"".join(pcg[name].to_bytes(16, "little") for name in ("state", "inc"))
        return torch.cat([super().get_state(), torch.frombuffer(bytearray(own), dtype=torch.uint8)])

    def set_state(self, _new_state: Tensor) -> "ShardedGenerator":
        super().set_state(_new_state[:-PCG_BYTES].clone())
        own = _new_state[-PCG_BYTES:].cpu().numpy().tobytes()
        state, inc = (int.from_bytes(half, "little") for half in (own[:16], own[16:]))
        bits = np.random.PCG64DXSM(0)
        bits.state = {
            "bit_generator": "PCG64DXSM",
            "state": {"state": state, "inc": inc},
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._use(bits)
        return self

    def uniform(self, count: int, *shape: int, dtype: torch.dtype) -> Tensor:
        """Numbers from [0, 1) for `count` rows of this shape, of float32 or float64, on the generator's device."""
        start, whole = (0, count) if self.rows is None else (self.rows.start, self.rows.whole)
        assert self.rows is None or count == self.rows.count, f"a tensor of {count} rows for {self.rows}"
        if self.device.type != "cpu":
            everything = torch.empty(whole, *shape, dtype=dtype, device=self.device).uniform_(generator=self)
            return everything[start : start + count]
        out = torch.empty(count, *shape, dtype=dtype)
        in_a_word = 2 if dtype == torch.float32 else 1  # numbers that 64 bits make; each draw begins with a new word
        size = prod(shape)
        skipped, half = divmod(start * size, in_a_word)
        if skipped:
            self._bits.advance(skipped)
        if half:
            self._numpy.random(dtype=np.float32)
        self._numpy.random(dtype=np.float32 if in_a_word == 2 else np.float64, out=out.numpy())
        used = skipped + -(-(half + out.numel()) // in_a_word)
        end = -(-whole * size // in_a_word)
        if end > used or (half + out.numel()) % in_a_word:  # advance(0) drops the other half of the last word
            self._bits.advance(end - used)
        return out


def drawn(function: Callable[..., Tensor], *shape: int, generator: torch.Generator | None) -> Tensor:
    """`function(*shape)`, such as torch.randn(3, 4), for a new model: on the device that torch makes tensors on.

    The numbers are drawn where the generator is; torch itself would refuse one that is elsewhere.
    """
    if generator is None:
        return function(*shape)
    return function(*shape, generator=generator, device=generator.device).to(torch.get_default_device())


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


def uniform(
    like: Float[Tensor, "*shape"], generator: torch.Generator | None = None, *, dim: int = 0
) -> Float[Tensor, "*shape"]:
    """Numbers from [0, 1), with the shape, device and dtype of `like`; of float64 where `like` is, else of float32.

    They are drawn on the generator's device, so that a GPU can get the CPU's numbers. If `like` holds only the rows of
    a ShardedGenerator, along dimension `dim`, they are the numbers of these rows.
    """
    return _uniform(like, generator, dim).to(like)


def _uniform(like: Tensor, generator: torch.Generator | None, dim: int = 0) -> Tensor:
    """As `uniform`, of float64 or float32 whatever the dtype of `like`."""
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    if isinstance(generator, ShardedGenerator):
        first = like.movedim(dim, 0)
        return generator.uniform(*first.shape, dtype=dtype).movedim(0, dim).to(like.device)
    device = generator.device if generator is not None else like.device
    return torch.empty(like.shape, dtype=dtype, device=device).uniform_(generator=generator).to(like.device)


def bernoulli(p: Float[Tensor, "*shape"], generator: torch.Generator | None = None) -> Float[Tensor, "*shape"]:
    """Samples of 0 and 1 that are 1 with probability `p`; on a CPU four times as fast as torch.bernoulli."""
    return _uniform(p, generator).lt_(p).to(p.dtype)


def normal(mean: Float[Tensor, "*shape"], generator: torch.Generator | None = None) -> Float[Tensor, "*shape"]:
    """Samples from N(0, 1) in the shape of `mean`, by the inverse of its distribution function: one number each."""
    u = _uniform(mean, generator)
    bits = 53 if u.dtype == torch.float64 else 24
    middle = 2 * u - (1 - 2.0**-bits)  # of the interval that u stands for, in (-1, 1); exact
    return middle.erfinv_().mul_(sqrt(2)).to(mean.dtype)


def categorical(p: Float[Tensor, "rows classes"], generator: torch.Generator | None = None) -> Int64[Tensor, "rows 1"]:
    """One class for each row, with probabilities proportional to `p`, by the exponential race (Gumbel-max)."""
    u = _uniform(p, generator)
    q = u.neg_().log1p_().neg_().clamp_min_(2.0**-26)  # above 0 even for u = 0, so that a class of p = 0 never wins
    return (p / q).argmax(1, keepdim=True)
