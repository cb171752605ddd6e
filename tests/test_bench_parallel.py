"""The cluster's bench, reduced: its row, and that nothing is left running."""

import psutil

from dlkit.bench import parallel as bench


def test_it_measures_a_row_for_each_number_of_engines(monkeypatch):
    monkeypatch.setattr(bench, "ENGINES", (1,))
    monkeypatch.setattr(bench, "ROUNDS", 1)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    (row,) = bench.measure()
    assert row.name == "1 engines ready"
    assert row.value > 0
    assert row.ratio > 0
    left = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    assert not [child for child in left if "ipyparallel" in " ".join(child.cmdline())]
