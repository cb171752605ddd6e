"""A cluster in a notebook: cells run on all engines, and what a cell defines is sent there, trained, interrupted."""

import nbformat
import pytest
from nbclient import NotebookClient

CELLS = {
    "start": """
from dlkit import Cluster, Experiment
from dlkit.strategies import DataParallel
from dlkit.training import CrossEntropy
from torch import nn
cluster = Cluster(2).start()
""",
    "px": "%%px\nimport torch.distributed as dist\nprint('rank', dist.get_rank(), 'of', dist.get_world_size())",
    "call": "def doubled(x):\n    return 2 * x\n\ncluster.call(doubled, 21)",
    "wrong": "def inverse(x):\n    return 1 / x  # the guilty line\n\ncluster.call(inverse, 0)",
    "interrupted": """
import os, signal, threading
def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
digits = Experiment(net, "mnist", CrossEntropy(), epochs=200)
threading.Timer(4, os.kill, (os.getpid(), signal.SIGINT)).start()
cluster.run(digits, DataParallel()).stopped
""",
    "again": "cluster.run(digits, DataParallel(), steps=3).step",
    "recovered": "os.kill(cluster.call(os.getpid)[1], signal.SIGKILL)\ncluster.recover()",
    "px after": "%%px\nprint('again', dist.get_rank() if 'dist' in globals() else 'afresh')",
    "stop": "cluster.stop()\ncluster.running()",
}


@pytest.fixture(scope="module")
def output_of(tmp_path_factory):
    """What each cell shows, as one text, by its name above."""
    cells = [nbformat.v4.new_code_cell(source.strip(), metadata={"tags": [name]}) for name, source in CELLS.items()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    folder = str(tmp_path_factory.mktemp("notebook"))
    NotebookClient(notebook, timeout=120, allow_errors=True, resources={"metadata": {"path": folder}}).execute()
    outputs = {cell.metadata.tags[0]: "".join(map(str, cell.outputs)) for cell in notebook.cells}
    failed = [name for name, text in outputs.items() if "'output_type': 'error'" in text]
    assert failed == ["wrong"], outputs
    return outputs


def test_a_cell_runs_on_all_engines(output_of):
    assert "rank 0 of 2" in output_of["px"]
    assert "rank 1 of 2" in output_of["px"]


def test_a_cell_s_own_function_is_sent_there(output_of):
    assert "[42, 42]" in output_of["call"]


def test_an_error_there_shows_the_line_that_is_only_here(output_of):
    wrong = output_of["wrong"]
    assert "ZeroDivisionError" in wrong
    assert "return 1 / x  # the guilty line" in wrong.split("on engine 0")[1]


def test_a_cell_s_own_net_is_trained_and_interrupted_and_trained_again(output_of):
    assert "interrupted" in output_of["interrupted"]
    assert "'3'" in output_of["again"]


def test_an_engine_that_is_killed_is_recovered_and_the_other_keeps_what_it_holds(output_of):
    assert output_of["recovered"].count("ready") == 4  # two rows, as text and as HTML
    assert "again 0" in output_of["px after"]
    assert "again afresh" in output_of["px after"]


def test_a_stopped_cluster_is_not_running(output_of):
    assert "False" in output_of["stop"]
