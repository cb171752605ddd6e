"""Notebooks 00 to 06, every code cell, with the pretended device as the default: trainings and chains are cut short.

An exercise is answered by its solution: a function in the solutions file stands in for the function, or for the value,
that the cell is to define; what it takes are the notebook's own variables. `python tests/rehearsal_notebooks.py
folder` runs them in a process of its own, and writes, in a file for each, what each cell raised; "" if nothing.
"""

import ast
import inspect
import sys
import traceback
from pathlib import Path

import pretended

if __name__ == "__main__":
    pretended.start()

import nbformat
import torch
from answers import solutions
from rehearsal import write_json

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("0[0-6]_*.ipynb"))
SOLVED_BY = {"mean_three": "mean_image", "saliency_map": "saliency", "integrated": "integrated_gradients"}
GIVEN = {"patterns": "v_data"}  # what a solution takes, as its notebook calls it
SHORTER = {  # what stands in a cell, and what is run in its place
    "range(3001)": "(0, 500, 1000, 3000)",
    "range(1, 201)": "(1, 20, 200)",
    "range(1, 101)": "(1, 10, 100)",
    "run.step % 50 == 0": "run.step % 10 == 0",
    "likelihood[2500]": "likelihood[20]",
    "error[1000]": "error[10]",
    "error[2500]": "error[20]",
}
STEPS = 20  # of a training, at most; one cell looks at every 20th
DIGITS = 1500  # for training, and 500 for validation and for testing
trained_on: set[str] = set()  # devices


def few_steps(most: int) -> None:
    """Runs take so many at most, on the pretended device by default, also under a strategy."""
    from dlkit.training import Experiment

    run = Experiment.run

    def run_few(self, **kwargs):
        few = {"device": pretended.NAME} | kwargs | {"steps": min(kwargs.get("steps") or most, most)}
        trained_on.add(str(few["device"]))
        return run(self, **few)

    Experiment.run = run_few


def cut_short() -> None:
    """Fewer steps, digits, temperatures and Gibbs steps: what a cell does is the same."""
    from dlkit.analysis import attribution, cd_bias, likelihood
    from dlkit.data import Dataset, images, photos
    from dlkit.models import gibbs_chains

    load, patches = images.load, photos.patches
    gibbs, maximise = gibbs_chains.gibbs, attribution.maximise

    def few(*args, **kwargs):
        whole = load(*args, **kwargs)
        return Dataset(whole.train[:DIGITS], whole.validation[:500], whole.test[:500], whole.name)

    def shorter(function):
        def called(*args, **kwargs):
            if kwargs.get("betas") is not None:
                kwargs["betas"] = torch.linspace(0, 1, 4)
            return function(*args, **kwargs | ({"burn_in": 2} if "burn_in" in kwargs else {}))

        return called

    few_steps(STEPS)
    images.load = few
    photos.patches = lambda *args, **kwargs: patches(*args, **kwargs | {"count": 20_000})
    gibbs_chains.gibbs = lambda *args, **kwargs: gibbs(*args, **kwargs | {"steps": 2})
    attribution.maximise = lambda *args, **kwargs: maximise(*args, **kwargs | {"steps": 3})
    cd_bias.UPDATES = 100
    likelihood.ais, likelihood.reverse_ais = shorter(likelihood.ais), shorter(likelihood.reverse_ais)


def answer(source: str, namespace: dict, answers: dict) -> None:
    """Put the solutions in the place of what an exercise's cell has just defined."""
    for node in ast.parse(source).body:
        names = [node.name] if isinstance(node, ast.FunctionDef) else []
        names += [target.id for target in getattr(node, "targets", ()) if isinstance(target, ast.Name)]
        for name in names:
            solved = answers[SOLVED_BY.get(name, name)]
            if namespace[name] is ... and callable(solved):
                solved = solved(*(namespace[GIVEN.get(given, given)] for given in inspect.signature(solved).parameters))
            namespace[name] = solved


def rehearse(path: Path, shorter: dict[str, str]) -> list[str]:
    """What each code cell of the notebook raised. shorter: as `SHORTER`."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    answers, raised = solutions(path.stem), []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            source = cell.source
            for long, short in shorter.items():
                source = source.replace(long, short)
            result = shell.run_cell(source)
            error = result.error_before_exec or result.error_in_exec
            if error is None and "exercise" in cell.metadata.get("tags", []):
                answer(cell.source, shell.user_ns, answers)
            raised.append("" if error is None else "".join(traceback.format_exception(error)))
    InteractiveShell.clear_instance()
    return raised


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    cut_short()
    folder.mkdir(exist_ok=True)
    for path in NOTEBOOKS:
        write_json(folder / f"{path.stem}.json", rehearse(path, SHORTER))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
