"""The training monitor and the Gibbs player of notebook 02, in JupyterLab."""

import re

import pytest
from playwright.sync_api import expect

from .lab import change, image_of, press, select

pytestmark = pytest.mark.parametrize("notebook", ["02_rbm_pretraining.ipynb"], indirect=True)


@pytest.fixture
def monitor(notebook):
    return notebook.cell_output("training-monitor")


@pytest.fixture
def player(notebook):
    return notebook.cell_output("gibbs-player")


def status(area):
    return area.locator("[role=status]")


def test_the_monitor_has_finished_and_says_what_it_found(monitor):
    expect(status(monitor)).to_have_text(re.compile(r"^Finished at step ([\d,]+) of \1:"))
    expect(monitor).to_contain_text("Healthy: all 192 units are of use")
    expect(
        monitor.get_by_role("img", name=re.compile(r"loss: from .* pseudo-log-lik.*free-energy gap"))
    ).to_be_visible()


def test_training_again_changes_the_filters_the_fantasies_and_the_chart_until_it_is_stopped(monitor):
    filters, fantasies = (monitor.locator("img.widget-image").nth(i) for i in (0, 1))
    with (
        change(lambda: image_of(filters)),
        change(lambda: image_of(fantasies)),
        change(lambda: monitor.locator("svg polyline").first.get_attribute("points")),
    ):
        press(monitor, "Start")
    expect(status(monitor)).to_have_text(re.compile(r"^Training: step "))
    press(monitor, "Stop")
    expect(status(monitor)).to_have_text(re.compile(r"^Stopped at step [\d,]+ of [\d,]+"))


def test_the_monitor_works_with_the_keyboard(monitor):
    press(monitor, "Start", key="Enter")
    expect(status(monitor)).to_have_text(re.compile(r"^Training: step "))
    press(monitor, "Stop", key="Space")
    expect(status(monitor)).to_have_text(re.compile(r"^Stopped at step "))
    expect(monitor.locator("button", has_text="Start")).to_be_enabled()


def test_the_player_goes_on_from_a_held_half(player):
    picture = player.locator("img.widget-image")
    select(player, "Hold", "top half")
    with change(lambda: image_of(picture)):
        press(player, "Start from noise")
    with change(lambda: image_of(picture)):
        press(player, "Step")
    expect(player).to_contain_text("The top half of each image is held")
