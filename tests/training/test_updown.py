"""Up-down, against its gradient written out, and against what it is to reach."""

import pytest
import torch
from oracles import randomised, seeded

from dlkit.data import Batch
from dlkit.models import DBN
from dlkit.training import UpDown


def stack(labels=2, std=0.7):
    return randomised(DBN.of([5, 4, 3, 6], labels=labels, untied=True), 0, std)


def bce_grads(layer, x, target, *, up):
    """Gradient of the mean cross-entropy of one way of a layer, by autograd over its formula."""
    W, bias = (layer.R, layer.b) if up else (layer.G, layer.a)
    W, bias = W.detach().clone().requires_grad_(), bias.detach().clone().requires_grad_()
    p = torch.sigmoid(x @ (W if up else W.T) + bias)
    loss = -(target * p.log() + (1 - target) * (1 - p).log()).sum() / len(x)
    return torch.autograd.grad(loss, [W, bias])


@pytest.mark.parametrize("labels", [None, 2])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("chains", [None, 4])
def test_wake_trains_generation_and_sleep_recognition_and_the_top_by_cd(labels, k, chains):
    """The random numbers are drawn in the order of the paper's listing: up, chain, down."""
    dbn, n = stack(labels), 7
    v = torch.rand(n, 5, generator=seeded())
    y = torch.arange(n) % 2 if labels else None
    learner = UpDown(k, persistent=chains is not None)
    learner.start(dbn, Batch(v, y), chains or n, seeded(5))
    dreams = learner.state["chains"].clone() if chains else None
    learner.fill_grad(dbn, Batch(v, y), seeded(3))

    def draw(p):
        return (torch.rand(p.shape, generator=generator) < p).float()

    generator, (one, two, top) = seeded(3), dbn.layers
    with torch.no_grad():
        h1 = draw(torch.sigmoid(v @ one.R + one.b))
        h2 = draw(torch.sigmoid(h1 @ two.R + two.b))
        x = torch.cat([h2, torch.nn.functional.one_hot(y, 2).float()], 1) if labels else h2
        chain = x
        if chains:
            draw(top.hidden_given(x))  # for the report
            chain = dreams
        for _ in range(k):
            chain = top.draw_visible(top.visible_given(draw(top.hidden_given(chain))), generator)
        s2 = chain[:, :3]
        s1 = draw(torch.sigmoid(s2 @ two.G.T + two.a))
        s0 = torch.sigmoid(s1 @ one.G.T + one.a)
        positive, negative = x.T @ top.hidden_given(x) / n, chain.T @ top.hidden_given(chain) / len(chain)
    torch.testing.assert_close(top.W.grad, negative - positive)
    torch.testing.assert_close(top.a.grad, chain.mean(0) - x.mean(0))
    torch.testing.assert_close(top.b.grad, top.hidden_given(chain).mean(0) - top.hidden_given(x).mean(0))
    if chains:
        assert torch.equal(learner.state["chains"], chain)
    for layer, below, above in ((one, v, h1), (two, h1, h2)):
        for found, expected in zip((layer.G, layer.a), bce_grads(layer, above, below, up=False), strict=True):
            torch.testing.assert_close(found.grad, expected)
    for layer, below, above in ((one, s0, s1), (two, s1, s2)):
        for found, expected in zip((layer.R, layer.b), bce_grads(layer, below, above, up=True), strict=True):
            torch.testing.assert_close(found.grad, expected)


def test_it_reports_the_first_reconstruction_and_the_label_error():
    dbn = stack()
    report = UpDown(1).fill_grad(dbn, Batch(torch.rand(40, 5), torch.arange(40) % 2), seeded())
    assert list(report) == ["loss", "error"]
    assert 0 <= report["error"] <= 100
    assert "error" not in UpDown(1).fill_grad(stack(None), Batch(torch.rand(40, 5)), seeded())


@pytest.mark.parametrize(
    ("dbn", "batch", "message"),
    [
        (DBN.of([5, 4, 3]), Batch(torch.rand(4, 5)), r"give it `dbn.untied\(\)`"),
        (DBN.of([5, 4]), Batch(torch.rand(4, 5)), "a DBN of one layer has no way down to train"),
        (stack(), Batch(torch.rand(4, 5)), "2 label units, but the data have no labels"),
        (stack(), Batch(torch.rand(4, 5), torch.tensor([0, 1, 2, 0])), "not 0 to 1 for 2 classes"),
        (stack(), Batch(torch.rand(4, 6), torch.tensor([0, 1, 1, 0])), "6 values each, and the model takes 5"),
    ],
)
def test_what_it_cannot_train_is_refused(dbn, batch, message):
    with pytest.raises(ValueError, match=message):
        UpDown().start(dbn, batch, 2, seeded())


def test_no_gibbs_steps_are_refused():
    with pytest.raises(ValueError, match="0 Gibbs steps of the top: at least 1"):
        UpDown(0)
