"""The papers, reduced: their rows, that saved results are not measured again, and that an interrupted one goes on."""

import json
from functools import cache

import pytest
import torch

from dlkit import data, papers
from dlkit.core.storage import read_tensors
from dlkit.data import Dataset, Split
from dlkit.models import DBN
from dlkit.papers import hinton2006, hinton_salakhutdinov2006, larochelle2009, lecun1998, scherer2010
from dlkit.papers.reproduction import cached
from dlkit.training import Experiment


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """600 digits, and nets of a few units."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        reduce(monkeypatch)
        yield


def reduce(monkeypatch):
    mnist = data.load("mnist")
    few = mnist.train[:300]
    small = Dataset(few, few, few, "mnist")
    for paper in (hinton2006, hinton_salakhutdinov2006, larochelle2009, lecun1998):
        monkeypatch.setattr(paper.data, "load", lambda name: small)
    monkeypatch.setattr(hinton2006, "SIZES", (784, 20, 10, 30))
    monkeypatch.setattr(hinton2006, "QUICK", hinton2006.Recipe(600, 1, ((3, 1), (6, 1)), ((3, 1),)))
    monkeypatch.setattr(hinton_salakhutdinov2006, "CLASSIFIER", (784, 20, 10))
    monkeypatch.setattr(hinton_salakhutdinov2006, "AUTOENCODER", (784, 20, 30))
    monkeypatch.setattr(hinton_salakhutdinov2006, "MAP", (784, 20, 2))
    monkeypatch.setattr(hinton_salakhutdinov2006, "QUICK", hinton_salakhutdinov2006.Recipe(600, 2, 1, 1, 1))
    monkeypatch.setattr(larochelle2009, "SIZES", (784, 20, 10))
    monkeypatch.setattr(larochelle2009, "QUICK", larochelle2009.Recipe(600, 2, 1, ((100, 2), (300, 2))))
    monkeypatch.setattr(lecun1998, "QUICK", lecun1998.Recipe(300, 2, 1))
    monkeypatch.setattr(scherer2010, "QUICK", scherer2010.Recipe(300, 1, 1))


ROWS = {
    hinton2006: 12,
    hinton_salakhutdinov2006: 6,
    larochelle2009: 10,
    lecun1998: 5,
    scherer2010: 5,
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The rows of a paper and the folder with what it kept: measured once for all tests here."""

    @cache
    def measure(paper):
        folder = tmp_path_factory.mktemp(paper.__name__)
        return paper.measure(folder, quick=True), folder

    return measure


@pytest.mark.parametrize("paper", ROWS, ids=lambda paper: paper.__name__)
def test_it_measures_every_row_and_keeps_it(paper, measured, monkeypatch):
    rows, folder = measured(paper)
    assert len(rows) == ROWS[paper]
    assert len({row.name for row in rows}) == len(rows)
    assert all(float(row.measured) >= 0 for row in rows)
    assert all(row.source for row in rows if row.published)
    monkeypatch.setattr(Experiment, "run", lambda *_, **__: pytest.fail("trained again"))
    assert paper.measure(folder, quick=True) == rows


def test_fewer_seeds_than_the_table_s_are_not_written_in_its_place(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(papers.reproduction, "RUNS", tmp_path)
    monkeypatch.setattr(larochelle2009, "Recipe", lambda: larochelle2009.QUICK)
    monkeypatch.setattr(larochelle2009, "SEEDS", 2)
    papers.run("larochelle2009", as_json=True, seeds=1)
    assert not (tmp_path / "larochelle2009.md").exists()
    one_seed = capsys.readouterr()
    assert "over 1 seed" in one_seed.out
    assert "measured again" not in one_seed.err
    papers.run("larochelle2009", as_json=True)
    assert (tmp_path / "larochelle2009.md").exists()
    two_seeds = capsys.readouterr()
    assert "over 2 seeds" in two_seeds.out
    assert f"What {tmp_path}/larochelle2009 kept was not measured again; --fresh forgets it." in two_seeds.err
    papers.run("larochelle2009", as_json=True, seeds=1)
    assert capsys.readouterr().out == one_seed.out


def test_a_paper_without_seeds_takes_none():
    with pytest.raises(ValueError, match="hinton2006 is measured with one seed a training: leave --seeds out"):
        papers.run("hinton2006", seeds=2)


@pytest.mark.parametrize("paper", ROWS, ids=lambda paper: paper.__name__)
def test_after_an_interrupt_the_same_command_goes_on(paper, measured, tmp_path, monkeypatch):
    whole, _ = measured(paper)
    original, count = Experiment.run, []

    def interrupted(experiment, **options):
        count.append(1)
        run = original(experiment, **options)
        if len(count) == 2:
            run.stop("interrupted")
        return run

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, "run", interrupted)
        with pytest.raises(RuntimeError, match=r"was interrupted at epoch .*: the same command goes on"):
            paper.measure(tmp_path, quick=True)
    again = paper.measure(tmp_path, quick=True)
    assert [row.measured for row in again] == [row.measured for row in whole]


def test_the_stack_and_its_fine_tuned_form_are_kept(measured):
    _, folder = measured(hinton2006)
    assert DBN.load(folder / "greedy.safetensors").sizes == [784, 20, 10, 30]
    tensors, header = read_tensors(folder / "up-down.safetensors")
    assert json.loads(header["config"]) == {"sizes": [784, 20, 10, 30], "labels": 10, "untied": True}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


def test_principal_components_leave_the_variance_of_the_others():
    recipe = hinton_salakhutdinov2006.Recipe(images=600)
    x = hinton_salakhutdinov2006.data.load("mnist").full_train.images.flatten(1).double()
    error = hinton_salakhutdinov2006.principal_components(recipe, 30)["error"]
    singular = torch.linalg.svdvals(x - x.mean(0))
    assert error == pytest.approx(float((singular[30:] ** 2).sum() / len(x)))  # its test digits are its training ones


def test_squared_errors_are_sums_over_pixels_and_means_over_images():
    images = torch.rand(1500, 2, 3)
    half = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 6))
    torch.nn.init.zeros_(half[1].weight)
    torch.nn.init.constant_(half[1].bias, 0.5)
    expected = ((images - 0.5) ** 2).sum((1, 2)).mean().item()
    assert hinton_salakhutdinov2006.squared_error(half, images) == pytest.approx(expected, rel=1e-5)


def test_each_start_has_as_many_labels_of_its_own(measured):
    """Two seeds draw other digits to be labelled."""
    names = [row.name for row in measured(larochelle2009)[0]]
    assert names[:5] == ["100 labels, " + start.name for start in larochelle2009.STARTS]
    assert names[5:] == ["300 labels, " + start.name for start in larochelle2009.STARTS]


def test_the_papers_have_digits_to_read():
    assert set(papers.NAMES) >= {"hinton2006", "hinton_salakhutdinov2006", "larochelle2009"}
    assert isinstance(hinton2006.data.load("mnist").full_train, Split)


@pytest.mark.parametrize("name", papers.NAMES)
def test_each_paper_has_its_measured_table(name):
    lines = papers.measured_table(name).splitlines()
    assert lines[0].startswith("**")
    assert lines[0].endswith("**")
    assert lines[2].split(" | ")[1:4] == ["published", "source", "measured"]
    assert all(line.count(" | ") == 5 and float(line.split(" | ")[3]) for line in lines[4:])
    assert not [line for line in lines if line.endswith(" 0.00 |")]  # a row that trained nothing has no seconds
    assert len(papers.measured(name)) == len(lines) - 4


def test_a_measured_value_is_found_by_the_name_of_its_row():
    assert papers.measured("scherer2010")["max"] == 0.91


def test_a_kept_result_that_is_damaged_is_told_and_measured_again_when_deleted(tmp_path):
    path = tmp_path / "paper" / "result.json"
    assert cached(path, lambda: {"error": 1.25}) == {"error": 1.25}
    assert cached(path, lambda: {"error": 9.0}) == {"error": 1.25}
    path.write_text(path.read_text().replace("1.25", "1.35"))
    with pytest.raises(
        ValueError, match=r"result.json is damaged .*: delete it, and the same command measures it again"
    ):
        cached(path, lambda: {"error": 9.0})
    path.unlink()
    assert cached(path, lambda: {"error": 1.25}) == {"error": 1.25}


def test_a_result_of_an_earlier_version_without_a_checksum_is_still_taken(tmp_path):
    (tmp_path / "result.json").write_text('{"error": 1.25}')
    assert cached(tmp_path / "result.json", dict) == {"error": 1.25}


def test_a_result_that_cannot_be_kept_is_told_before_it_is_measured(tmp_path):
    (tmp_path / "file").write_text("")
    measured = []
    with pytest.raises(OSError, match=r"file could not be written .*: there is a file where a folder should be"):
        cached(tmp_path / "file" / "result.json", lambda: measured.append(1) or {})
    assert not measured
