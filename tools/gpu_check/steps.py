"""A step makes the host wait for nothing; and replayed as a CUDA graph it is the same step."""

import warnings
from functools import partial
from typing import Any
from unittest import mock

import torch
from gpu_check.experiments import experiments, train
from gpu_check.setting import Parts, Setting
from rehearsed.training import LEARNERS, WAITS, experiments_of
from splitting import same_bits

from dlkit import Experiment
from dlkit.training.run import Run

REPLAYED = ("CD RBM", "PCD RBM", "UpDown DBN", "CrossEntropy ConvNet")  # small steps, made to be replayed
SECOND = 1  # the number of steps before it


def small() -> dict[str, tuple[str, Experiment]]:
    """By name: of which learner, or LineSearches, it is, and an experiment; each learner with each of its options."""
    found = {
        f"{name} {text}": (name, make())
        for name, kind in LEARNERS.items()
        for text, make in experiments_of(name, kind)
    }  # fmt: skip
    return found | {"LineSearches": ("LineSearches", experiments()["line searches"])}


def waits(setting: Setting) -> Parts:
    for name, (learner, experiment) in small().items():
        yield name, partial(second_step, experiment, learner in WAITS, setting)


def second_step(experiment: Experiment, may_wait: bool, setting: Setting) -> str:
    """Take four steps; CUDA's debug mode raises at what makes the host wait in the second, or warns if it may wait."""
    learn = Run._learn
    mode = "warn" if may_wait else "error"

    def watched(run: Run, batch: Any) -> Any:
        if run.step != SECOND or not setting.is_gpu:
            return learn(run, batch)
        torch.cuda.set_sync_debug_mode(mode)
        try:
            return learn(run, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with mock.patch.object(Run, "_learn", watched), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(experiment, setting.device, steps=4, capture=False)
    count = sum("synchroniz" in str(warning.message) for warning in caught)
    return f"waits {count} times" if may_wait else "waits for nothing"


def captures(setting: Setting) -> Parts:
    for name, (_, experiment) in small().items():
        yield name, partial(replayed, experiment, setting, must=name in REPLAYED)
    for name, experiment in experiments().items():
        yield f"{name}, digits", partial(replayed, experiment, setting, must=False)


def replayed(experiment: Experiment, setting: Setting, must: bool) -> str:
    steps = 10  # of which the last of an epoch may be smaller, and is not replayed
    run, plain = (train(experiment, setting.device, steps=steps, capture=capture) for capture in (True, False))
    assert same_bits(run.model, plain.model), "replayed it has other bits"
    assert run.history["loss"] == plain.history["loss"], "replayed it has other losses"
    assert not (must and setting.is_gpu and run.why_not_captured), run.why_not_captured
    return run.why_not_captured or "replayed"
