from functools import partial

import torch
from rehearsal import on_the_cpu, once
from rehearsed import examples
from rehearsed.examples import dbn, images, net, rbm, rows

from dlkit import analysis, data
from dlkit.analysis import exact
from dlkit.training import CD, Experiment

betas = torch.linspace(0, 1, 4)


def of_rbm(function, *options, make=rbm, **arguments):
    return lambda on: function(on.model(make()), on.inputs(rows()), *options, **arguments)


def of_net(function, *options, make=net, **arguments):
    return lambda on: function(on.model(make()), on.inputs(images()[0]), *options, **arguments)


def examined(on, make=rbm):
    health = analysis.examine(on.model(make()), on.inputs(rows()), on.inputs(rows(9)))
    return [value for value in vars(health).values() if value is not None]


@once
def watched():
    """In a run, where the model is on the device, and after it, where it is on the CPU, with the optimizer."""
    seen, unseen = rows(24), rows(9)
    look = analysis.health_metrics(seen, unseen)
    sizes = []
    run = Experiment(rbm, seen, CD(), batch_size=6, epochs=2, momentum=0.5).run(
        callbacks=[look, lambda run: sizes.append(analysis.update_ratio(run.model, run.optimizer))], progress=False
    )
    assert len(run.history["free_energy_gap"]) == len(sizes) == 2
    assert analysis.update_ratio(run.model, run.optimizer) == sizes[-1]
    assert analysis.examine(run.model, seen, unseen, run.optimizer).update_ratio == sizes[-1]


def with_optimizer(function):
    def case(on):
        model = on.model(rbm())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        return function(model, optimizer)

    return case


def maps(on):
    inside = analysis.FeatureMaps(on.model(net()), on.inputs(images()))
    views = inside.views(on.inputs(images()[1]))
    return [tuple(inside.top_images("c1", 1)), inside.connections("c2"), [view.output for view in views.values()]]


def middle(images):
    return images[..., 2:4, 2:4].flatten(1).sum(1)


def told_apart(on):
    values, labels = on.inputs(rows(20)), on.inputs(torch.arange(20) % 2)
    best = analysis.best_units(values, labels)
    return [best.unit, best.threshold, best.on(values, labels)]


def activity(on, make):
    found = analysis.UnitActivity(on.model(make()), on.inputs(rows().view(-1, 3, 4)))
    return found.activity, found.pictures(1)


def annealed(on, make=rbm, **arguments):
    result = analysis.ais(on.model(make()), chains=6, betas=on.inputs(betas), progress=False, **arguments)
    return result.value, result.low, result.log_weights


def annealed_back(on, **arguments):
    model, begin = on.model(rbm()), on.inputs(rows(6))
    result = analysis.reverse_ais(model, begin, burn_in=3, betas=betas, progress=False, **arguments)
    return result.value, result.low, result.log_weights


def exactly(on):
    """All of it on the CPU."""
    model, v = on.model(rbm()), on.inputs(rows())
    empirical, p = exact.empirical_distribution(v), exact.visible_distribution(model)
    gradient = exact.gradient(model, v)
    return [
        exact.state_number(v), empirical, p, exact.log_likelihood(model, v), gradient, exact.cd_gradient(model, v, 2),
        exact.GibbsOperator(model)(p, 2), exact.cosine(gradient, gradient), exact.flat(gradient),
    ]  # fmt: skip


def distances(on):
    """Of distributions, and of gradients, which may be anywhere."""
    p = torch.rand(8, generator=examples.seeded()).double().softmax(0)
    q, g = p.flip(0), {"W": torch.rand(2, 3), "a": torch.rand(2), "b": torch.rand(3)}
    there = {name: on.inputs(torch.ones_like(value)) for name, value in g.items()}
    return [
        exact.total_variation(on.inputs(p), q), exact.total_variation(q, on.inputs(p)), exact.kl(on.inputs(p), q),
        exact.cosine(there, {name: torch.ones_like(value) for name, value in g.items()}),
    ]  # fmt: skip


def misread(on):
    digits = data.Split(on.inputs(images()), examples.labels())
    return analysis.error(analysis.by_net(on.model(net()), digits.images), digits)


NO_TENSORS = {
    "BestUnits": "what `best_units` gives",
    "Attribution": "what `integrated_gradients` gives",
    "Health": "what `examine` gives",
    "LayerCount": "what `counts` gives",
    "LogProbability": "what `log_probability` gives",
    "LogZ": "what `ais` gives",
    "Region": "what `receptive_field` gives",
    "TopImages": "what `top_images` gives",
}
CASES = {
    "best_units": on_the_cpu(told_apart),
    "invariance": on_the_cpu(lambda on: analysis.invariance(middle, on.inputs(images()), analysis.shifted, [0.0, 1.0])),
    "optimum": lambda on: analysis.optimum(middle, on.inputs(images()[0]), steps=5),
    "shifted": lambda on: analysis.shifted(on.inputs(images()), 1.5),
    "scaled": lambda on: analysis.scaled(on.inputs(images()), 1.5),
    "turned": lambda on: analysis.turned(on.inputs(images()), 30),
    "FeatureMaps": on_the_cpu(maps),
    "UnitActivity": {
        "of a DBN": on_the_cpu(lambda on: activity(on, dbn)),
        "of a net": on_the_cpu(lambda on: activity(on, lambda: dbn().classifier())),
    },
    "exact": {"all": on_the_cpu(exactly), "distances": on_the_cpu(distances)},
    "integrated_gradients": {
        "from black": lambda on: tuple(of_net(analysis.integrated_gradients, 1, steps=3)(on)),
        "from an image": lambda on: tuple(
            analysis.integrated_gradients(on.model(net()), on.inputs(images()[0]), 1, images()[1], steps=3)
        ),
    },
    "maximise": lambda on: tuple(analysis.maximise(on.model(net()), "c1", 1, on.inputs(images()[0]), steps=2)),
    "saliency": of_net(analysis.saliency, 1),
    "occlusion": of_net(analysis.occlusion, 1),
    "receptive_field": lambda on: [
        (part.start, part.stop) for part in of_net(analysis.receptive_field, "c1", 2, 2)(on)
    ],
    "map_layers": of_net(analysis.map_layers),
    "module_output": lambda on: analysis.module_output(on.model(net()), on.inputs(images()), "c1"),
    "top_images": lambda on: tuple(analysis.top_images(on.model(net()), on.inputs(images()), "c1", 1, 3)),
    "counts": lambda on: [row.parameters for row in analysis.counts(on.model(net()), on.inputs(images()))],
    "by_net": lambda on: analysis.by_net(on.model(net()), on.inputs(images())),
    "error": misread,
    "by_free_energy": of_rbm(analysis.by_free_energy, make=dbn),
    "by_sampled_features": lambda on: of_rbm(analysis.by_sampled_features, on.generator(), make=dbn)(on),
    "by_gibbs": lambda on: of_rbm(analysis.by_gibbs, on.generator(), make=dbn, steps=2)(on),
    "lower_bound": {
        "no labels": lambda on: of_rbm(analysis.lower_bound, 3.0, make=partial(dbn, labels=None))(on).value,
        "labels": lambda on: of_rbm(analysis.lower_bound, 3.0, make=dbn)(on).value,
    },
    "examine": {"RBM": examined, "GaussianRBM": lambda on: examined(on, examples.gaussian)},
    "health_metrics": watched,
    "ais": {
        "RBM": annealed,
        "from images": lambda on: annealed(on, images=on.inputs(rows())),
        "GaussianRBM": lambda on: annealed(on, examples.gaussian),
        "LabelledRBM": lambda on: annealed(on, examples.labelled),
    },
    "reverse_ais": {"from its bias": annealed_back, "from images": lambda on: annealed_back(on, images=rows())},
    "exact_log_z": lambda on: analysis.exact_log_z(on.model(rbm()), progress=False),
    "log_probability": lambda on: of_rbm(analysis.log_probability, 3.0)(on).value,
    "pseudo_log_likelihood": {
        "of all pixels": of_rbm(analysis.pseudo_log_likelihood),
        "of one": lambda on: of_rbm(analysis.pseudo_log_likelihood, generator=on.generator())(on),
    },
    "states": lambda on: analysis.states(3),
    "free_energy_gap": lambda on: analysis.free_energy_gap(on.model(rbm()), on.inputs(rows()), rows(9)),
    "hidden_probabilities": of_rbm(analysis.hidden_probabilities),
    "influence": of_rbm(analysis.influence),
    "reconstruction_error": of_rbm(analysis.reconstruction_error),
    "weight_kurtosis": lambda on: analysis.weight_kurtosis(on.model(rbm())),
    "update_ratio": with_optimizer(analysis.update_ratio),
    "updates": with_optimizer(analysis.updates),
}
