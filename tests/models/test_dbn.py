"""A stack of RBMs, against enumeration of all that its layers can be."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from oracles import every_state, randomised, seeded

from dlkit.analysis.bound import lower_bound
from dlkit.analysis.likelihood import exact_log_z
from dlkit.models import DBN, RBM, CodeRBM, DirectedLayer, GaussianRBM, LabelledRBM
from dlkit.models.autoencoder import Autoassociator
from dlkit.models.dreaming import dream, init_dream
from dlkit.models.unrolled import autoencoder, classifier


def stack(*sizes, labels=None, untied=False, std=0.7, seed=0):
    return randomised(DBN.of(list(sizes), labels=labels, untied=untied), seed, std)


def probability(p, states):
    """Π p^s (1-p)^(1-s) for each row of p and each of the states: (rows, states)."""
    p = p.double()[:, None]
    return (states * p + (1 - states) * (1 - p)).prod(2)


def image_distribution(dbn):
    """p(v) of every image of a DBN of one lower layer, by enumeration."""
    below, above = every_state(dbn.sizes[0]), every_state(dbn.sizes[1])
    joint = torch.logsumexp(-energies(dbn.top, above), 1)
    p_above = joint.softmax(0)
    if dbn.labels:
        p_above = p_above.reshape(len(above), -1).sum(1)
    return p_above @ probability(dbn.layers[0].visible_given(above.float()), below)


def energies(top, features):
    """E of every visible state of the top RBM, its one-hot labels changing fastest, with every hidden state."""
    h = every_state(top.hidden)
    v = features
    if top.labels:
        labels = torch.eye(top.labels, dtype=torch.float64)
        v = torch.cat([features.repeat_interleave(top.labels, 0), labels.repeat(len(features), 1)], 1)
    W, a, b = (p.detach().double() for p in (top.W, top.a, top.b))
    return -(v @ a)[:, None] - (h @ b)[None] - v @ W @ h.T


def test_up_and_down_go_through_the_layers_in_order():
    dbn = stack(5, 4, 3, 2)
    v, (first, second, top) = torch.rand(6, 5, generator=seeded()), dbn.layers
    h = torch.sigmoid(torch.sigmoid(v @ first.W + first.b) @ second.W + second.b)
    torch.testing.assert_close(dbn.up(v), h)
    torch.testing.assert_close(dbn.up(v, layers=3), torch.sigmoid(h @ top.W + top.b))
    torch.testing.assert_close(dbn.up(v, layers=0), v)
    torch.testing.assert_close(
        dbn.down(h), torch.sigmoid(torch.sigmoid(h @ second.W.T + second.a) @ first.W.T + first.a)
    )


def test_a_sampled_way_up_is_binary_and_has_the_means_of_one_layer():
    dbn = stack(5, 4, 3)
    v = torch.rand(1, 5, generator=seeded())
    h = dbn.up(v.expand(20_000, -1), seeded())
    assert set(h.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(h.mean(0), dbn.up(v)[0], atol=5 * 0.5 / 20_000**0.5, rtol=0)


def test_a_way_down_samples_the_layers_between_but_not_the_pixels():
    dbn = stack(5, 4, 3, 2)
    features = torch.ones(1, 3).expand(50, -1)
    images = dbn.down(features, seeded())
    assert len(images.unique(dim=0)) > 1
    assert not set(images.unique().tolist()) <= {0.0, 1.0}


def test_labels_are_read_by_exact_free_energy():
    dbn = stack(4, 3, 5, labels=3)
    v = every_state(4).float()
    features = dbn.up(v).double()
    joint = torch.logsumexp(-energies(dbn.top, features), 1).reshape(len(v), 3)
    torch.testing.assert_close(dbn.label_probabilities(v), joint.softmax(1).float())


@pytest.mark.parametrize("labels", [None, 3])
def test_the_bound_lies_under_the_exact_log_probability_and_not_far(labels):
    dbn = stack(4, 3, 2, labels=labels)
    v = every_state(4).float()
    exact = image_distribution(dbn).log()
    log_z = exact_log_z(dbn.top, progress=False)
    assert image_distribution(dbn).sum().item() == pytest.approx(1)
    for i in range(len(v)):
        bound = lower_bound(dbn, v[i : i + 1].repeat(1000, 1), log_z, samples=2)
        gap = exact[i].item() - bound.value
        assert -0.05 < gap < 1.5


def test_the_bound_is_the_elbo_of_its_definition():
    """Enumerated: E_q[log p(v, h) - log q(h)]."""
    dbn = stack(4, 3, 2)
    v, h = every_state(4)[11:12], every_state(3)
    q = probability(dbn.layers[0].hidden_given(v.float()), h)[0]
    p_below = probability(dbn.layers[0].visible_given(h.float()), v)[:, 0]
    p_above = torch.logsumexp(-energies(dbn.top, h), 1).log_softmax(0)
    expected = (q * (p_below.log() + p_above - q.log())).sum().item()
    bound = lower_bound(dbn, v.float().repeat(1000, 1), exact_log_z(dbn.top, progress=False), samples=20)
    assert bound.value == pytest.approx(expected, abs=0.03)


def test_the_bound_is_tight_where_the_top_is_the_layer_below_upside_down():
    """Hinton, Osindero, Teh 2006, §2: with tied weights the DBN is the RBM, and the way up is the true posterior."""
    rbm = randomised(RBM(4, 3), 0, 1.0)
    top = RBM(3, 4)
    top.load_state_dict({"W": rbm.W.T, "a": rbm.b, "b": rbm.a})
    v = every_state(4).float()
    log_z = exact_log_z(rbm, progress=False)
    bound = lower_bound(DBN([rbm, top]), v, log_z, samples=5)
    expected = (-rbm.free_energy(v) - log_z).mean().item()
    assert bound.value == pytest.approx(expected, abs=1e-5)


def test_grey_pixels_have_no_bound():
    with pytest.raises(ValueError, match=r'not all 0 or 1: load them with data.load\("mnist", binarise="sample"\)'):
        lower_bound(stack(4, 3, 2), torch.full((1, 4), 0.5), 0.0)


def test_dreams_come_from_the_model():
    """The images that a long chain of the top paints have the model's own pixel means."""
    dbn = stack(4, 3, 2, labels=2, std=0.5)
    state = init_dream(dbn, chains=20_000, generator=seeded())
    dreams = dream(dbn, state, generator=seeded(1))
    for _ in range(30):
        last = next(dreams)
    assert last.labels is not None
    expected = image_distribution(dbn) @ every_state(4)
    torch.testing.assert_close(last.images.mean(0).double(), expected, atol=0.01, rtol=0)
    joint = torch.logsumexp(-energies(dbn.top, every_state(3)), 1).softmax(0).reshape(-1, 2)
    torch.testing.assert_close(last.labels.mean(0).double(), joint.sum(0), atol=0.015, rtol=0)


def test_a_clamped_label_conditions_the_dream():
    dbn = stack(4, 3, 2, labels=2, std=1.0)
    joint = torch.logsumexp(-energies(dbn.top, every_state(3)), 1).reshape(-1, 2)
    for label in (0, 1):
        dreams = dream(dbn, init_dream(dbn, chains=20_000, generator=seeded()), label=label, generator=seeded(1))
        for _ in range(30):
            last = next(dreams)
        assert last.labels is not None
        assert (last.labels.argmax(1) == label).all()
        features = joint[:, label].softmax(0) @ every_state(3)
        torch.testing.assert_close(last.state[:, :3].mean(0).double(), features, atol=0.015, rtol=0)


def test_clamped_pixels_stay_and_the_others_do_not():
    dbn = stack(6, 4, 3)
    images = torch.rand(10, 6, generator=seeded())
    clamped = torch.tensor([True, True, True, False, False, False])
    last = next(dream(dbn, init_dream(dbn, images=images), images=images, clamped=clamped, generator=seeded()))
    assert torch.equal(last.images[:, :3], images[:, :3])
    assert (last.images[:, 3:] != images[:, 3:]).all()
    assert last.labels is None


def test_a_dream_from_images_starts_at_their_features_and_label():
    dbn = stack(4, 3, 2, labels=2)
    images = torch.rand(5, 4, generator=seeded())
    state = init_dream(dbn, images=images)
    torch.testing.assert_close(state[:, :3], dbn.up(images))
    torch.testing.assert_close(state[:, 3:], dbn.label_probabilities(images))


def test_a_dream_says_its_sizes_and_prints_no_tensor():
    labelled, plain = stack(4, 3, 2, labels=3), stack(4, 3, 2)
    reprs = [repr(next(dream(dbn, init_dream(dbn, chains=2)))) for dbn in (labelled, plain)]
    assert reprs == ["Dream(2 chains, images of 4 pixels, 3 labels)", "Dream(2 chains, images of 4 pixels, no labels)"]


@pytest.mark.parametrize("label", [-1, 2, torch.tensor([0, 2])])
def test_dreaming_of_a_label_out_of_range_is_refused(label):
    dbn = stack(4, 3, 2, labels=2)
    with pytest.raises(ValueError, match="out of range: this DBN knows 0 to 1"):
        next(dream(dbn, init_dream(dbn, chains=2), label=label))


def test_labels_asked_of_a_dbn_without_are_refused():
    dbn = stack(4, 3, 2)
    for ask in (
        lambda: dbn.label_probabilities(torch.zeros(1, 4)),
        lambda: next(dream(dbn, init_dream(dbn, chains=1), label=0)),
    ):
        with pytest.raises(ValueError, match=r"no label units: stack a LabelledRBM on top, DBN.of\(sizes, labels=10\)"):
            ask()


def test_a_dream_starts_from_one_thing():
    for given in ({}, {"chains": 2, "images": torch.zeros(2, 4)}):
        with pytest.raises(ValueError, match="one of the two"):
            init_dream(stack(4, 3, 2), **given)
    with pytest.raises(ValueError, match="go together"):
        next(dream(stack(4, 3, 2), torch.zeros(1, 3), clamped=torch.ones(4).bool()))
    with pytest.raises(ValueError, match=r"clamped has shape \(2, 2\) and an image 4 pixels.*by `mask.flatten\(\)`"):
        next(dream(stack(4, 3, 2), torch.zeros(1, 3), images=torch.ones(1, 4), clamped=torch.ones(2, 2).bool()))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([], "an empty stack"),
        ([RBM(4, 3), RBM(2, 2)], "layer 1 has 3 hidden units and layer 2 takes 2"),
        ([RBM(4, 3), RBM(3, 2), LabelledRBM(3, 2, labels=2)], "layer 2 has 2 hidden units and layer 3 takes 3"),
        ([LabelledRBM(4, 3, labels=2), RBM(3, 2)], "layer 1 of 2 has labels: only the top layer may"),
        ([DirectedLayer(4, 3)], "the top layer is a DirectedLayer: it must be an RBM"),
        ([CodeRBM(4, 3), RBM(3, 2)], "layer 1 of 2 has linear hidden units: only the top layer may"),
        ([RBM(4, 3), GaussianRBM(3, 2)], "layer 2 has real-valued visible units: only the lowest layer may"),
    ],
)
def test_a_stack_that_is_none_is_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        DBN(layers)


def test_runs_are_no_layers(unchecked):
    """The commonest slip: what `pretrain` gives are runs."""
    with pytest.raises(ValueError, match=r"a DBN of SimpleNamespaces: give \[run.model for run in runs\]"):
        DBN([SimpleNamespace(model=RBM(4, 3))])
    with pytest.raises(ValueError, match="a DBN of Linears: give RBMs"):
        DBN([torch.nn.Linear(3, 3)])


def test_sizes_that_make_no_stack_are_refused():
    with pytest.raises(ValueError, match=r"\[784\] has 1 sizes, and an RBM takes two"):
        DBN.of([784])


def test_images_of_another_size_are_refused():
    for dbn in (stack(6, 3, 2), stack(6, 3, 2, untied=True)):
        with pytest.raises(ValueError, match=r"images of shape \(2, 5\) for 6 visible units: give rows of 6"):
            dbn.up(torch.zeros(2, 5))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 6, dtype=torch.uint8), r"images are uint8 and the weights float32: `images.float\(\) / 255`"),
        (torch.zeros(2, 6, dtype=torch.float64), r"are float64 and the weights float32: `images.to\(torch.float32\)`"),
    ],
)
def test_images_of_another_dtype_are_refused(images, message, unchecked):
    for dbn in (stack(6, 3, 2), stack(6, 3, 2, untied=True), stack(6, 3, 2, labels=2)):
        with pytest.raises(ValueError, match=message):
            dbn.up(images, layers=1)


def test_features_of_another_size_do_not_go_down():
    with pytest.raises(ValueError, match=r"features of shape \(2, 4\) for a top RBM of 3"):
        stack(6, 3, 2).down(torch.zeros(2, 4))


def test_untying_changes_nothing_at_first_and_shares_nothing():
    dbn = stack(5, 4, 3, labels=2)
    untied, v = dbn.untied(), torch.rand(6, 5, generator=seeded())
    torch.testing.assert_close(untied.label_probabilities(v), dbn.label_probabilities(v))
    torch.testing.assert_close(untied.down(untied.up(v)), dbn.down(dbn.up(v)))
    assert not {p.data_ptr() for p in untied.parameters()} & {p.data_ptr() for p in dbn.parameters()}
    with torch.no_grad():
        untied.layers[0].R.zero_()
    torch.testing.assert_close(untied.down(torch.ones(1, 4)), dbn.down(torch.ones(1, 4)))


@pytest.mark.parametrize("labels", [None, 2])
@pytest.mark.parametrize("untied", [False, True])
def test_it_is_saved_and_loaded(tmp_path, labels, untied):
    dbn = stack(5, 4, 3, labels=labels, untied=untied)
    dbn.save(tmp_path / "dbn.safetensors")
    again = DBN.load(tmp_path / "dbn.safetensors")
    assert again.config() == dbn.config()
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), dbn.state_dict().values(), strict=True))


def test_a_stack_that_would_be_read_as_another_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="a stack with a CodeRBM is not saved whole: save each of its layers"):
        DBN([RBM(4, 3), CodeRBM(3, 2)]).save(tmp_path / "dbn.safetensors")


def test_a_stack_that_is_half_untied_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match=r"some layers are untied is not saved whole: save `dbn.untied\(\)`"):
        DBN([DirectedLayer(5, 4), RBM(4, 3), RBM(3, 2)]).save(tmp_path / "dbn.safetensors")


def test_the_file_of_another_model_is_refused(tmp_path):
    RBM(3, 2).save(tmp_path / "rbm.safetensors")
    with pytest.raises(ValueError, match="holds RBM, not DBN"):
        DBN.load(tmp_path / "rbm.safetensors")


def test_a_state_of_another_width_is_refused():
    dbn = stack(6, 4, 3, labels=2)
    for width in (4, 7):
        with pytest.raises(ValueError, match=rf"a state of {width} units for a top of 6: make one by `init_dream"):
            next(dream(dbn, torch.zeros(2, width), label=1))
    with pytest.raises(ValueError, match="0 chains: at least 1"):
        init_dream(dbn, chains=0)


# With real-valued pixels.


def real():
    return DBN([randomised(GaussianRBM(6, 4), 0, 0.7), randomised(RBM(4, 3), 1, 0.7)])


def test_a_stack_on_real_pixels_unrolls_with_its_variances():
    dbn, v = real(), torch.randn(7, 6, generator=seeded())
    torch.testing.assert_close(dbn.classifier(5)[:-1](v), dbn.up(v, layers=2))
    encoder, decoder = dbn.autoencoder()
    h = torch.rand(7, 3, generator=seeded())
    torch.testing.assert_close(decoder(h), dbn.down(torch.sigmoid(h @ dbn.top.W.T + dbn.top.a)))
    assert encoder(v).shape == (7, 3)


def test_a_bound_on_no_images_is_none():
    with pytest.raises(ValueError, match="no images: give one at least"):
        lower_bound(stack(4, 3, 2), torch.zeros(0, 4), 0.0)


def test_real_pixels_have_no_bernoulli_bound_and_are_not_untied():
    with pytest.raises(ValueError, match="the bound is for binary pixels"):
        lower_bound(real(), torch.zeros(1, 6), 0.0)
    with pytest.raises(ValueError, match="a GaussianRBM cannot be untied"):
        real().untied()


# Unrolled.


def test_the_classifier_on_a_linear_code_puts_no_sigmoid_on_it():
    dbn = DBN([randomised(RBM(6, 4), 0, 1.0), randomised(CodeRBM(4, 2), 1, 1.0)])
    v = torch.rand(7, 6, generator=seeded())
    torch.testing.assert_close(dbn.classifier(3)[:-1](v), dbn.up(v, layers=2))


def test_layers_that_do_not_chain_are_not_unrolled():
    for unroll in (partial(classifier, classes=2), autoencoder):
        with pytest.raises(ValueError, match="layer 1 has 4 hidden units and layer 2 takes 5"):
            unroll([RBM(6, 4), RBM(5, 2)])
        with pytest.raises(ValueError, match="an empty stack"):
            unroll([])


@pytest.mark.parametrize("untied", [False, True])
def test_the_classifier_climbs_as_the_stack_does(untied):
    dbn = stack(6, 4, 3, 2, untied=untied)
    net = dbn.classifier(5, generator=seeded())
    v = torch.rand(7, 2, 3, generator=seeded())
    torch.testing.assert_close(net[:-1](v), dbn.up(v, layers=3))
    assert net(v).shape == (7, 5)
    with torch.no_grad():
        net[1].weight.zero_()
    assert dbn.layers[0].recognition()[0].abs().max() > 0


def test_the_classifier_of_a_labelled_stack_begins_with_its_own_labels():
    dbn = stack(6, 4, 3, labels=5)
    net, v = dbn.classifier(), torch.rand(7, 6, generator=seeded())
    h = torch.sigmoid(dbn.up(v) @ dbn.top.W[:4] + dbn.top.b)
    torch.testing.assert_close(net(v), h @ dbn.top.W[4:].T + dbn.top.a[4:])
    assert dbn.classifier(3)(v).shape == (7, 3)


def test_classes_must_be_said_where_there_are_no_labels():
    with pytest.raises(ValueError, match=r"how many classes the net is to tell apart, classifier\(10\)"):
        stack(4, 3, 2).classifier()


@pytest.mark.parametrize("labels", [None, 3])
def test_the_autoencoder_goes_up_to_a_linear_code_and_down(labels):
    dbn = stack(6, 4, 3, labels=labels)
    encoder, decoder = dbn.autoencoder()
    v = torch.rand(7, 6, generator=seeded())
    W, b = dbn.top.W[:4], dbn.top.b
    torch.testing.assert_close(encoder(v), dbn.up(v) @ W + b)
    h = torch.rand(7, 3, generator=seeded())
    torch.testing.assert_close(decoder(h), dbn.down(torch.sigmoid(h @ W.T + dbn.top.a[:4])))


def test_a_code_on_top_is_what_the_encoder_gives():
    dbn = DBN([randomised(RBM(6, 4), 0, 1.0), randomised(CodeRBM(4, 2), 1, 1.0)])
    v = torch.rand(7, 6, generator=seeded())
    torch.testing.assert_close(dbn.autoencoder()[0](v), dbn.up(v, layers=2))


def test_other_layers_unroll_too():
    layers = [Autoassociator(6, 4, generator=seeded()), Autoassociator(4, 3, generator=seeded(1))]
    v = torch.rand(7, 6, generator=seeded())
    net = classifier(layers, 2)
    torch.testing.assert_close(net[:-1](v), layers[1].hidden_given(layers[0].hidden_given(v)))
    assert autoencoder(layers)(v).shape == (7, 6)
    back = torch.sigmoid(torch.ones(1, 4) @ layers[0].W.T + layers[0].a)
    torch.testing.assert_close(autoencoder(layers)[1][2:](torch.ones(1, 4)), back)
