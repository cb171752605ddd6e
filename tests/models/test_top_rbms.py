"""RBMs with label units and with linear hidden units, against enumeration and integrals."""

import math

import pytest
import torch
import torch.nn.functional as F
from oracles import chi_square_bound, every_state, randomised, seeded

from dlkit.analysis.likelihood import ais, exact_log_z, pseudo_log_likelihood
from dlkit.data import Batch
from dlkit.models import CodeRBM, LabelledRBM
from dlkit.training import CD, PCD

FEATURES, LABELS, HIDDEN = 3, 4, 5


def labelled(seed=0, std=1.0):
    return randomised(LabelledRBM(FEATURES, HIDDEN, labels=LABELS), seed, std).double()


def labelled_states():
    """Every (features, one-hot label)."""
    features, labels = every_state(FEATURES), torch.eye(LABELS, dtype=torch.float64)
    return torch.cat([features.repeat_interleave(LABELS, 0), labels.repeat(len(features), 1)], 1)


def log_joint(rbm):
    """-E of every labelled state with every hidden state, from the formula."""
    v, h = labelled_states(), every_state(HIDDEN)
    W, a, b = rbm.W.detach(), rbm.a.detach(), rbm.b.detach()
    return (v @ a)[:, None] + (h @ b)[None] + v @ W @ h.T


def test_the_label_is_one_softmax_unit():
    rbm = labelled()
    joint = log_joint(rbm).reshape(2**FEATURES, LABELS, -1)
    h = every_state(HIDDEN)
    mean = rbm.visible_given(h)
    given_h = joint.permute(2, 0, 1).flatten(1).softmax(1).reshape(-1, 2**FEATURES, LABELS)
    torch.testing.assert_close(mean[:, FEATURES:], given_h.sum(1))
    torch.testing.assert_close(mean[:, :FEATURES], given_h.sum(2) @ every_state(FEATURES))


def test_label_probabilities_sum_the_hidden_units_out():
    rbm = labelled()
    joint = torch.logsumexp(log_joint(rbm).reshape(2**FEATURES, LABELS, -1), 2)
    torch.testing.assert_close(rbm.label_probabilities(every_state(FEATURES)), joint.softmax(1))
    torch.testing.assert_close(rbm.label_free_energies(every_state(FEATURES)), -joint)


def test_exact_log_z_counts_one_label_at_a_time():
    rbm = labelled()
    expected = float(torch.logsumexp(log_joint(rbm).flatten(), 0))
    assert exact_log_z(rbm, progress=False) == pytest.approx(expected)


def test_ais_knows_the_label_unit():
    rbm = labelled().float()
    estimate = ais(rbm, chains=500, betas=torch.linspace(0, 1, 301), progress=False)
    assert estimate.low <= exact_log_z(rbm, progress=False) <= estimate.high


def test_samples_follow_the_conditional():
    rbm = labelled()
    h = every_state(HIDDEN)[5:6]
    count = 40_000
    v = rbm.draw_visible(rbm.visible_given(h).expand(count, -1), seeded())
    assert (v[:, FEATURES:].sum(1) == 1).all()
    number = (v[:, :FEATURES].long() * torch.tensor([4, 2, 1])).sum(1) * LABELS + v[:, FEATURES:].argmax(1)
    expected = log_joint(rbm)[:, 5].softmax(0)
    assert_counts(torch.bincount(number, minlength=len(expected)).double(), expected * count)


def assert_counts(encode_visible, expected):
    assert float(((encode_visible - expected) ** 2 / expected).sum()) < chi_square_bound(len(expected))


def test_observed_puts_one_hot_labels_beside_the_features():
    v = labelled().encode_visible(torch.rand(2, FEATURES), torch.tensor([3, 0]))
    assert v.shape == (2, FEATURES + LABELS)
    assert v[:, FEATURES:].tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize("learner", [CD(), PCD(), PCD(centred=True)])
def test_contrastive_divergence_learns_labels_too(learner):
    """Two patterns, each with its label: after a while the label follows from the pattern."""
    rbm = LabelledRBM(4, 8, labels=2, std=0.1, generator=seeded())
    images, labels = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]).repeat(25, 1), torch.tensor([0, 1]).repeat(25)
    optimizer = torch.optim.SGD(rbm.parameters(), lr=0.2)
    generator = seeded()
    learner.start(rbm, Batch(images, labels), 50, generator)
    for _ in range(400):
        learner.fill_grad(rbm, Batch(images, labels), generator)
        optimizer.step()
    assert (rbm.label_probabilities(images[:2]).argmax(1) == labels[:2]).all()
    assert rbm.label_probabilities(images[:2]).amax(1).min() > 0.9


def test_the_label_bias_starts_at_the_labels_frequency():
    rbm = LabelledRBM(4, 2, labels=2)
    images, labels = torch.rand(1000, 4), (torch.arange(1000) < 250).long()
    CD().start(rbm, Batch(images, labels), 100, seeded())
    torch.testing.assert_close(rbm.a[4:].softmax(0), torch.tensor([0.75, 0.25]), atol=1e-3, rtol=0)


def test_data_without_labels_are_refused():
    with pytest.raises(ValueError, match=r"4 label units, but the data have no labels: give \(images, labels\)"):
        CD().start(labelled().float(), Batch(torch.rand(5, FEATURES)), 5, seeded())


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_out_of_range_is_refused(label):
    with pytest.raises(ValueError, match="not 0 to 3 for 4 classes"):
        CD().start(labelled().float(), Batch(torch.rand(2, FEATURES), torch.tensor([0, label])), 2, seeded())


def test_pseudo_likelihood_is_refused():
    with pytest.raises(ValueError, match="a LabelledRBM has others"):
        pseudo_log_likelihood(labelled(), labelled_states())


def test_an_rbm_of_one_label_is_refused():
    with pytest.raises(ValueError, match=r"1 labels: at least 2 are needed, or take RBM\(3, 5\)"):
        LabelledRBM(3, 5, labels=1)


def test_it_is_saved_and_loaded(tmp_path):
    rbm = labelled()
    rbm.save(tmp_path / "top.safetensors")
    assert torch.equal(LabelledRBM.load(tmp_path / "top.safetensors").W, rbm.W)


# Linear codes.


def code(std=0.5):
    return randomised(CodeRBM(4, 2), 0, std).double()


def test_the_free_energy_of_a_code_is_the_integral_over_it():
    rbm, v = code(), every_state(4)
    grid = torch.linspace(-12, 12, 241, dtype=torch.float64)
    h = torch.cartesian_prod(grid, grid)
    joint = torch.stack([-rbm.energy(row.expand(len(h), -1), h) for row in v])
    integral = torch.logsumexp(joint, 1) + 2 * math.log(0.1)
    torch.testing.assert_close(rbm.free_energy(v), -integral)


def test_exact_log_z_and_ais_of_a_code_agree_with_the_sum_over_the_pixels():
    rbm = code()
    expected = torch.logsumexp(-rbm.free_energy(every_state(4)), 0).item()
    assert exact_log_z(rbm, progress=False) == pytest.approx(expected)
    estimate = ais(rbm.float(), chains=1000, betas=torch.linspace(0, 1, 301), progress=False)
    assert estimate.low <= expected <= estimate.high


def test_a_code_given_the_pixels_is_normal_around_its_input():
    rbm, v = code(), every_state(4)[3:4]
    mean = rbm.hidden_given(v)
    torch.testing.assert_close(mean, v @ rbm.W + rbm.b)
    h = rbm.draw_hidden(mean.expand(50_000, -1), seeded())
    torch.testing.assert_close(h.mean(0), mean[0], atol=5 / 50_000**0.5, rtol=0)
    torch.testing.assert_close(h.T.cov(), torch.eye(2).double(), atol=0.04, rtol=0)


def test_cd_s_gradient_of_a_code_is_that_of_the_energy():
    rbm = code().float()
    x = torch.rand(6, 4, generator=seeded())
    learner = CD(visible_bias_from_data=False)
    learner.start(rbm, Batch(x), 6, seeded())
    learner.fill_grad(rbm, Batch(x), seeded(1))
    h = rbm.draw_hidden(rbm.hidden_given(x), seeded(1))
    v = rbm.visible_given(h)
    expected = v.T @ rbm.hidden_given(v) / 6 - x.T @ rbm.hidden_given(x) / 6
    torch.testing.assert_close(rbm.W.grad, expected)


def test_exact_quantities_are_refused_for_both():
    from dlkit.analysis.exact import log_likelihood

    for rbm in (code(), labelled()):
        with pytest.raises(ValueError, match="has units that are not binary"):
            log_likelihood(rbm, torch.zeros(1, rbm.visible))


def test_log_sum_visible_is_smooth_in_the_labels():
    """The label part is a log-sum-exp, not a sum of softplus."""
    rbm = labelled()
    x = torch.zeros(1, FEATURES + LABELS, dtype=torch.float64)
    expected = F.softplus(rbm.a[:FEATURES]).sum() + torch.logsumexp(rbm.a[FEATURES:], 0)
    torch.testing.assert_close(rbm.log_sum_visible(x, rbm.a)[0], expected)
