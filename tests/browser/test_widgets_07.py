"""The live cluster of notebook 07, in JupyterLab."""

import re

import pytest
from playwright.sync_api import expect

from .lab import change, press, select

pytestmark = pytest.mark.parametrize("notebook", ["07_engine_cluster.ipynb"], indirect=True)
STARTING = 60_000  # milliseconds for engines to start, and for a run to end


def status(area):
    return area.locator("[role=status]")


def states(area):
    return area.locator("tbody tr td:nth-child(5)")


def pids(area):
    return area.locator("tbody tr td:nth-child(2)").all_inner_texts()


def test_the_run_of_the_notebook_is_shown_to_its_end_and_then_that_the_cluster_is_down(notebook):
    area = notebook.cell_output("live")
    expect(status(area)).to_have_text(re.compile(r"^Finished at step 300:"))
    expect(area.get_by_role("img", name=re.compile(r"^loss: from .* at step .*images a second"))).to_be_visible()
    expect(area).to_contain_text("No engine is up: press Recover to start them.")
    expect(states(area)).to_have_text(["not started", "not started"])


def test_a_run_is_drawn_while_it_goes_on_and_stopped_by_keyboard(live):
    expect(states(live)).to_have_text(["ready", "ready"])
    with (
        change(lambda: live.locator("svg polyline").first.get_attribute("points")),
        change(lambda: live.locator("tbody").inner_text()),  # the loads
    ):
        press(live, "Run", key="Enter")
    expect(status(live)).to_have_text(re.compile(r"^Running on 2 engines: step "))
    press(live, "Stop", key="Space")
    expect(status(live)).to_have_text(re.compile(r"^Stopped at step "))
    expect(live.locator("button", has_text="Run")).to_be_enabled()


def test_a_killed_engine_is_named_and_after_recovery_the_run_goes_on_to_its_end(live):
    press(live, "Run")
    expect(status(live)).to_have_text(re.compile(r"^Running on 2 engines: step "))
    before = pids(live)
    select(live, "Engine", "1")
    press(live, "Kill")
    expect(status(live)).to_have_text(re.compile(rf"^engine 1 \(.*pid {before[1]}.*has died.*goes on from"))
    expect(states(live)).to_have_text(["ready", "gone"])
    press(live, "Recover")
    expect(status(live)).to_have_text(re.compile(r"^Finished at step 300:"), timeout=STARTING)
    expect(states(live)).to_have_text(["ready", "ready"])
    assert pids(live)[0] == before[0]
    assert pids(live)[1] != before[1]
