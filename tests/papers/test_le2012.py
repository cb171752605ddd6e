"""The best single unit of le2012, reduced: its rows, that they are kept, and that labels never reach the training."""

import json

import pytest
import torch
from oracles import seeded

from dlkit import data
from dlkit.data import Dataset, Split
from dlkit.papers import le2012
from dlkit.papers.reproduction import measured
from dlkit.training import Experiment

TINY = le2012.Recipe(images=200, epochs=1, seeds=2)


@pytest.fixture
def tiny(monkeypatch):
    mnist = data.load("mnist")
    small = Dataset(mnist.train[:200], mnist.validation[:300], mnist.test[:300], "mnist")
    le2012.digits.cache_clear()
    monkeypatch.setattr(le2012.data, "load", lambda name: small)
    monkeypatch.setattr(le2012, "QUICK", TINY)
    monkeypatch.setattr(le2012, "SEARCHED", 100)
    monkeypatch.setattr(le2012, "ITERATIONS", 2)
    yield small
    le2012.digits.cache_clear()


def test_it_measures_every_row_and_keeps_it(tiny, tmp_path, monkeypatch):
    rows = le2012.measure(tmp_path, quick=True)
    assert [row.name for row in rows] == list(le2012.NAMES.values())
    assert all(50 < float(row.measured) < 100 for row in rows)
    kept = [json.loads((tmp_path / f"wide-SGD-{seed}.json").read_text()) for seed in range(2)]
    mean = sum(sum(result["accuracy"]) for result in kept) / 20
    assert float(rows[2].measured) == pytest.approx(mean, abs=0.051)
    assert "over 2 seeds" in rows[2].spread
    assert "over" not in rows[0].spread  # pixels are the same for all seeds
    monkeypatch.setattr(Experiment, "run", lambda *_, **__: pytest.fail("trained again"))
    assert le2012.measure(tmp_path, quick=True) == rows


def test_labels_do_not_reach_what_is_trained(tiny, tmp_path, monkeypatch):
    trained = le2012.pretrained(tmp_path / "one", TINY, "wide", 0)
    le2012.digits.cache_clear()
    other = Split(tiny.train.images, 9 - tiny.train.labels)
    monkeypatch.setattr(le2012.data, "load", lambda name: Dataset(other, tiny.validation, tiny.test, "mnist"))
    again = le2012.pretrained(tmp_path / "two", TINY, "wide", 0)
    assert torch.equal(trained[0].filters.weight, again[0].filters.weight)


def test_units_are_chosen_on_validation_digits_and_tried_on_test_digits(tiny):
    validation = le2012.digits(200)[1]

    def values(images):
        """One unit that knows the validation digits' labels, and a constant for the test digits."""
        known = validation[1] if images.shape == validation[0].shape and torch.equal(images, validation[0]) else None
        return torch.ones(len(images), 1) if known is None else (known == 0).float()[:, None]

    found = le2012.accuracies(TINY, values)["accuracy"]
    assert found[0] == pytest.approx(50.0)  # all right on validation digits; of the others it finds all


def test_top_units_see_what_the_stages_below_give(tiny):
    stages = le2012.deep(0)
    images = torch.randn(7, 28, 28, generator=seeded())
    with torch.no_grad():
        wanted = stages[1].filters(stages[0].hidden_given(images)).flatten(1)
    assert wanted.shape == (7, 256)
    torch.testing.assert_close(le2012.top_values(stages, images), wanted)


def test_in_the_table_that_comes_with_the_kit_trained_units_are_ahead_of_random_ones_and_of_pixels():
    kept = measured("le2012")
    assert list(kept) == list(le2012.NAMES.values())
    for net in ("one stage, ", "two stages, "):
        of_net = {name: value for name, value in kept.items() if name.startswith(net)}
        assert min(value for name, value in of_net.items() if "trained" in name) > of_net[f"{net}random filters"]
    assert kept["one stage, trained by SGD"] > kept["raw pixels"]
