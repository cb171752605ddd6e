"""The models that come with dlkit have the test errors that their README gives."""

import re
from pathlib import Path

import pytest
import torch

from dlkit import data
from dlkit.analysis.recognition import by_free_energy, by_net, error
from dlkit.models import DBN
from dlkit.models.shipped import NAMES, pretrained, store
from dlkit.papers.hinton_salakhutdinov2006 import squared_error

FOLDER = Path(__file__).parents[2] / "data" / "pretrained"


def said(name: str) -> float:
    """The error in the README's row of this model."""
    row = next(line for line in (FOLDER / "README.md").read_text().splitlines() if line.startswith(f"| {name}."))
    return float(re.search(r"\| ([\d.]+) (%|squared)", row)[1])


def test_the_dbn_misreads_as_many_test_digits_as_its_readme_says():
    test = data.load("mnist").test
    assert error(by_free_energy(pretrained("dbn"), test.images), test) == pytest.approx(said("dbn"), abs=0.02)


@pytest.mark.parametrize("name", ["convnet", "lenet5"])
def test_a_convolutional_net_misreads_as_many_test_digits_as_its_readme_says(name):
    test = data.load("mnist").test
    assert error(by_net(pretrained(name), test.images), test) == pytest.approx(said(name), abs=0.02)


def test_the_autoencoder_brings_test_digits_back_as_well_as_its_readme_says():
    test = data.load("mnist").test
    assert squared_error(pretrained("autoencoder"), test.images) == pytest.approx(said("autoencoder"), abs=0.006)


def test_all_of_them_are_smaller_than_12_mb_and_listed():
    files = data.verify("pretrained")
    assert sorted(path.stem for path in files) == sorted(NAMES)
    assert sum(path.stat().st_size for path in files) < 12e6


def test_an_altered_one_is_refused(tmp_path):
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "SHA256SUMS").write_text((FOLDER.parent / "SHA256SUMS").read_text())
    raw = bytearray((FOLDER / "dbn.safetensors").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "pretrained" / "dbn.safetensors").write_bytes(raw)
    with pytest.raises(ValueError, match=r"dbn.safetensors was altered, its SHA-256 is"):
        pretrained("dbn", root=tmp_path)
    with pytest.raises(FileNotFoundError, match=r"autoencoder.safetensors is missing"):
        pretrained("autoencoder", root=tmp_path)


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"no model 'cnn' comes with dlkit: there are dbn, .*, lenet5"):
        pretrained("cnn")


def test_storing_costs_half_a_float16_step(tmp_path):
    dbn = DBN.of([4, 3, 2], labels=2, untied=True, std=1.0)
    store(dbn, tmp_path / "dbn.safetensors", dbn.config())
    from dlkit.core.storage import read_tensors

    tensors, _ = read_tensors(tmp_path / "dbn.safetensors")
    for name, tensor in dbn.state_dict().items():
        torch.testing.assert_close(tensors[name].float(), tensor, rtol=2**-11, atol=1e-7)
