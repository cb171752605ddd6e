"""The thesis on asynchronous workers, reduced: its rows, and that what is kept is not measured again."""

import pytest

from dlkit import data
from dlkit.data import Dataset
from dlkit.papers import hermans2017
from dlkit.papers.reproduction import measured

TINY = hermans2017.Recipe(images=640, workers=(1, 4), stale=(4,), forced=(4,), seeds=1)


@pytest.fixture
def tiny(monkeypatch):
    few = data.load("mnist").train[:700]
    monkeypatch.setattr(hermans2017.data, "load", lambda name: Dataset(few, few, few, "mnist"))
    monkeypatch.setattr(hermans2017, "QUICK", TINY)
    # Engines have the digits by name, and a fixture of their own; what they do with staleness is tested with them.
    monkeypatch.setattr(
        hermans2017, "train_on_engines", lambda recipe, workers, seed: hermans2017.train(recipe, "SGD", workers, seed)
    )


def test_it_measures_every_row_and_keeps_it(tiny, tmp_path, monkeypatch):
    rows = hermans2017.measure(tmp_path, quick=True)
    assert len(rows) == 3 * 2 + 1 + 1
    assert len({row.name for row in rows}) == len(rows)
    staleness = next(row for row in rows if row.name == "mean staleness with 4 workers")
    assert float(staleness.measured) == pytest.approx(3, rel=0.25)  # of 20 updates, the first of which are fresh
    monkeypatch.setattr(hermans2017, "train_virtually", lambda *_: pytest.fail("trained again"))
    assert hermans2017.measure(tmp_path, quick=True) == rows


def test_the_kit_s_table_says_what_the_thesis_does():
    found = measured("hermans2017")
    assert found["SGD, 10 workers"] < 10 < 50 < found["SGD, 20 workers"]
    assert found["DynSGD, 20 workers"] < 15
    for workers in (10, 20, 30, 60):
        assert found[f"mean staleness with {workers} workers"] == pytest.approx(workers - 1, rel=0.05)
    assert found["SGD, two engines, staleness of 10 workers"] < 10
    assert found["SGD, two engines, staleness of 20 workers"] > 50
