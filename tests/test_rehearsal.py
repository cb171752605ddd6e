"""On a GPU, rehearsed on a machine without one: all of dlkit, and notebooks 00 to 10, on a pretended device."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pretended
import pytest
import rehearsal
import rehearsal_clusters
import rehearsal_notebooks

TESTS = Path(__file__).parent
CASES = [(package, name) for package in ("pretending", *rehearsal.PACKAGES) for name, _ in rehearsal.cases(package)]


class Process:
    """A script of tests/ that pretends, in a process of its own: torch then has another device for good."""

    def __init__(self, script, out, *words):
        path = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, str(TESTS / script), str(out), *words]
        self.out, self.log = out, out.parent / f"{script}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=os.environ | {"PYTHONPATH": path}, stdout=log, stderr=subprocess.STDOUT
            )

    def read(self, name):
        """What it writes under this name; it is waited for."""
        path = self.out / f"{name}.json"
        while not path.exists():
            ended = self.process.poll() is not None
            assert not ended or path.exists(), self.log.read_text()[-3000:]
            time.sleep(0.05)
        return json.loads(path.read_text())


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsal")
    scripts = ("rehearsal.py", "rehearsal_notebooks.py", "rehearsal_clusters.py")
    processes = [Process(script, folder / script.removesuffix(".py")) for script in scripts]
    yield processes
    for process in processes:
        process.process.kill()
        process.process.wait()


@pytest.mark.parametrize("package", rehearsal.PACKAGES)
def test_every_public_name_is_rehearsed_or_takes_no_tensors(package):
    """A new name needs a case in tests/rehearsed/, or a reason there why it needs none."""
    module = rehearsal.rehearsed(package)
    names = set(dir(importlib.import_module(f"dlkit.{package}")))
    if package == "papers":
        names = set(importlib.import_module("dlkit.papers").__all__) | set(module.functions())
    assert set(module.CASES) | set(module.NO_TENSORS) == names
    assert not set(module.CASES) & set(module.NO_TENSORS)
    assert all(module.NO_TENSORS.values())


@pytest.mark.parametrize(("package", "case"), CASES, ids=lambda part: part)
def test_it_does_the_same_on_a_gpu_and_beside_one(package, case, processes):
    went_wrong = processes[0].read(package)[case]
    assert went_wrong == "", went_wrong


NOTEBOOKS = [(script, path) for script in (rehearsal_notebooks, rehearsal_clusters) for path in script.NOTEBOOKS]


@pytest.mark.parametrize(("script", "path"), NOTEBOOKS, ids=lambda part: getattr(part, "stem", ""))
def test_a_notebook_runs_where_a_gpu_is_the_default(script, path, processes):
    raised = processes[1 + (script is rehearsal_clusters)].read(path.stem)
    assert len(raised) == sum(cell.cell_type == "code" for cell in nbformat.read(path, as_version=4).cells)
    assert not any(raised), "\n".join(raised)


def test_a_process_that_has_dlkit_already_cannot_pretend():
    with pytest.raises(RuntimeError, match="dlkit is imported already: start pretending in a new process, first of al"):
        pretended.start()


def test_engines_have_trained_on_the_gpu(processes):
    assert processes[2].read("devices") == [["gpu"], ["gpu"]]


@pytest.mark.parametrize("script", [rehearsal_notebooks, rehearsal_clusters], ids=lambda script: script.__name__)
def test_what_is_made_shorter_stands_in_the_notebooks(script):
    text = "".join(path.read_text() for path in script.NOTEBOOKS)
    assert [words for words in script.SHORTER if words not in text] == []
