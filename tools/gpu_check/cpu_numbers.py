"""Each learner, given the CPU's random numbers, against the CPU."""

from dataclasses import replace
from functools import partial

from gpu_check.experiments import agree, experiments, train
from gpu_check.setting import Parts, Setting
from splitting import difference

from dlkit import Experiment
from dlkit.training import CD, PCD

LOW = 0.03  # relative, of bfloat16's products, in which now and then a draw turns out otherwise


def parts(setting: Setting) -> Parts:
    made = experiments()
    for name, experiment in made.items():
        yield name, partial(beside_the_cpu, experiment, setting.device)
    for learner in (CD(products="bfloat16"), PCD(products="bfloat16")):
        yield f"{type(learner).__name__}, bfloat16", partial(low, replace(made["CD"], learner=learner), setting.device)


def beside_the_cpu(experiment: Experiment, device: str) -> str:
    return agree(
        lambda one: train(one, "cpu").model, lambda one: train(one, device, rng_device="cpu").model, experiment
    )


def low(experiment: Experiment, device: str) -> str:
    off = difference(train(experiment, "cpu").model, train(experiment, device, rng_device="cpu").model)
    assert off < LOW, f"models differ by {off:.1e}"
    return f"{off:.1e} apart"
