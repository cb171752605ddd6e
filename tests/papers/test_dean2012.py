"""The comparison of optimizers, reduced: its rows, its times from their parts, and that what is kept is not measured
again.
"""

from math import inf

import pytest

from dlkit import data
from dlkit.data import Dataset
from dlkit.papers import dean2012
from dlkit.papers.reproduction import measured

TINY = dean2012.Recipe(images=1_280, replicas=(1, 3), epochs=2, target=60.0, seeds=2)
PARTS = {"batch": 0.5, "portion": 0.25, "message": 0.125, "command": 0.01}


@pytest.fixture
def tiny(monkeypatch):
    few = data.load("mnist").train[:1_280]
    monkeypatch.setattr(dean2012.data, "load", lambda name: Dataset(few, few, few, "mnist"))
    monkeypatch.setattr(dean2012, "QUICK", TINY)
    monkeypatch.setattr(dean2012, "SEARCHED", 640)
    monkeypatch.setattr(dean2012, "WARM", 2)
    monkeypatch.setattr(dean2012, "measure_parts", lambda: PARTS)


def test_it_measures_every_row_and_keeps_it(tiny, tmp_path, monkeypatch):
    rows = dean2012.measure(tmp_path, quick=True)
    assert [row.name for row in rows] == [
        "SGD, one replica",
        "Downpour, fixed rate, 1 replica",
        "Downpour, fixed rate, 3 replicas",
        "Downpour, Adagrad, 1 replica",
        "Downpour, Adagrad, 3 replicas",
        "Sandblaster, 1 worker",
        "Sandblaster, 3 workers",
    ]
    monkeypatch.setattr(dean2012, "train_virtually", lambda *_: pytest.fail("trained again"))
    assert dean2012.measure(tmp_path, quick=True) == rows


def test_a_time_is_that_of_its_parts():
    result = {"time": 0.0, "evaluations": 3, "messages": 40}
    of_one = 64 * 0.25 + (1 + 16) * 0.125
    assert dean2012.sandblaster_seconds(result, PARTS, 1) == pytest.approx(25 * 0.5 + 3 * of_one + 40 * 0.01)
    of_five = 13 * 0.25 + (5 + 16) * 0.125 / 3  # the busiest of five has thirteen portions, and there are three servers
    assert dean2012.sandblaster_seconds(result, PARTS, 5) == pytest.approx(25 * 0.5 + 3 * of_five + 40 * 0.01)
    assert dean2012.sandblaster_seconds(result | {"time": inf}, PARTS, 5) == inf


def test_one_seed_that_does_not_reach_it_makes_the_time_infinite():
    reached, missed = {"time": 2.0, "updates": 10, "seconds": 1.0}, {"time": inf, "updates": 0, "seconds": 1.0}
    row = dean2012.time_row("a", "", [reached, missed])
    assert row.measured == "inf"
    assert row.spread == "2 to 2 of 1 of 2 seeds that reached it, 10 updates"
    assert dean2012.time_row("a", "", [missed]).spread == "none of 0 of 1 seed that reached it"


def test_the_parts_are_measured(monkeypatch):
    monkeypatch.setattr(dean2012, "STEPS", 4)
    parts = dean2012.measure_parts()
    assert parts.keys() == PARTS.keys()
    assert all(0 < seconds < 1 for seconds in parts.values())


def test_the_kit_s_table_has_the_paper_s_order():
    found = measured("dean2012")
    for n in ("1 replica", "2 replicas", "4 replicas", "8 replicas"):
        assert found[f"Downpour, Adagrad, {n}"] < found[f"Downpour, fixed rate, {n}"]
    assert found["Sandblaster, 16 workers"] < found["Sandblaster, 1 worker"] / 5
    assert found["Downpour, Adagrad, 4 replicas"] < found["Sandblaster, 16 workers"]
