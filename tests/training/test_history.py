import json

import pytest

from dlkit.training.history import History

ROWS = [
    {"step": 100, "loss": 61.25},
    {"step": 12_345, "loss": 30.5, "<gap>": None},
    {"step": 20_000, "loss": 123_456.7},
]


def test_columns_are_all_that_any_row_has_in_the_order_of_their_first_use():
    history = History(ROWS)
    assert history.columns == ["step", "loss", "<gap>"]
    assert history["loss"] == [61.25, 30.5, 123_456.7]
    assert history["<gap>"] == [None, None, None]
    assert "loss" in history
    assert "lost" not in history


def test_a_history_is_its_rows():
    history = History()
    assert len(history) == 0
    for row in ROWS:
        history.append(row)
    assert (len(history), list(history), history.rows) == (3, ROWS, ROWS)
    assert json.loads(json.dumps(history.rows)) == ROWS


def test_a_column_that_is_not_there_is_named_beside_those_that_are():
    with pytest.raises(KeyError, match="no column 'lost': there are step, loss"):
        History([{"step": 1, "loss": 2.0}])["lost"]
    with pytest.raises(KeyError, match="there are none yet"):
        History()["loss"]


def test_two_histories_do_not_share_their_rows():
    History().append({"step": 1})
    assert len(History()) == 0


def test_a_history_shows_as_a_table_in_text_and_in_html():
    lines = repr(History(ROWS)).splitlines()
    assert [line.split() for line in lines] == [
        ["step", "loss", "<gap>"],
        ["100", "61.25"],
        ["12,345", "30.5"],
        ["20,000", "123,457"],
    ]
    assert len({len(line) for line in lines}) == 1  # right-aligned
    html = History(ROWS)._repr_html_()
    assert "<th>&lt;gap&gt;</th>" in html
    assert "<td>12,345</td><td>30.5</td><td></td>" in html


def test_an_empty_history_shows_as_nothing_and_does_not_fail():
    assert repr(History()) == ""
    assert "<table>" in History()._repr_html_()
