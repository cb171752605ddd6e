import json
from dataclasses import replace

import pytest

from dlkit import bench, papers
from dlkit.bench.timing import interleaved, ratio
from dlkit.core.reports import BenchRow, PaperRow, ScalingRow, emit, markdown

BENCH = BenchRow("CD-1 epoch", 30_000.0, "images/s", "the floor: 40,000 images/s", 0.75, "ratio at least 0.70")
PAPER = PaperRow("CD-25, AIS", "-86.34", "Salakhutdinov & Murray 2008", "-90.1", "-90.2 to -90.0", 12.5)
SCALING = ScalingRow(4, "2x2", 2, 2, "59x59", 4_000_000, "1,000,000", "1 Gb/s", 851.0, 7.8, 554.0, 734.0, 3.03)


@pytest.mark.parametrize("row", [BENCH, PAPER, SCALING])
def test_the_json_holds_the_columns_of_the_table_and_their_values(row, capsys):
    emit([row], "a title", as_json=True)
    (printed,) = json.loads(capsys.readouterr().out)
    assert type(row)(**printed) == row


def test_columns_have_the_names_that_every_bench_and_paper_shares(capsys):
    emit([BENCH], "", as_json=True)
    assert list(json.loads(capsys.readouterr().out)[0]) == ["name", "value", "unit", "reference", "ratio", "goal"]
    emit([PAPER], "", as_json=True)
    names = ["name", "published", "source", "measured", "spread", "seconds"]
    assert list(json.loads(capsys.readouterr().out)[0]) == names


def test_sources_are_numbered_below_the_table(capsys):
    other = replace(PAPER, name="CD-1", source="Tieleman 2008")
    emit([PAPER, other, replace(PAPER, name="CD-3"), replace(PAPER, name="ours", published="", source="")], "a title")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["[1] Salakhutdinov & Murray 2008", "[2] Tieleman 2008"]
    cells = {line.split("│")[1].strip(): line.split("│")[2].strip() for line in lines if line.startswith("│")}
    assert cells == {"CD-25, AIS": "-86.34 [1]", "CD-1": "-86.34 [2]", "CD-3": "-86.34 [1]", "ours": ""}


def test_markdown_keeps_a_row_on_one_line_whatever_is_in_it():
    lines = markdown([PaperRow("a|b", "", "", "1", "", 0.0)], "title").splitlines()
    assert lines[0] == "# title"
    assert lines[-1] == "| a\\|b |  |  | 1 |  | 0.00 |"


def test_counts_have_no_decimals_and_headings_are_words():
    lines = markdown([SCALING], "title").splitlines()
    assert lines[2].startswith("| ranks | grid | cores | ranks a core | images | parameters | parameters a rank |")
    assert lines[4] == "| 4 | 2x2 | 2 | 2 | 59x59 | 4,000,000 | 1,000,000 | 1 Gb/s | 851 | 7.80 | 554 | 734 | 3.03 |"


def test_tasks_take_turns_and_the_first_round_is_not_counted():
    calls = []
    seconds = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_the_ratio_is_the_median_of_the_rounds_own_ratios():
    seconds = {"task": [2.0, 4.0, 20.0], "reference": [1.0, 1.0, 15.0]}  # 0.5, 0.25 and 0.75 of its speed
    assert ratio(seconds, "task", "reference") == 0.5


@pytest.mark.parametrize(("room", "known"), [(bench, "rbm"), (papers, "salakhutdinov2008")])
def test_an_unknown_name_is_answered_with_those_there_are(room, known):
    with pytest.raises(ValueError, match=f"named 'rmb': there are {known}"):
        room.run("rmb")
