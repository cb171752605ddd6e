"""Notebooks 07 to 10 where a GPU is the default, in the notebook and on its two engines, which share it, so by gloo.

Cells are run as in rehearsal_notebooks.py. The engines are those of all four notebooks, and each model is trained once
under each kind of strategy: a cell that does so again, with another option or link, is given that run.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pretended
import pretended_ranks

if __name__ == "__main__":
    pretended.start()

import rehearsal_notebooks as notebooks
import torch
from rehearsal import write_json

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))[7:11]

STEPS = 4  # of a training, at most
SHORTER = {  # what stands in a cell, and what is run in its place: fewer steps, and two engines for four
    "steps(9, 10)": "steps(2, 4)",
    "draw_exchanges(naive, 9)": "draw_exchanges(naive, 3)",
    "draw_exchanges(bucketed, 9)": "draw_exchanges(bucketed, 3)",
    "steps(3, 12)": "steps(2, 4)",
    "steps(3, run.step)": "steps(2, run.step)",
    "steps(5, 10)": "steps(2, 4)",
    "draw_passes(line, 5)": "draw_passes(line, 3)",
    "taken[1:-1]": "taken",
    "monotonic() + 1.5": "monotonic() + 0.1",
    "for batch in (64, 256, 1024, 4096)": "for batch in (256,)",
    "Cluster(4)": "Cluster(2)",
    "data=2, model=2": "data=2, model=1",
    "for other in range(4)": "for other in range(2)",
}


def on_engine() -> None:
    """Called as an engine starts, before all else."""
    pretended_ranks.start()
    notebooks.few_steps(STEPS)
    pretended_ranks.exchanging(nccl=False).__enter__()


def each_once(run: Any) -> Any:
    """Cluster.run, which trains each model once under each kind of strategy."""
    made = {}

    def called(cluster: Any, experiment: Any, strategy: Any, **settings: Any) -> Any:
        model = experiment.initial_model()
        key = type(strategy), type(model), tuple(value.shape for value in model.state_dict().values())
        if key not in made:
            made[key] = run(cluster, experiment, strategy, **settings)
        return replace(made[key], experiment=experiment, strategy=strategy)

    return called


def main(folder: Path) -> None:
    from dlkit.cluster import Cluster, launchers

    torch.set_num_threads(1)
    notebooks.STEPS = STEPS
    notebooks.cut_short()
    Cluster.run = each_once(Cluster.run)
    on_engine = f"import sys; sys.path.insert(0, '{Path(__file__).parent}'); "
    launchers.ON_START = f"{on_engine}import rehearsal_clusters; rehearsal_clusters.on_engine(); {launchers.ON_START}"
    stop, Cluster.stop = Cluster.stop, lambda cluster: None
    folder.mkdir(exist_ok=True)
    for path in NOTEBOOKS:
        write_json(folder / f"{path.stem}.json", notebooks.rehearse(path, SHORTER))
    write_json(
        folder / "devices.json", Cluster._latest.call(lambda: list(sys.modules["rehearsal_notebooks"].trained_on))
    )
    Cluster.stop = stop
    Cluster.stop_all()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
