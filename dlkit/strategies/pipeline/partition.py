"""Where a net is cut into stages: between layers with weights, so that the slowest stage is as fast as possible."""

from collections.abc import Sequence
from functools import cache

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dlkit.models.sequence import modules_of, refuse_shared_parameters
from dlkit.strategies.checks import class_name

VALUE = 100  # multiplications that cost as much as making a value: with this LeNet-5 is cut as by measured times

Block = list[tuple[str, nn.Module]]


def blocks_of(net: nn.Module) -> list[Block]:
    """What cannot be parted: a module that has something to train, and those up to the next one that has.

    ValueError if the net is no nn.Sequential, or uses weights twice.
    """
    refuse_shared_parameters(net, "which would be on two ranks", trained_only=True)
    blocks: list[Block] = [[]]
    trained = False
    for name, module in modules_of(net, "Pipeline"):
        if any(parameter.requires_grad for parameter in module.parameters()):
            if trained:
                blocks.append([])
            trained = True
        blocks[-1].append((name, module))
    return blocks


def measure_blocks(blocks: list[Block], x: Tensor) -> tuple[list[int], list[Tensor]]:
    """What both passes of each block cost for these inputs; and those inputs, then the output of each block.

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
                        f"{name}, a {class_name(module)}, does not give a row for each image, which Pipeline needs: "
                        "let it keep the first dimension."
                    )
                values += x.numel()
            x.sum().backward()
        costs.append(counter.get_total_flops() // 2 + VALUE * values)
        between.append(x.detach())
    return costs, between


def pass_through(block: Block, x: Tensor) -> Tensor:
    """What the block gives."""
    for _, module in block:
        x = module(x)
    return x


def best_cut(costs: Sequence[int], stages: int) -> tuple[int, ...]:
    """The indices with which the second and later stages begin, so that the most costly stage costs least."""

    @cache
    def best(begin: int, left: int) -> tuple[int, tuple[int, ...]]:
        if left == 1:
            return sum(costs[begin:]), ()
        cuts = []
        for index in range(begin + 1, len(costs) - left + 2):
            worst, rest = best(index, left - 1)
            cuts.append((max(sum(costs[begin:index]), worst), (index, *rest)))
        return min(cuts)

    return best(0, stages)[1]


def check_enough(blocks: list[Block], world_size: int, net: str) -> None:
    """ValueError if there is not a block for each rank."""
    if len(blocks) < world_size:
        raise ValueError(
            f"{world_size} ranks need a layer with weights each, and this {net} has {len(blocks)}: use fewer ranks."
        )


def divisors(n: int) -> list[int]:
    return [divisor for divisor in range(1, n + 1) if n % divisor == 0]
