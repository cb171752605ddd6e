"""The Gibbs players and the CD explorer of notebook 01, in JupyterLab."""

import re

import pytest
from playwright.sync_api import expect

from .lab import change, image_of, move_slider, pause, play, press, select

pytestmark = pytest.mark.parametrize("notebook", ["01_energy_and_sampling.ipynb"], indirect=True)


@pytest.fixture(params=["gibbs-player", "digit-player"])
def player(notebook, request):
    return notebook.cell_output(request.param)


@pytest.fixture
def explorer(notebook):
    return notebook.cell_output("cd-explorer")


def picture(area):
    return lambda: image_of(area.locator("img.widget-image"))


def step(area) -> int:
    return int(re.search(r"step ([\d,]+)", area.inner_text())[1].replace(",", ""))


def test_a_gibbs_step_changes_the_picture(player):
    press(player, "Start from data")
    with change(picture(player)):
        press(player, "Step")
    expect(player.get_by_text("step 1:")).to_be_visible()


def test_a_gibbs_step_can_be_taken_with_the_keyboard(player):
    with change(picture(player)):
        press(player, "Step", key="Enter")


def test_the_chain_plays_by_itself_until_it_is_paused(player):
    press(player, "Start from data")
    play(player)
    with change(lambda: step(player)):
        pass
    with change(lambda: step(player)):
        pass
    pause(player)
    player.page.wait_for_timeout(500)  # the last tick may still be on its way
    resting = step(player)
    player.page.wait_for_timeout(500)
    assert step(player) == resting > 1


def test_starting_from_noise_changes_the_picture(player):
    press(player, "Start from data")
    with change(picture(player)):
        press(player, "Start from noise")
    expect(player.get_by_text("step 0:")).to_be_visible()


def test_holding_half_of_the_image_is_shown_and_said(player):
    with change(picture(player)):
        select(player, "Hold", "left half")
    expect(player.get_by_text("The left half of each image is held (blue).")).to_be_visible()
    with change(picture(player)):
        select(player, "Hold", "nothing")


def test_the_means_are_another_picture_than_the_samples(player):
    press(player, "Step")
    with change(picture(player)):
        select(player, "Show", "means")
    with change(picture(player)):
        select(player, "Show", "samples")


@pytest.mark.parametrize(
    ("slider", "says"), [("k", "CD-2, rate 0.5"), ("Rate", "rate 1, 8"), ("Hidden units", "10 hidden")]
)
def test_a_move_of_a_slider_trains_another_machine(explorer, slider, says):
    with change(picture(explorer)):
        move_slider(explorer, slider, +1)
    expect(explorer.get_by_text(re.compile(f"{says}.*after 1,000 updates"))).to_be_visible()
    with change(picture(explorer)):
        move_slider(explorer, slider, -1)
    expect(explorer.get_by_text(re.compile("CD-1, rate 0.5, 8 hidden units.*after 1,000 updates"))).to_be_visible()


def test_a_player_survives_a_second_run_of_its_cell(notebook):
    area = notebook.cell_output("gibbs-player")
    play(area)
    with change(lambda: step(area)):
        pass
    notebook.cell("gibbs-player").locator(".jp-InputArea-editor").click()
    notebook.page.keyboard.press("Control+Enter")
    expect(area.get_by_text("step 0:")).to_be_visible()
    assert area.locator("img.widget-image").count() == 1
    with change(picture(area)):
        press(area, "Step")
    expect(area.get_by_text("step 1:")).to_be_visible()
