"""Sparse codes against the conditions of their optimum, dictionaries against autograd."""

from functools import partial

import pytest
import torch
from oracles import seeded

from dlkit.data import Batch
from dlkit.models.sparse_coding import SparseCoding
from dlkit.training import Experiment, pretrain
from dlkit.training.dictionary import DictionaryLearning

V = torch.randn(7, 5, generator=seeded())


def model(**changes):
    return SparseCoding(5, 8, **{"penalty": 0.3, "steps": 3000, "generator": seeded()} | changes)


def cost(h, coder, v=V):
    return 0.5 * ((v - h @ coder.D) ** 2).sum(1) + coder.penalty * h.sum(1)


def test_a_code_satisfies_the_conditions_of_the_optimum():
    """Where a unit is on the slope of the cost is 0; where it is off the slope is not negative."""
    coder = model()
    h = coder.hidden_given(V)
    slope = (h @ coder.D - V) @ coder.D.T + coder.penalty
    assert h.min() >= 0
    assert slope[h > 0].abs().max() < 1e-4
    assert slope[h == 0].min() > -1e-4
    assert 0 < (h > 0).float().mean() < 0.8


def test_a_code_is_the_same_to_the_bit_by_a_step_size_that_is_a_number(monkeypatch):
    """The step size stays a tensor, so that no value need leave a GPU."""
    coder, eigvalsh = model(steps=30), torch.linalg.eigvalsh
    code = coder.hidden_given(V)
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda gram: eigvalsh(gram).tolist())
    assert torch.equal(coder.hidden_given(V), code)


def test_more_steps_bring_it_nearer():
    costs = [cost(model(steps=steps).hidden_given(V), model()).mean().item() for steps in (1, 5, 30, 3000)]
    assert costs == sorted(costs, reverse=True)
    assert costs[2] - costs[3] < 0.01 * costs[3]


def test_orthogonal_parts_give_the_soft_threshold():
    coder = SparseCoding(4, 4, penalty=0.3, steps=50)
    coder.D.data.copy_(torch.eye(4))
    v = torch.tensor([[1.0, 0.2, -1.0, 0.5]])
    torch.testing.assert_close(coder.hidden_given(v), torch.tensor([[0.7, 0.0, 0.0, 0.2]]), atol=1e-5, rtol=0)


def test_the_gradient_of_the_parts_is_that_of_the_cost():
    coder = model()
    h = coder.hidden_given(V)
    report = DictionaryLearning().fill_grad(coder, Batch(V), seeded())
    D = coder.D.detach().clone().requires_grad_()
    loss = (0.5 * ((V - h @ D) ** 2).sum(1) + coder.penalty * h.sum(1)).mean()
    torch.testing.assert_close(coder.D.grad, torch.autograd.grad(loss, D)[0])
    torch.testing.assert_close(report["loss"], loss.detach())
    assert report["active"].item() == pytest.approx(100 * (h > 0).float().mean().item())


def test_parts_have_length_one_when_they_are_used():
    coder = model()
    coder.D.data.mul_(3)
    DictionaryLearning().fill_grad(coder, Batch(V), seeded())
    torch.testing.assert_close(coder.D.norm(dim=1), torch.ones(8))


def test_it_finds_the_parts_that_the_data_are_made_of():
    parts = torch.eye(6)
    data = (
        (torch.rand(500, 6, generator=seeded()) < 0.2).float() * (1 + torch.rand(500, 6, generator=seeded(1))) @ parts
    )
    make = partial(SparseCoding, 6, 6, penalty=0.1, generator=seeded(3))
    run = Experiment(make, data, DictionaryLearning(), 50, 60, lr=2.0).run(progress=False)
    overlap = run.model.D.detach() @ parts.T
    assert overlap.max(0).values.min() > 0.95


def test_it_is_pretrained_as_any_layer_is():
    layer = Experiment(partial(SparseCoding, 5, 8), V.repeat(10, 1), DictionaryLearning(), 10, 2, lr=0.5)
    runs = pretrain([layer, Experiment(partial(SparseCoding, 8, 4), None, DictionaryLearning(), 10, 2)], progress=False)
    torch.testing.assert_close(runs[1].data.images, runs[0].model.hidden_given(V.repeat(10, 1)))


def test_what_means_nothing_is_refused():
    for penalty in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=f"a penalty of {penalty}: it must be above 0"):
            SparseCoding(3, 3, penalty=penalty)
    with pytest.raises(ValueError, match="give rows of 5"):
        model().hidden_given(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="the model takes 5"):
        DictionaryLearning().start(model(), Batch(torch.zeros(2, 4)), 2, seeded())
