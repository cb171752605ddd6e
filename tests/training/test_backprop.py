"""Learning by backpropagation, against autograd over the same formulas written out."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from oracles import randomised, seeded
from torch import nn

from dlkit.data import Batch
from dlkit.models import RBM
from dlkit.models.autoencoder import Autoassociator
from dlkit.training import CrossEntropy, Experiment, Reconstruction

IMAGES = torch.rand(8, 2, 3, generator=seeded())
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def net(outputs=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Sigmoid(), nn.Linear(5, outputs))


def grads(model):
    return [p.grad.clone() for p in model.parameters()]


def test_cross_entropy_is_the_mean_of_minus_log_p():
    ours, theirs = net(), net()
    report = CrossEntropy().fill_grad(ours, Batch(IMAGES, LABELS), seeded())
    log_p = theirs(IMAGES).log_softmax(1)
    loss = -log_p[torch.arange(8), LABELS].mean()
    loss.backward()
    torch.testing.assert_close(report["loss"], loss.detach())
    assert report["error"].item() == pytest.approx(100 * (log_p.argmax(1) != LABELS).sum().item() / 8)
    for one, other in zip(grads(ours), grads(theirs), strict=True):
        torch.testing.assert_close(one, other)


def test_with_a_rubbish_class_it_is_equation_9():
    """LeCun et al. 1998: y_D + log(e^-j + Σ_i e^-y_i), of the penalties y, averaged over the images."""
    penalties = -net()(IMAGES)
    right = penalties[torch.arange(8), LABELS]
    expected = (right + (torch.tensor(-0.5).exp() + (-penalties).exp().sum(1)).log()).mean()
    report = CrossEntropy(rubbish=0.5).fill_grad(net(), Batch(IMAGES, LABELS), seeded())
    torch.testing.assert_close(report["loss"], expected.detach())


def test_a_second_batch_does_not_add_to_the_first():
    model, learner = net(), CrossEntropy()
    learner.fill_grad(model, Batch(IMAGES, LABELS), seeded())
    once = grads(model)
    learner.fill_grad(model, Batch(IMAGES, LABELS), seeded())
    assert all(torch.equal(one, again) for one, again in zip(once, grads(model), strict=True))


def test_it_learns_what_can_be_learnt():
    images = torch.eye(6).repeat(20, 1)
    run = Experiment(net, (images, torch.arange(6).repeat(20) % 3), CrossEntropy(), 10, 60, lr=1.0).run(progress=False)
    assert run.history["error"][-1] == 0


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"no labels: give \(images, labels\)"),
        (torch.tensor([0, 3, 0, 0, 0, 0, 0, 0]), "not 0 to 2 for 3 classes"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        CrossEntropy().start(net(), Batch(IMAGES, labels), 4, seeded())


def written_out(x, W, a, b, seen):
    return torch.sigmoid(torch.sigmoid(seen @ W + b) @ W.T + a)


@pytest.mark.parametrize("cost", ["cross-entropy", "squared"])
def test_reconstruction_costs_what_the_formula_says(cost):
    layer = Autoassociator(6, 4, generator=seeded())
    learner = Reconstruction(cost)
    learner.start(layer, Batch(IMAGES), 8, seeded())
    report = learner.fill_grad(layer, Batch(IMAGES), seeded())
    x = IMAGES.flatten(1)
    leaves = [p.detach().clone().requires_grad_() for p in (layer.W, layer.a, layer.b)]
    back = written_out(x, *leaves, x)
    squared, cross = ((back - x) ** 2).sum() / 8, -(x * back.log() + (1 - x) * (1 - back).log()).sum() / 8
    loss = squared if cost == "squared" else cross
    torch.testing.assert_close(report["loss"], loss.detach())
    for found, expected in zip((layer.W, layer.a, layer.b), torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(found.grad, expected)


def test_corruption_hides_inputs_from_the_net_and_not_from_the_cost():
    """Averaged over many corruptions of one image the loss is that of the formula, enumerated over what is kept."""
    layer, x = randomised(Autoassociator(3, 4), 0, 2.0), torch.rand(1, 3, generator=seeded())
    report = Reconstruction(corruption=0.25).fill_grad(layer, Batch(x.expand(40_000, -1)), seeded())
    expected = 0.0
    for kept in torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3):
        back = layer(x * kept)
        chance = 0.75 ** kept.sum().item() * 0.25 ** (3 - kept.sum().item())
        expected += chance * F.binary_cross_entropy(back, x, reduction="sum").item()
    assert report["loss"].item() == pytest.approx(expected, rel=0.01)
    assert expected != pytest.approx(F.binary_cross_entropy(layer(x), x, reduction="sum").item(), rel=0.02)


def test_the_sparsity_target_pulls_activity_to_it():
    layer = Autoassociator(6, 4, generator=seeded())
    images = torch.rand(200, 6, generator=seeded(1))
    learner = Reconstruction(sparsity_target=0.1, sparsity_cost=30.0)
    layer = Experiment(partial(copy.deepcopy, layer), images, learner, 20, 60, lr=0.02).run(progress=False).model
    assert layer.hidden_given(images).mean(0).sub(0.1).abs().max() < 0.03


def test_the_sparsity_cost_is_the_cross_entropy_with_the_target():
    layer, x = Autoassociator(6, 4, generator=seeded()), IMAGES.flatten(1)
    Reconstruction(sparsity_target=0.1, sparsity_cost=2.0).fill_grad(layer, Batch(x), seeded())
    W, a, b = (p.detach().clone().requires_grad_() for p in (layer.W, layer.a, layer.b))
    q = torch.sigmoid(x @ W + b).mean(0)
    back = written_out(x, W, a, b, x)
    loss = F.binary_cross_entropy(back, x, reduction="sum") / 8 - 2 * (0.1 * q.log() + 0.9 * (1 - q).log()).sum()
    torch.testing.assert_close(layer.b.grad, torch.autograd.grad(loss, b)[0])


def test_real_inputs_come_back_unsquashed():
    layer = Autoassociator(6, 4, real=True, generator=seeded())
    x = 3 * torch.randn(5, 6, generator=seeded())
    torch.testing.assert_close(layer(x), torch.sigmoid(x @ layer.W + layer.b) @ layer.W.T + layer.a)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reconstruction("hinge"), 'cost="hinge": "cross-entropy" for pixels'),
        (lambda: Reconstruction(corruption=1.0), "a corruption of 1.0: from 0 up to, but not, 1"),
        (lambda: Reconstruction(sparsity_target=2.0), "0.01 to 0.1 is usual"),
        (lambda: Autoassociator(0, 3), "both at least 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("learner", "model", "images", "message"),
    [
        (Reconstruction(), net(5), IMAGES, "the net gives 5 values for images of 6 pixels"),
        (Reconstruction(), net(6), 2 * IMAGES, r"outside \[0, 1\]"),
        (Reconstruction(sparsity_target=0.1), net(6), IMAGES, "is for an Autoassociator, and this is a Sequential"),
    ],
)
def test_nets_and_images_that_do_not_fit_are_refused(learner, model, images, message):
    with pytest.raises((ValueError, TypeError), match=message):
        learner.start(model, Batch(images), 4, seeded())


def test_models_that_are_no_nets_and_images_they_do_not_take_are_refused():
    for learner in (CrossEntropy(), Reconstruction()):
        with pytest.raises(TypeError, match=r"RBM has no forward .*`dbn.classifier\(\)`"):
            learner.start(RBM(6, 3), Batch(IMAGES, LABELS), 4, seeded())
        with pytest.raises(ValueError, match=r"does not take images of shape \(2, 3\) \(.*begin it with nn.Flatten"):
            learner.start(nn.Linear(6, 3), Batch(IMAGES, LABELS), 4, seeded())


def test_a_look_at_the_net_leaves_batch_normalisation_as_it_is():
    """It takes no batch of one, and would count it."""
    normalised = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, 3))
    before = {name: value.clone() for name, value in normalised.state_dict().items()}
    CrossEntropy().start(normalised, Batch(IMAGES, LABELS), 4, seeded())
    assert all(torch.equal(value, before[name]) for name, value in normalised.state_dict().items())
    assert normalised.training
    normalised[1].eval()
    CrossEntropy().start(normalised, Batch(IMAGES, LABELS), 4, seeded())
    assert not normalised[1].training


def test_a_distortion_is_seen_by_the_net_and_draws_from_the_runs_generator():
    def brighter(images, generator):
        return images + torch.rand(1, generator=generator)

    ours, theirs = net(), net()
    CrossEntropy(brighter).fill_grad(ours, Batch(IMAGES, LABELS), seeded(7))
    CrossEntropy().fill_grad(theirs, Batch(IMAGES + torch.rand(1, generator=seeded(7)), LABELS), seeded())
    for one, other in zip(grads(ours), grads(theirs), strict=True):
        assert torch.equal(one, other)


# Convolutional autoencoders


def conv_autoencoder(maps=1, *before):
    torch.manual_seed(0)
    return nn.Sequential(
        *before,
        *(nn.Conv2d(maps, 4, 3, stride=2, padding=1), nn.Tanh()),
        *(nn.ConvTranspose2d(4, maps, 2, stride=2), nn.Sigmoid()),
    )


PICTURES = torch.rand(24, 8, 8, generator=seeded())


@pytest.mark.parametrize("cost", ["cross-entropy", "squared"])
@pytest.mark.parametrize(
    ("images", "maps"),
    [
        (PICTURES, PICTURES[:, None]),
        (PICTURES[:, None], PICTURES[:, None]),
        (PICTURES.view(8, 3, 8, 8), PICTURES.view(8, 3, 8, 8)),
    ],
    ids=["height and width", "one map", "three maps"],
)
def test_a_convolutional_autoencoder_learns_from_maps_what_a_loop_in_torch_learns(images, maps, cost):
    net = conv_autoencoder(maps.shape[1])
    experiment = Experiment(
        lambda: conv_autoencoder(maps.shape[1]), images, Reconstruction(cost), len(images), epochs=5, lr=0.01
    )
    run = experiment.run(progress=False, device="cpu")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.mse_loss if cost == "squared" else F.binary_cross_entropy
        (loss(net(maps), maps, reduction="sum") / len(maps)).backward()
        optimizer.step()
    for found, expected in zip(run.model.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_corruption_of_maps_is_that_of_rows():
    images = PICTURES[:, None]
    maps, rows = Reconstruction(corruption=0.5), Reconstruction(corruption=0.5)
    maps.start(conv_autoencoder(), Batch(images), 8, seeded())
    hidden = maps.inputs(Batch(images), seeded())
    assert hidden.shape == images.shape
    assert torch.equal(hidden.flatten(1), rows.inputs(Batch(images), seeded()))


def unflattened():
    return conv_autoencoder(1, nn.Unflatten(1, (1, 8, 8))).append(nn.Flatten())


class Recurrent(nn.Module):
    """Takes images row by row, and no rows of pixels; gives rows of pixels."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 8, batch_first=True)

    def forward(self, images):
        return self.lstm(images)[0].sigmoid().flatten(1)


@pytest.mark.parametrize(
    ("make", "images", "shape"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Sigmoid()), PICTURES, (64,)),
        (lambda: nn.Sequential(nn.Linear(64, 64), nn.Sigmoid()), PICTURES.flatten(1), (64,)),
        (lambda: Autoassociator(64, 5), PICTURES, (64,)),
        (unflattened, PICTURES.flatten(1), (64,)),
        (conv_autoencoder, PICTURES, (1, 8, 8)),
        (Recurrent, PICTURES, (8, 8)),
    ],
    ids=["Flatten", "rows", "Autoassociator", "Unflatten", "maps", "LSTM"],
)
def test_in_training_a_net_is_given_images_in_the_shape_in_which_it_took_them_at_the_start(make, images, shape):
    learner = Reconstruction()
    learner.start(make(), Batch(images), 8, seeded())
    assert learner.inputs(Batch(images), seeded()).shape[1:] == shape
    run = Experiment(make, images, Reconstruction(), 8, epochs=6, lr=0.02).run(progress=False)
    assert run.history["loss"][-1] < run.history["loss"][0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: conv_autoencoder()[:2], r"gives \(4, 4, 4\) for images of \(1, 8, 8\): it must give this shape back"),
        (lambda: nn.LSTM(8, 8, batch_first=True), r"gives a tuple for images of \(8, 8\)"),
        (lambda: nn.Conv2d(3, 3, 1), r"does not take images of shape \(8, 8\)"),
    ],
)
def test_a_net_that_gives_no_images_back_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        Reconstruction().start(make(), Batch(PICTURES), 8, seeded())
