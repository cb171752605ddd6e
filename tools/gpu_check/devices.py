"""The rehearsal's cases on the real device: nothing is on two devices, and what comes back is where it should be."""

from functools import partial

import rehearsal
from gpu_check.setting import Parts, Setting, Skipped

TWO_DEVICES = ("Experiment: checkpoints", "Experiment: Adam, capturable")  # what needs a device beside the CPU


def of_functions(setting: Setting) -> Parts:
    yield from cases(setting, *(package for package in rehearsal.PACKAGES if package != "training"))


def of_learners(setting: Setting) -> Parts:
    yield from cases(setting, "training")


def cases(setting: Setting, *packages: str) -> Parts:
    rehearsal.DEVICE = setting.device
    rehearsal.train_there()
    for package in packages:
        for name, case in rehearsal.cases(package):
            alone = not setting.is_gpu and name in TWO_DEVICES
            yield f"{package}: {name}", skip if alone else partial(rehearsal.rehearse, case)


def skip() -> None:
    raise Skipped("of two devices")
