"""The widgets of notebook 11, in JupyterLab: the race, the laboratory, the kill button, L-BFGS by commands."""

import re

import pytest
from playwright.sync_api import expect

from .lab import change, move_slider, press, select

pytestmark = pytest.mark.parametrize("notebook", ["11_asynchronous.ipynb"], indirect=True)
LONG = 60_000  # milliseconds for engines to start, and for a run to end


def status(area):
    return area.locator("[role=status]").first


def test_the_race_of_the_notebook_is_shown_to_its_end(notebook):
    area = notebook.cell_output("Race(")
    expect(status(area)).to_have_text("Finished: slow an engine, and race again.")
    picture = area.get_by_role("img", name=re.compile(r"over seconds of training\. by data: .* at .*; Downpour: .* at"))
    expect(picture).to_be_visible()
    expect(area.locator("tbody tr")).to_have_count(2)


def test_a_race_is_drawn_while_it_goes_on_and_stopped(live, notebook):
    area = notebook.cell_output("Race(")
    move_slider(area, "Engine 1 is slowed", +1)
    with change(lambda: area.locator("svg polyline").first.get_attribute("points")):
        press(area, "Race")
    expect(status(area)).to_have_text(re.compile(r"^by data: batch \d+"))
    press(area, "Stop")
    expect(status(area)).to_have_text("Stopped.", timeout=LONG)


def test_another_rule_has_another_rate_and_its_run_is_drawn_beside_the_first(notebook):
    area = notebook.cell_output("StalenessExplorer(")
    area.scroll_into_view_if_needed()
    expect(status(area)).to_have_text(re.compile(r"^Finished. plain SGD, 20 workers, rate 0.1: mean staleness 1"))
    press(area, "by staleness")
    move_slider(area, "Workers", -1)
    press(area, "Start", key="Enter")
    text = re.compile(r"^Finished. by staleness, 15 workers, rate 1: mean staleness 1\d\.\d\d; error on held-out")
    expect(status(area)).to_have_text(text, timeout=LONG)
    both = re.compile(r"loss over batches of all workers together\. plain SGD, 20 .*; by staleness, 15 workers")
    expect(area.get_by_role("img", name=both)).to_be_visible()
    expect(area.get_by_role("img", name=re.compile(r"^pushes \(%\) over staleness .* at 1\d"))).to_be_visible()


def test_a_killed_server_comes_back_into_its_run(live):
    expect(live.locator("tbody tr td:nth-child(7)")).to_have_text(["server 0 and replica 0", "replica 1"])
    press(live, "Run")
    expect(status(live)).to_have_text(re.compile(r"^Running on 2 engines: step [1-9]"), timeout=LONG)
    select(live, "Engine", "0")
    press(live, "Kill")
    expect(live).to_contain_text(re.compile(r"has died, and with it server 0 and a replica of part 0"))
    expect(live).to_contain_text("engine 0 has come back", timeout=LONG)
    expect(status(live)).to_have_text(re.compile(r"^Finished at step 600:"), timeout=LONG)


def test_the_messages_of_lbfgs_are_played_by_slider_and_by_buttons(notebook):
    area = notebook.cell_output("CommandTape(")
    area.scroll_into_view_if_needed()
    picture = area.get_by_role("img")
    expect(picture).to_have_attribute("aria-label", re.compile("^workers fetch values from 2 servers"))
    with change(area.inner_text):
        move_slider(area, "Message", +1)
    expect(picture).to_have_attribute("aria-label", re.compile("^the coordinator sends commands to 2 servers"))
    expect(area).to_contain_text("the gradient: add up the 4 sums")
    expect(area.get_by_role("slider", name="Message")).to_have_attribute("aria-valuetext", "2")
    area.locator("button[title='The next batch that workers compute']").click()
    expect(area).to_contain_text("The coordinator hears the loss")
