"""All that torch's optimizers, and those of one's own, keep is in a checkpoint; and which take what they are given."""

from functools import partial

import pytest
import torch
from oracles import seeded
from torch import nn

from dlkit import Experiment
from dlkit.training import CrossEntropy
from dlkit.training.optimizer_state import group_settings, pack_optimizer, unpack_optimizer

DATA = torch.rand(40, 12, generator=seeded()), torch.arange(40) % 3
STEPS = 6
KINDS = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
}


class Words(nn.Module):
    """An image as a sentence of twelve words, of which the gradient is sparse."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 3, sparse=True)

    def forward(self, x):
        return self.embed((3 * x).round().long()).sum(1)


FEWER = {"LBFGS": {"max_iter": 2}}
NETS = {"Muon": partial(nn.Linear, 12, 3, bias=False), "SparseAdam": Words}


def layers():
    return nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3))


def small(optimizer, **changes):
    usual = {"model": layers, "data": DATA, "learner": CrossEntropy(), "batch_size": 8, "lr": 0.05, "momentum": None}
    return Experiment(**usual | {"optimizer": optimizer} | changes)


def run(experiment, folder=None, steps=STEPS, **arguments):
    return experiment.run(steps=steps, checkpoint=folder, progress=False, device="cpu", **arguments)


def assert_resumes(experiment, folder, stop=4):
    run(experiment, folder, stop)
    parts, whole = run(experiment, folder, resume=True), run(experiment)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(parts.model.state_dict()[name], value), name
    for mine, theirs in zip(parts.optimizer.state.values(), whole.optimizer.state.values(), strict=True):
        for name, value in theirs.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(mine[name], value), name
                assert mine[name].dtype == value.dtype, name
            else:
                assert str(mine[name]) == str(value), name
    return parts


# To the bit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_every_optimizer_of_torch_resumes_to_the_bit(name, dtype, tmp_path):
    assert_resumes(
        small(partial(KINDS[name], **FEWER.get(name, {})), model=NETS.get(name, layers), dtype=dtype), tmp_path
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.SGD, momentum=0.9, nesterov=True),
        partial(torch.optim.RMSprop, momentum=0.9, centered=True),
        partial(torch.optim.Adam, amsgrad=True, fused=True),
        partial(torch.optim.LBFGS, max_iter=3, history_size=2, line_search_fn="strong_wolfe"),
    ],
    ids=["nesterov", "centred", "fused", "line search"],
)
def test_with_other_settings_too(optimizer, tmp_path):
    assert_resumes(small(optimizer, momentum=optimizer.keywords.get("momentum")), tmp_path)


class Adapts(torch.optim.SGD):
    """Keeps its pace in the parameter groups, and all kinds of values in its state."""

    def __init__(self, groups, lr, power=1.0):
        super().__init__(groups, lr)
        for group in self.param_groups:
            group |= {"pace": torch.tensor(1.0, dtype=torch.float64), "betas": (0.9, 0.5), "power": power}

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["steps"] = group.get("steps", 0) + 1
            group["pace"] *= 0.9
            group["betas"] = tuple(0.9 * beta for beta in group["betas"])
            rate = group["lr"] * float(group["pace"]) ** group["power"] * (1 + sum(group["betas"])) / group["steps"]
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("last", []).append(p.grad.clone())
                state["last"] = state["last"][-3:]
                state["count"] = state.get("count", torch.zeros(p.shape, dtype=torch.int64)) + (p.grad > 0)
                state["exact"] = state.get("exact", torch.zeros(p.shape, dtype=torch.float64)) + p.grad.double() / 3
                state["named"] = {"mode": "slow" if group["steps"] < 3 else "fast", "mean": state["exact"].mean()}
                p -= rate * (sum(state["last"]) + 0.1 * state["exact"].float() + state["count"] / 100)


def test_values_in_groups_and_lists_and_dtypes_of_a_state_resume_to_the_bit(tmp_path):
    found = assert_resumes(small(Adapts), tmp_path).optimizer
    group = found.param_groups[0]
    assert (group["steps"], type(group["betas"]), group["pace"].dtype) == (STEPS, tuple, torch.float64)
    state = found.state[group["params"][0]]
    assert (state["named"]["mode"], len(state["last"]), state["count"].dtype) == ("fast", 3, torch.int64)


def test_a_setting_that_has_changed_between_two_parts_is_the_new_one(tmp_path):
    run(small(Adapts), tmp_path, steps=4)
    found = run(small(partial(Adapts, power=2.0), lr=0.01), tmp_path, resume=True).optimizer.param_groups[0]
    assert (found["power"], found["lr"], found["steps"]) == (2.0, 0.01, STEPS)


def test_what_an_optimizer_shares_with_one_inside_it_stays_shared():
    parameter = nn.Parameter(torch.ones(2))
    outer = torch.optim.Adam([parameter], lr=0.1)
    inner = torch.optim.Adam(outer.param_groups, lr=0.1)
    inner.state, inner.param_groups = outer.state, outer.param_groups
    parameter.grad = torch.ones(2)
    outer.step()
    unpack_optimizer(outer, *pack_optimizer(outer, group_settings(outer)))
    outer.param_groups[0]["lr"] = 0.5
    assert inner.state[parameter] is outer.state[parameter]
    assert float(inner.state[parameter]["step"]) == 1
    assert inner.param_groups[0]["lr"] == 0.5


# What optimizers take


def test_an_optimizer_without_parameter_groups_works_on_all_parameters_at_once():
    experiment = small(partial(torch.optim.LBFGS, max_iter=4), batch_size=40, lr=0.5)
    net, (images, labels) = experiment.initial_model(), DATA
    weights = [p for p in net.parameters() if p.ndim > 1]
    by_hand = torch.optim.LBFGS([*weights, *(p for p in net.parameters() if p.ndim == 1)], lr=0.5, max_iter=4)

    def closure():
        by_hand.zero_grad()
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        return loss

    by_hand.step(closure)
    found = run(experiment, steps=1).model
    for name, value in net.named_parameters():
        torch.testing.assert_close(found.get_parameter(name), value)


def test_weight_decay_needs_parameter_groups():
    with pytest.raises(
        ValueError,
        match=r"^LBFGS takes no parameter groups, and so no weight decay .*: leave it out of the Experiment\.$",
    ):
        run(small(torch.optim.LBFGS, weight_decay=0.1))
    assert run(small(torch.optim.LBFGS), steps=1).step == 1


class Orthogonal(torch.optim.SGD):
    """Says nothing when it is made, and takes the singular vectors of gradients."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                u, _, v = torch.linalg.svd(p.grad, full_matrices=False)
                p -= group["lr"] * u @ v


class OrthogonalAndSGD(torch.optim.SGD):
    def __init__(self, groups, lr):
        super().__init__(groups, lr)
        parts = [[p for g in self.param_groups for p in g["params"] if (p.ndim == 2) == matrix] for matrix in (1, 0)]
        self.inner = [Orthogonal(parts[0], lr), torch.optim.SGD(parts[1], lr)]

    def step(self, closure=None):
        for inner in self.inner:
            inner.state = self.state
            inner.step()


@pytest.mark.parametrize("optimizer", [torch.optim.Muon, Orthogonal])
@pytest.mark.parametrize("checkpoint", [False, True])
def test_one_for_matrices_alone_says_so(optimizer, checkpoint, tmp_path):
    name = optimizer.__name__
    with pytest.raises(
        ValueError,
        match=rf"^{name} takes matrices alone \(.*\): give an optimizer of your own that has {name} for matrices and "
        r"torch.optim.SGD, say, for the rest, as under An optimizer in CONTRIBUTING.md\.$",
    ):
        run(small(optimizer), tmp_path if checkpoint else None)


def test_one_for_matrices_alone_does_with_another_for_the_rest(tmp_path):
    assert_resumes(small(OrthogonalAndSGD), tmp_path)


def test_what_else_is_wrong_with_an_optimizer_is_told_as_it_is():
    with pytest.raises(TypeError, match="unexpected keyword argument 'bets'"):
        run(small(partial(torch.optim.Adam, bets=(0.9, 0.99))))
