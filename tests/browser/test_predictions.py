"""The card of a prediction, in JupyterLab: by mouse, by keyboard, after a restart, and with nothing that runs."""

import nbformat
import pytest
from playwright.sync_api import expect

CELLS = {
    "asks": 'from dlkit.ui import Predictions\n\npredict = Predictions("small")\n'
    'predict.choice("halves", "Is `a + b` the same?", "for both", "for one", "for neither")',
    "asks-number": 'predict.number("bytes", "How many bytes does each rank send?", unit="bytes")',
    "shows": 'predict.was("halves", "for one")',
    "shows-number": 'predict.was("bytes", 420_000)',
    "tally": "predict.tally()",
}


@pytest.fixture(scope="module")
def small(lab):
    """A notebook with two predictions, run only as far as they are asked."""
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": [tag]}) for tag, source in CELLS.items()]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    lab.write("small.ipynb", notebook)
    with lab.open_notebook("small.ipynb") as opened:
        run(opened, "asks", "asks-number")
        yield opened


def run(notebook, *tags):
    for tag in tags:
        notebook.cell(tag).locator(".cm-content").click()
        notebook.page.keyboard.press("Control+Enter")
    notebook.settle()


def status(area):
    return area.get_by_role("status")


def test_by_mouse(small):
    card = small.cell_output("asks")
    expect(card.get_by_role("group", name="Is a + b the same?")).to_be_visible()
    expect(card.locator("legend code")).to_have_text("a + b")
    card.get_by_role("button", name="Keep my prediction").click()
    expect(status(card)).to_have_text("Before it is kept, choose an answer, and say how sure you are.")
    card.get_by_role("radio", name="for both").click()
    card.get_by_label("How sure are you?").select_option("80")
    card.get_by_role("button", name="Keep my prediction").click()
    expect(status(card)).to_contain_text("Kept: you say “for both”, 80 % sure.")


def test_by_keyboard(small):
    card = small.cell_output("asks-number")
    number = card.get_by_role("textbox", name="Your number bytes")
    number.focus()
    small.page.keyboard.type("430,000")
    small.page.keyboard.press("Tab")
    small.page.keyboard.type("60")
    small.page.keyboard.press("Tab")
    small.page.keyboard.press("Enter")
    expect(status(card)).to_contain_text("Kept: you say 430,000, 60 % sure.")
    number.focus()
    small.page.keyboard.press("ControlOrMeta+a")
    small.page.keyboard.type("many")
    small.page.keyboard.press("Enter")
    expect(status(card)).to_contain_text("'many' is no number")
    radios = small.cell_output("asks").get_by_role("radio")
    radios.first.focus()
    small.page.keyboard.press("ArrowDown")
    expect(radios.nth(1)).to_be_checked()
    radios.first.focus()
    small.page.keyboard.press("ArrowUp")


def test_the_result_says_what_was_said_there_and_on_the_card(small):
    run(small, "shows", "shows-number")
    said = "You said “for both”, 80 % sure. It was “for one”: not as you thought."
    expect(status(small.cell_output("shows"))).to_have_text(said)
    card = small.cell_output("asks")
    expect(status(card)).to_have_text(said)
    expect(card.get_by_role("radio").first).to_be_disabled()
    expect(status(small.cell_output("shows-number"))).to_contain_text("It was 420,000 bytes: right.")
    run(small, "tally")
    expect(small.cell_output("tally")).to_contain_text("You predicted 2 of 2 results. Right: 1 of 2 (50 %)")


def test_it_is_there_after_the_cell_has_been_run_again(small):
    run(small, "asks")
    card = small.cell_output("asks")
    expect(card.get_by_role("radio", name="for both")).to_be_checked()
    expect(status(card)).to_contain_text("It was “for one”")
