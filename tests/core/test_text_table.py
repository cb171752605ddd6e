"""Tables as text and HTML, and amounts in three digits, against worked examples."""

import pytest

from dlkit.core.text_table import as_html, as_text, format_bytes, format_seconds

COLUMNS, ROWS = ("name", "n", "state"), [["a", "1,000", "ok"], ["longer", "2", ""]]


def test_columns_are_aligned_to_the_left_or_to_the_right():
    assert as_text(COLUMNS, ROWS).splitlines() == [
        "name        n  state",
        "a       1,000     ok",
        "longer      2       ",
    ]
    assert as_text(COLUMNS, ROWS, left=0).splitlines()[1] == "     a  1,000     ok"
    assert as_text(COLUMNS, ROWS, left=3).splitlines()[1] == "a       1,000  ok   "


def test_a_table_without_rows_is_its_header():
    assert as_text(COLUMNS, []) == "name  n  state"
    assert as_html(["<n>"], []) == "<table><thead><tr><th>&lt;n&gt;</th></tr></thead><tbody></tbody></table>"


def test_cells_of_html_are_escaped():
    assert "<tr><td>a</td><td>&lt;b&gt;</td></tr>" in as_html(["x", "y"], [["a", "<b>"]])


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (24_300, "24.3 kB"), (999_600, "1 MB"), (5e15, "5,000 TB")]
)
def test_bytes_are_in_three_digits(size, text):
    assert format_bytes(size) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0 s"), (2e-6, "2 µs"), (0.02434, "24.3 ms"), (4321, "4,321 s")])
def test_seconds_are_in_three_digits(seconds, text):
    assert format_seconds(seconds) == text
