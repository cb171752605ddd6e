"""How a parameter server moves its parameters by a gradient that may be stale."""

import torch
from torch import Tensor


class Rule:
    """A shard has one of its own, which may keep tensors beside the parameters, in `state`."""

    def __init__(self):
        self.state: dict[str, Tensor] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def step(self, values: Tensor, gradient: Tensor, lr: float, staleness: int) -> None:
        """Move `values` in place. staleness: how many gradients the shard has applied since they were fetched."""
        raise NotImplementedError


class Plain(Rule):
    """The same rate for all: w -= lr g."""

    def step(self, values: Tensor, gradient: Tensor, lr: float, staleness: int) -> None:
        values.sub_(gradient, alpha=lr)


class Adagrad(Rule):
    """A rate for each parameter: w -= lr g / (sqrt(sum of g^2 so far) + 1e-10).

    Sources: Duchi, Hazan, Singer 2011, Adaptive subgradient methods for online learning and stochastic optimization;
    on the servers' shards, Dean et al. 2012, Large scale distributed deep networks, §4.1.
    """

    def step(self, values: Tensor, gradient: Tensor, lr: float, staleness: int) -> None:
        if "sum" not in self.state:
            self.state["sum"] = torch.zeros_like(values)
        sums = self.state["sum"].addcmul_(gradient, gradient)
        values.addcdiv_(gradient, sums.sqrt().add_(1e-10), value=-lr)


class ByStaleness(Rule):
    """The older a gradient, the smaller its step: w -= lr g / (staleness + 1).

    Source: Jiang, Cui, Zhang, Yu 2017, Heterogeneity-aware distributed parameter servers, where it is DynSGD; its
    measurements on MNIST are in Hermans 2017, On scalable deep learning and parallelizing gradient descent.
    """

    def step(self, values: Tensor, gradient: Tensor, lr: float, staleness: int) -> None:
        values.sub_(gradient, alpha=lr / (staleness + 1))
