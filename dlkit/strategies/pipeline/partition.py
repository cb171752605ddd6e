"""Where a net is cut into stages: between layers with weights, so that the slowest stage is as fast as can be."""

from collections.abc import Sequence
from functools import cache

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dlkit.strategies.base import kind

VALUE = 100  # multiplications that cost as much as making a value: so LeNet-5 is cut as measured times would have it

Block = list[tuple[str, nn.Module]]


def cut_at_weights(net: nn.Module) -> list[Block]:
    """What cannot be parted: a module that has something to train, and those up to the next one that has.

    ValueError if the net is no chain, or uses weights twice.
    """
    blocks: list[Block] = [[]]
    found: list[nn.Parameter] = []
    for name, module in chain(net):
        weights = [p for p in module.parameters() if p.requires_grad]
        if weights and found:
            blocks.append([])
        blocks[-1].append((name, module))
        found += weights
    if len({id(p) for p in found}) < len(found):
        raise ValueError(f"layers of this {kind(net)} share weights, which would be on two ranks: give each its own.")
    return blocks


def chain(net: nn.Module) -> Block:
    """The modules, by name, that a batch goes through one after another: Sequentials inside are taken apart."""
    if not is_chain(net):
        raise ValueError(
            f"{kind(net)} is no chain of layers: Pipeline cuts an nn.Sequential, or a class made of it that has no "
            "forward of its own."
        )
    found: Block = []
    for name, module in net._modules.items():  # named_children() leaves out a module's second place
        assert module is not None
        found += [(f"{name}.{inner}", one) for inner, one in chain(module)] if is_chain(module) else [(name, module)]
    return found


def is_chain(net: nn.Module) -> bool:
    return isinstance(net, nn.Sequential) and type(net).forward is nn.Sequential.forward


def weigh(blocks: list[Block], x: Tensor) -> tuple[list[int], list[Tensor]]:
    """What both passes of each piece cost for these inputs; and those inputs, what follows each piece, the answer.

    ValueError for a module that does not give a row for each image.
    """
    costs, between = [], [x]
    for block in blocks:
        values = 0
        x = between[-1].detach().requires_grad_(len(between) > 1)  # nobody needs the images' gradient
        with FlopCounterMode(display=False) as counter:
            for name, module in block:
                x = module(x)
                if not isinstance(x, Tensor) or len(x) != len(between[0]):
                    raise ValueError(
                        f"{name}, a {kind(module)}, does not give a row for each image, which Pipeline needs: let it "
                        "keep the first dimension."
                    )
                values += x.numel()
            x.sum().backward()
        costs.append(counter.get_total_flops() // 2 + VALUE * values)
        between.append(x.detach())
    return costs, between


def best_cut(costs: Sequence[int], stages: int) -> tuple[int, ...]:
    """The places with which the second and later stages begin, so that the most costly stage costs least."""

    @cache
    def best(begin: int, left: int) -> tuple[int, tuple[int, ...]]:
        if left == 1:
            return sum(costs[begin:]), ()
        found = []
        for place in range(begin + 1, len(costs) - left + 2):
            worst, places = best(place, left - 1)
            found.append((max(sum(costs[begin:place]), worst), (place, *places)))
        return min(found)

    return best(0, stages)[1]


def divisors(n: int) -> list[int]:
    return [each for each in range(1, n + 1) if n % each == 0]
