import json

import pytest
import torch

from dlkit import papers
from dlkit.data import Dataset, Split
from dlkit.papers import salakhutdinov2008 as paper
from dlkit.training import CD


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """The paper's table with one training, of one epoch on 200 digits."""
    digits = paper.data.load("mnist", binarise="threshold")
    few = Split(digits.train.images[:200], digits.train.labels[:200])
    small = Dataset(few, few, few, "mnist")
    line = paper.Training("CD-1", CD(1), 1, 0.05, 0.0, ("-125.53", ""), "a source")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(paper.data, "load", lambda name, binarise: small)
        monkeypatch.setattr(paper, "trainings", lambda: [line])
        monkeypatch.setattr(paper, "reference_betas", lambda: torch.linspace(0, 1, 51, dtype=torch.float64))
        monkeypatch.setattr(paper, "BURN_IN", 50)
        monkeypatch.setattr(paper, "QUICK_STEPS", 50)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder for what is kept, and the table's rows, which were measured there."""
    folder = tmp_path_factory.mktemp("runs")
    return folder, paper.measure(folder, quick=True)


def test_each_training_makes_a_row_by_ais_and_one_by_reverse_ais(runs):
    forward, backward = runs[1]
    assert (forward.name, forward.published, forward.source) == ("CD-1, 1 epoch, AIS", "-125.53", "a source")
    assert (backward.name, backward.published, backward.source) == ("CD-1, 1 epoch, reverse AIS", "", "")
    assert -784 < float(backward.measured) < 0  # below is worse than coin flips


def test_a_saved_result_is_not_trained_again(runs, monkeypatch):
    folder, first = runs
    monkeypatch.setattr(paper.Experiment, "run", lambda *_, **__: pytest.fail("trained again"))
    assert paper.measure(folder, quick=True) == first


def test_an_interrupted_training_says_that_the_same_command_goes_on_and_does(runs, tmp_path, monkeypatch):
    _, whole = runs
    original = paper.Experiment.run

    def interrupted(experiment, **options):
        run = original(experiment, **options | {"steps": 2})
        run.stop("interrupted")
        return run

    with monkeypatch.context() as patch:
        patch.setattr(paper.Experiment, "run", interrupted)
        with pytest.raises(RuntimeError, match="CD-1 was interrupted at epoch 0: the same command goes on"):
            paper.measure(tmp_path, quick=True)
    assert [row.measured for row in paper.measure(tmp_path, quick=True)] == [row.measured for row in whole]


def test_a_full_run_writes_its_table_and_fresh_deletes_saved_results(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    papers.run("salakhutdinov2008", as_json=True)
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [
        "CD-1, 1 epoch, AIS",
        "CD-1, 1 epoch, reverse AIS",
    ]
    assert (tmp_path / "runs/salakhutdinov2008.md").read_text().startswith(f"# {paper.TITLE}\n")
    result = tmp_path / "runs/salakhutdinov2008/CD-1/result.json"
    result.write_text(result.read_text().replace('"seconds"', '"altered"'))
    papers.run("salakhutdinov2008", fresh=True)
    assert "altered" not in result.read_text()
