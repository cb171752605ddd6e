"""Parameters that no image of a batch has used: on no rank they get a gradient, as in one process."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlkit.distributed.group import Group


class Unused:
    """Gives all parameters a gradient, so that ranks exchange the same; takes back those of parameters unused by all.

    An optimizer leaves alone what has none. By default each rank reads, in each step, how many are missing on all ranks
    together: a GPU makes it wait for that. store: torch's, by which a rank without some tells the others, before it
    sends anything; one that has used all need not know. It grows with each such step: they must be rare.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], group: Group, store: Any = None):
        self.parameters, self.group, self.store = parameters, group, store
        self.missing: set[int] = set()
        self.number = 0  # of the gradient

    def fill(self) -> int:
        """Put zeros in place of gradients that this rank lacks; how many. Before the exchange."""
        self.number += 1
        self.missing = {index for index, parameter in enumerate(self.parameters) if parameter.grad is None}
        for index in self.missing:
            self.parameters[index].grad = torch.zeros_like(self.parameters[index])
        if self.missing and self.store is not None:
            self.store.set(self._key(self.group.rank), " ".join(map(str, self.missing)))
        return len(self.missing)

    def drop(self, total: Tensor) -> None:
        """Take back what all ranks lack. After the exchange; total: of what `fill` gave on all of them."""
        for index in self._asked() if self.store is not None else self._summed(total):
            self.parameters[index].grad = None

    def _asked(self) -> set[int]:
        """What all ranks have told that they lack: those that have told it did so before this rank had their parts."""
        keys = [self._key(rank) for rank in range(self.group.world_size)]
        if not self.missing or not self.store.check(keys):
            return set()
        return self.missing.intersection(*({int(index) for index in self.store.get(key).split()} for key in keys))

    def _summed(self, total: Tensor) -> set[int]:
        if float(total) == 0:
            return set()
        own = [0.0 if index in self.missing else 1.0 for index in range(len(self.parameters))]
        uses = torch.tensor(own, device=total.device)
        self.group.all_reduce(uses)
        return {index for index, used in enumerate(uses.tolist()) if not used}

    def _key(self, rank: int) -> str:
        return f"unused on {self.group.name}, {self.number}, {rank}"
