"""Every analysis of a model leaves the model and the reader's images as they were, and says what it cannot take.

All public functions and classes of dlkit.analysis that take a model first are asked, with arguments by name: a new one
is asked too, and one with an argument of a new name fails until ARGUMENTS has it.
"""

import warnings
from functools import partial
from inspect import isclass, isfunction, ismodule, signature

import numpy as np
import pytest
import torch
from oracles import seeded
from torch import Tensor, nn

from dlkit import Experiment, analysis
from dlkit.analysis.codes import Codes
from dlkit.models import DBN, RBM, LabelledRBM
from dlkit.training import CrossEntropy

MODELS = {"net", "rbm", "dbn", "model", "autoencoder"}
IMAGES = torch.rand(12, 1, 10, 14, generator=seeded())
DIGITS = (IMAGES[:, 0, :3, :4] > 0.5).float()  # binary, 12 pixels


def analyses():
    """Name and function of each analysis of a model."""
    found = {name: getattr(analysis, name) for name in dir(analysis)}
    for module, name in [(value, name) for name, value in found.items() if ismodule(value)]:
        found |= {f"{name}.{each}": value for each, value in vars(module).items() if each[0] != "_"}
    return {
        name: value
        for name, value in found.items()
        if (isfunction(value) or isclass(value)) and value.__module__.startswith("dlkit.analysis")
        if next(iter(signature(value).parameters), None) in MODELS
    }


class Net(nn.Module):
    """A net that works on its input in place, or the same net that does not; it has a bit of everything."""

    def __init__(self, inplace, fails=None):
        super().__init__()
        torch.manual_seed(0)
        self.inplace, self.fails, self.calls = inplace, fails, 0
        self.first = nn.Sequential(
            nn.Hardtanh(-0.8, 0.8, inplace=inplace), nn.Conv2d(1, 4, 3), nn.ReLU(inplace=inplace)
        )
        self.norm, self.pool = nn.BatchNorm2d(4), nn.MaxPool2d(2)
        self.last = nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(96, 5)))
        self.register_buffer("seen", torch.zeros(()))
        self.norm.eval()  # frozen
        self.first.requires_grad_(False)

    def forward(self, x):
        self.calls += 1
        if self.calls == self.fails:
            raise KeyboardInterrupt
        if self.inplace:
            x -= 0.5
            x /= 0.3
        else:
            x = (x - 0.5) / 0.3
        self.seen += len(x)
        return self.last(self.pool(self.norm(self.first(x))))


def dense(inplace):
    torch.manual_seed(0)
    layers = nn.ReLU(inplace=inplace), nn.Linear(140, 20), nn.Hardtanh(inplace=inplace), nn.Linear(20, 5)
    return nn.Sequential(nn.Flatten(), *layers)


def rbm(inplace):
    return RBM(12, 6, std=0.1, generator=seeded())


def labelled(inplace):
    torch.manual_seed(0)
    return DBN([RBM(12, 6), LabelledRBM(6, 5, labels=3)])


def model_for(name, function, inplace=True):
    if name == "UnitActivity":
        return dense(inplace)
    first = next(iter(signature(function).parameters))
    return {"net": Net, "rbm": rbm, "dbn": labelled}[first](inplace)


def arguments(name, function, model):
    """What the analysis must be given beside the model, by name."""
    pictures = IMAGES if isinstance(model, Net) else DIGITS if name.startswith("by_") else DIGITS.flatten(1)
    pictures = IMAGES[:, 0] if name == "UnitActivity" else pictures
    given = {
        "images": pictures, "image": IMAGES[0], "train": pictures, "validation": pictures, "v": pictures,
        "start": IMAGES[0] if isinstance(model, Net) else pictures,
        "label": 1, "name": "first.1", "number": 1, "row": 2, "column": 3, "k": 1, "ks": (1, 2), "log_z": 3.0,
        "generator": seeded(), "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }  # fmt: skip
    required = [p.name for p in signature(function).parameters.values() if p.default is p.empty][1:]
    quick = {"steps": 4, "betas": torch.linspace(0, 1, 20), "burn_in": 3, "progress": False}
    return {each: copy_of(given[each]) for each in required} | {
        each: value for each, value in quick.items() if each in signature(function).parameters
    }


def copy_of(value):
    return value.clone() if isinstance(value, Tensor) else value


def content(result):
    """All numbers in a result."""
    if isinstance(result, Tensor):
        return [result.detach().double()]
    if isinstance(result, analysis.FeatureMaps):
        parts = [result.views(IMAGES[0]), [result.connections(name) for name in result.names]]
        return content(parts + [result.top_images(name, 1) for name in result.names])
    if isinstance(result, bool | int | float):
        return [torch.tensor(float(result))]
    if isinstance(result, str):
        return content(list(result.encode()))
    if isinstance(result, slice):
        return content([result.start, result.stop])
    if isinstance(result, dict):
        return content(list(result.values()))
    if isinstance(result, list | tuple):
        return [number for part in result for number in content(part)]
    return content({k: v for k, v in vars(result).items() if k != "net"}) if hasattr(result, "__dict__") else []


def state_of(model):
    """All that an analysis must not change."""
    return {
        "modes": [module.training for module in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "objects": [id(x) for x in (*model.parameters(), *model.buffers())],
        "grads": [(p.requires_grad, id(p.grad), copy_of(p.grad)) for p in model.parameters()],
    }


def assert_same(found, expected):
    if isinstance(expected, Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict | list | tuple):
        assert len(found) == len(expected)
        for key in expected if isinstance(expected, dict) else range(len(expected)):
            assert_same(found[key], expected[key])
    else:
        assert found == expected


def with_grads(model):
    for number, parameter in enumerate(model.parameters()):
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 0.1 * number)
    return model


EVERY = pytest.mark.parametrize(("name", "function"), list(analyses().items()), ids=list(analyses()))


def test_the_functions_asked_here_are_those_that_take_a_model():
    assert {"saliency", "occlusion", "counts", "ais", "FeatureMaps", "UnitActivity", "by_net", "exact.gradient"} <= set(
        analyses()
    )


@EVERY
def test_a_net_that_works_in_place_gives_what_the_same_net_without_gives_and_images_stay(name, function):
    results = []
    for inplace in (False, True):
        model = with_grads(model_for(name, function, inplace))
        given, before = arguments(name, function, model), state_of(model)
        kept = {each: copy_of(value) for each, value in given.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing is drawn
            for _ in range(2):  # the second time, what the first left behind would show
                results.append(content(function(model, **given)))
                if given.get("generator") is not None:
                    given["generator"].manual_seed(0)
        assert_same(state_of(model), before)
        for each, value in kept.items():
            if isinstance(value, Tensor):
                assert torch.equal(given[each], value), f"{each} was changed"
    assert results[0]
    for found in results[1:]:
        torch.testing.assert_close(found, results[0], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("fails", [1, 2])
@EVERY
def test_an_interrupt_leaves_the_net_and_the_images_as_they_were(name, function, fails):
    if not isinstance(model_for(name, function), Net):
        return  # no forward that could be interrupted
    model = with_grads(Net(True, fails))
    given, before = arguments(name, function, model), state_of(model)
    kept = {each: copy_of(value) for each, value in given.items()}
    try:
        function(model, **given)
    except KeyboardInterrupt:
        pass
    else:
        assert fails == 2  # one pass did
    assert_same(state_of(model), before)
    assert all(torch.equal(given[each], value) for each, value in kept.items() if isinstance(value, Tensor))


@EVERY
@pytest.mark.usefixtures("unchecked")
def test_a_run_a_class_or_no_net_at_all_in_the_models_place_is_told(name, function):
    model = model_for(name, function)

    class Run:
        def __init__(self):
            self.model = model

    given = arguments(name, function, model)
    with pytest.raises(TypeError, match=r"this is of class Run, and not a net: give its model, `.model`"):
        function(Run(), **given)
    with pytest.raises(TypeError, match=r"Net is the class itself: give a net, Net\(...\)"):
        function(Net, **given)
    with pytest.raises(TypeError, match=r"this is of class int, and not a net: give an nn.Module"):
        function(3, **given)
    function(Run().model, **given)  # as told


@EVERY
@pytest.mark.usefixtures("unchecked")
def test_images_that_are_no_tensor_are_told(name, function):
    model = model_for(name, function)
    for each in ("image", "images", "v", "start", "train", "validation"):
        given = arguments(name, function, model)
        if each not in given:
            continue
        pixels = given[each].numpy()
        for wrong, mend in (
            (pixels, f"torch.from_numpy({each})"),
            (pixels.astype(np.float64), f"torch.from_numpy({each}).float()"),
            (list(given[each]), f"torch.stack({each})"),
        ):
            with pytest.raises(TypeError) as told:
                function(model, **given | {each: wrong})
            assert str(told.value).endswith(f": give {mend}.")
            function(model, **given | {each: eval(mend, {"torch": torch, each: wrong})})  # as told


# Images of another shape: the mend is found by trial


def convolution(maps):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(maps, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 4))


GREY, COLOUR = torch.rand(4, 12, 12, generator=seeded()), torch.rand(4, 3, 10, 14, generator=seeded())


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("net", "images", "mend"),
    [
        (convolution(3), COLOUR.permute(0, 2, 3, 1), "images.permute(0, 3, 1, 2)"),
        (convolution(1), GREY, "images[:, None]"),
        (convolution(3), GREY, "images[:, None].expand(-1, 3, -1, -1)"),
        (convolution(3), GREY[:, None], "images.expand(-1, 3, -1, -1)"),
        (convolution(1), GREY.flatten(1), "images.view(-1, 1, 12, 12)"),
        (nn.Linear(144, 4), GREY, "images.flatten(1)"),
        (nn.Sequential(nn.Linear(144, 4)), GREY[:, None], "images.flatten(1)"),
    ],
)
def test_images_of_another_shape_are_told_with_what_the_net_does_take(net, images, mend):
    with pytest.raises(ValueError, match=r"the net does not take images of shape \(.*\): ") as told:
        analysis.by_net(net, images)
    assert str(told.value).endswith(f"give {mend}.")
    analysis.by_net(net, eval(mend, {"images": images}))
    image = images[0]
    with pytest.raises(ValueError, match="the net does not take images") as told:
        analysis.saliency(net, image, 1)
    of_image = str(told.value).removesuffix(".").rsplit("give ", 1)[1]
    analysis.saliency(net, eval(of_image, {"image": image}), 1)


def test_a_batch_of_one_in_an_image_s_place_is_told():
    with pytest.raises(ValueError, match=r"does not take images of shape \(1, 3, 10, 14\) .*: give image\[0\]"):
        analysis.saliency(convolution(3), COLOUR[:1], 1)
    analysis.saliency(convolution(3), COLOUR[:1][0], 1)


def test_where_nothing_helps_the_shape_that_the_net_was_made_for_is_asked_for():
    with pytest.raises(ValueError, match="give images of the shape that it was made for"):
        analysis.by_net(nn.Sequential(nn.Flatten(), nn.Linear(7, 4)), GREY)


@pytest.mark.parametrize("function", [analysis.saliency, analysis.integrated_gradients, analysis.occlusion])
@pytest.mark.usefixtures("unchecked")
def test_a_label_as_text_is_told(function):
    net = convolution(3)
    with pytest.raises(ValueError, match="label '3' is text: give 3"):
        function(net, COLOUR[0], "3")
    with pytest.raises(ValueError, match="label 'cat' is text: give the number of a class, 0 to 3"):
        function(net, COLOUR[0], "cat")
    function(net, COLOUR[0], 3)
    function(net, COLOUR[0], torch.tensor(3))


# Nets that draw, nets that are not ready, nets that do more in train() than to set flags


class Draws(nn.Module):
    def __init__(self, always):
        super().__init__()
        self.always, self.layer = always, nn.Linear(140, 5)

    def forward(self, x):
        return self.layer(nn.functional.dropout(x.flatten(1), 0.5, self.always or self.training))


def test_a_net_that_draws_in_evaluation_mode_is_told_and_one_that_draws_in_training_alone_is_not():
    with pytest.warns(UserWarning, match=r"Draws draws random numbers in evaluation mode.* where `self.training` is t"):
        analysis.by_net(Draws(True), IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        analysis.by_net(Draws(False), IMAGES)
        analysis.by_gibbs(labelled(False), DIGITS, torch.default_generator)  # which is told to draw


def test_lazy_layers_that_have_no_size_yet_are_told():
    net = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    with pytest.raises(TypeError, match=r"1.weight of this Sequential has no size yet: run the net once"):
        analysis.by_net(net, IMAGES)
    net(IMAGES[:1])
    analysis.by_net(net, IMAGES)


def test_a_net_that_does_more_in_train_than_to_set_flags_is_as_it_was():
    class Own(Draws):
        def train(self, mode=True):
            self.always = mode
            return super().train(mode)

    net = Own(True).train()
    analysis.by_net(net, IMAGES)
    assert net.always


def test_codes_are_those_of_evaluation_mode_and_images_stay():
    def autoencoder(inplace):
        torch.manual_seed(0)
        encoder = nn.Sequential(
            *(nn.Flatten(), nn.Hardtanh(-0.1, 0.4, inplace=inplace), nn.Linear(140, 6), nn.BatchNorm1d(6)),
            *(nn.Dropout(0.5), nn.Linear(6, 2)),
        )
        return nn.Sequential(encoder, nn.Sequential(nn.ReLU(inplace=inplace), nn.Linear(2, 140)))

    images = IMAGES[:, 0].clone()
    plain, net = autoencoder(False).eval(), autoencoder(True)
    before = state_of(net)
    codes = Codes(net, images, torch.arange(12) % 3)
    kept = codes.codes.clone()
    decoded = codes.decode(codes.codes)
    assert torch.equal(codes.codes, kept)
    assert torch.equal(images, IMAGES[:, 0])
    with torch.no_grad():
        torch.testing.assert_close(codes.codes, plain[0](images.clone()))
        torch.testing.assert_close(decoded, plain(images.clone()).view(-1, 10, 14))
    assert_same(state_of(net), before)


@pytest.mark.usefixtures("unchecked")
def test_a_run_of_an_experiment_is_told_and_its_model_is_examined():
    experiment = Experiment(partial(convolution, 3), (COLOUR, torch.arange(4)), CrossEntropy(), batch_size=4, epochs=1)
    run = experiment.run(progress=False)
    with pytest.raises(TypeError, match=r"this is of class Run, and not a net: give its model, `.model`"):
        analysis.by_net(run, COLOUR)
    with pytest.raises(TypeError, match="this is of class Experiment, and not a net: give the model of a run of it"):
        analysis.by_net(experiment, COLOUR)
    analysis.by_net(run.model, COLOUR)
