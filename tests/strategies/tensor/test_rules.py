"""Each rule of splitting by neurons, on ranks, against the whole net in one process."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from ranks import team
from torch.utils import _pytree as pytree

from dlkit.distributed.group import Group
from dlkit.models.graph_check import graph_of
from dlkit.strategies.graph.on_rank import gather_part, on_rank
from dlkit.strategies.graph.plan_costs import plan_costs
from dlkit.strategies.tensor.tensor_parallel import plan_neurons

sys.path.insert(0, str(Path(__file__).parent))
from small_nets import CASES

IMAGES = 5


def run(net, x):
    """Two steps: outputs, gradients and buffers, and outputs in evaluation mode."""
    found = {}
    for step in range(2):
        net.zero_grad()
        x.grad = None
        tensors = [t for t in pytree.tree_leaves(net(x * 1)) if isinstance(t, torch.Tensor)]
        pushes = [torch.linspace(-1, 1, t.numel(), dtype=t.dtype).view(t.shape).cos() for t in tensors]
        sum((t * push).sum() for t, push in zip(tensors, pushes, strict=True)).backward()
        found |= {f"output {step} {k}": t.detach() for k, t in enumerate(tensors)}
        found |= {f"input {step}": x.grad} if x.grad is not None else {}
        found |= {f"gradient {step} {name}": p.grad for name, p in net.named_parameters() if p.grad is not None}
    found |= {f"state {step} {name}": value for name, value in net.state_dict().items()}
    mode = {module: module.training for module in net.modules()}
    with torch.no_grad():
        net.eval()
        answers = [t for t in pytree.tree_leaves(net(x.detach())) if isinstance(t, torch.Tensor)]
    for module, training in mode.items():
        module.training = training
    return found | {f"evaluated {k}": answer for k, answer in enumerate(answers)}


def compared(name):
    """The largest difference of a rank's from one process, exchanges, sent bytes as counted and as costed."""
    torch.manual_seed(0)
    case = CASES[name]
    whole = case.make().double()
    x = torch.rand(IMAGES, *case.shape, dtype=torch.float64, requires_grad=True)
    group = Group()
    net = copy.deepcopy(whole)
    plan = plan_neurons(graph_of(net, x), group.world_size)
    costs = plan_costs(plan, IMAGES)[group.rank]
    layouts = on_rank(plan, group)
    held = sum(p.numel() for p in net.parameters()), sum(p.numel() for p in whole.parameters())
    expected, found = run(whole, x), run(copy.deepcopy(net), x)
    assert list(expected) == list(found), name
    worst = 0.0
    for key, value in expected.items():
        part = gather_part(key.split(" ")[-1], found[key], layouts, group)
        if value.is_floating_point():
            worst = max(worst, float((part - value).abs().max() / (1 + value.abs().max())))
        else:
            assert torch.equal(part, value), (name, key)
    before, x = group.recorder.bytes_sent, x.detach()
    tensors = [t for t in pytree.tree_leaves(net(x)) if isinstance(t, torch.Tensor) and t.requires_grad]
    sum(t.sum() for t in tensors).backward()
    sent = group.recorder.bytes_sent - before
    on_paper = sum(cost.bytes_sent for cost in costs)
    counted = sum(cost.parameters for cost in costs) // 8, sum(cost.whole for cost in costs) // 8
    names = " ".join(made.exchange.name for step in plan.steps for made in step.made)
    return worst, names, sent - on_paper, held, counted


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_split_net_is_the_whole_one_and_sends_what_its_plan_says(ranks):
    def all_compared(names):
        return {name: compared(name) for name in names}

    for found in team(ranks).call(all_compared, list(CASES)):
        for name, (worst, exchanges, more, held, counted) in found.items():
            assert worst < 1e-12, (name, worst)
            if ranks == 2 and CASES[name].exchanges is not None:
                assert exchanges.split(" ") == CASES[name].exchanges.split(" "), (name, exchanges)
            assert abs(more) <= len(exchanges.split(" ")), (name, more)  # what is sent is rounded down
            assert held[0] < held[1] or "fewer" in name, name
            assert counted == held, (name, counted, held)
