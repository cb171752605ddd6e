"""The rehearsal: each public name of dlkit that takes tensors, called with them on the CPU and on the pretended device.

`tests/rehearsed/` has a module for each package: `CASES`, how to call a name, and `NO_TENSORS`, the names that need no
case, with the reason. A case is a function of `Place`, which puts models, inputs and generators on a device; it is
called once with all on the CPU, and then with each combination of devices for what it used. It must give the same
each time, on the model's device (or on that of its inputs, if it has no model). `python tests/rehearsal.py folder`
runs all of them in a process of its own, and writes, in a file for each package, what went wrong, by case;
`python tests/rehearsal.py folder apple` those that can differ on Apple's GPU, with all that they use there.
tools/gpu_check names a real device in `DEVICE`: what is computed there is the same but for rounding, and not at all
what is drawn there.
"""

import importlib
import itertools
import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pretended
import pretended_mps

if __name__ == "__main__":
    pretended.start()

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PACKAGES = ("core", "data", "models", "training", "analysis", "ui", "papers")
PACKAGES_ON_APPLE = ("apple", "core", "data", "models", "training", "analysis", "papers")
USED = ("model", "inputs", "generator")
DEVICE = pretended.NAME  # beside the CPU
ROUNDED: dict[str, float] = {"rtol": 1e-2, "atol": 5e-3}  # a real device computes in another order


def is_pretended() -> bool:
    return DEVICE == pretended.NAME


def tolerance() -> dict[str, float]:
    """For `torch.testing.assert_close`, of numbers from the device and from the CPU."""
    return {} if is_pretended() else ROUNDED


class Place:
    """Where a case puts what it calls a function with; it remembers of what there was some."""

    def __init__(self, devices: dict[str, str]):
        self.devices, self.used = devices, set()

    def _on(self, kind: str) -> str:
        self.used.add(kind)
        return self.devices[kind]

    def model(self, model: nn.Module) -> Any:
        return model.to(self._on("model"))

    def inputs(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._on("inputs"))

    def generator(self, seed: int = 0) -> torch.Generator:
        return torch.Generator(self._on("generator")).manual_seed(seed)


def on_the_cpu(case: Callable[[Place], Any]) -> Callable[[Place], Any]:
    """A case of a function that says that its result is on the CPU, wherever its model is."""
    case.on_the_cpu = True  # type: ignore[attr-defined]
    return case


def once(case: Callable[[], Any]) -> Callable[[], Any]:
    """A case that checks itself, and is called once, with no Place."""
    case.once = True  # type: ignore[attr-defined]
    return case


class DrawsThere(TorchDispatchMode):
    """Finds out whether numbers are drawn on a real device, by torch's generators there: they are not the CPU's."""

    found = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.found |= any(x.is_cuda for x in tree_leaves(result) if isinstance(x, torch.Tensor))
        return result


def rehearsed(package: str) -> Any:
    return importlib.import_module(f"rehearsed.{package}")


def cases(package: str) -> Iterator[tuple[str, Callable[[Place], Any]]]:
    """The cases of a package by name: the public name, and of several cases their own."""
    for name, case in rehearsed(package).CASES.items():
        several = case if isinstance(case, dict) else {"": case}
        for which, one in several.items():
            yield f"{name}{which and f': {which}'}", one


def rehearse(case: Callable[..., Any]) -> None:
    """AssertionError, or what the case itself raises, if it fails anywhere or gives something else there."""
    if getattr(case, "once", False):
        case()
        return
    first = Place(dict.fromkeys(USED, "cpu"))
    expected = _contents(case(first))
    used = [kind for kind in USED if kind in first.used]
    for devices in itertools.product(("cpu", DEVICE), repeat=len(used)):
        if DEVICE not in devices or (pretended.lacks and "cpu" in devices):
            continue
        place = Place(dict(zip(used, devices, strict=True)))
        where = f"with {', '.join(f'{kind} on {device}' for kind, device in place.devices.items())}"
        try:
            with nullcontext() if is_pretended() else DrawsThere() as draws:
                result = case(place)
        except Exception as error:
            error.add_note(where)
            raise
        home = next((place.devices[kind] for kind in ("model", "inputs") if kind in used), "cpu")
        home = "cpu" if hasattr(case, "on_the_cpu") else home
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        if pretended.lacks:  # where there is no float64, it is on the CPU
            tensors = [tensor for tensor in tensors if tensor.dtype != torch.float64]
        strays = {tensor.device.type for tensor in tensors} - {home}
        assert not strays, f"{where} it gives tensors on {strays.pop()}, not on {home}"
        found = _contents(result)
        if draws is not None and draws.found:
            assert list(map(_shape, found)) == list(map(_shape, expected)), where
            continue
        torch.testing.assert_close(
            found, expected, **tolerance(), equal_nan=True, msg=lambda text, w=where: f"{w}: {text}"
        )


def _contents(result: Any) -> list[Any]:
    """What can be compared: tensors, on the CPU, and numbers; words, with numbers in them that are rounded, by their
    letters where nothing else is computed."""
    leaves = [leaf.detach().cpu() if isinstance(leaf, torch.Tensor) else leaf for leaf in tree_leaves(result)]
    if is_pretended():
        leaves = [torch.tensor(list(leaf.encode())) if isinstance(leaf, str) else leaf for leaf in leaves]
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor | float | int)]


def _shape(leaf: Any) -> Any:
    return (leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else type(leaf)


def write_json(path: Path, what: object) -> None:
    """Written aside and moved into place, for somebody who waits for it."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(what))
    aside.replace(path)


def train_there() -> None:
    """Let runs train on the device unless they are told another one."""
    import dlkit.training.experiment as experiment

    experiment.default_device = lambda: DEVICE


def main(folder: Path, apple: bool) -> None:
    if apple:
        pretended_mps.lack()
    else:
        train_there()
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    for package in PACKAGES_ON_APPLE if apple else ("pretending", *PACKAGES):
        failures: dict[str, str] = {}
        for name, case in cases(package):
            if apple and not rehearsed("apple").can_differ(package, name):
                continue
            try:
                rehearse(case)
                failures[name] = ""
            except Exception:
                failures[name] = traceback.format_exc()
        write_json(folder / f"{package}.json", failures)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] == ["apple"])
