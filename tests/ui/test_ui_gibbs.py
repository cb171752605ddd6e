"""The Gibbs player without a browser: what its chains do, and that each control shows it."""

import io

import numpy as np
import pytest
import torch
from oracles import random_rbm
from PIL import Image

from dlkit.ui.controls.film import PARTS, held_pixels
from dlkit.ui.gibbs import Chains, GibbsPlayer


@pytest.fixture
def start():
    """Nine images of 4x6 pixels."""
    return (torch.rand(9, 24, generator=torch.Generator().manual_seed(3)) < 0.5).float()


@pytest.fixture
def player(start):
    return GibbsPlayer(random_rbm(24, 5), start, (4, 6))


def shown(player) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(player.picture.value)))


@pytest.mark.parametrize(
    ("part", "rows"),
    [
        ("nothing", ["000000"] * 4),
        ("top half", ["111111", "111111", "000000", "000000"]),
        ("bottom half", ["000000", "000000", "111111", "111111"]),
        ("left half", ["111000"] * 4),
        ("right half", ["000111"] * 4),
    ],
)
def test_the_held_pixels_are_those_of_the_part(part, rows):
    assert part in PARTS
    assert held_pixels((4, 6), part).view(4, 6).int().tolist() == [[int(x) for x in row] for row in rows]


def test_a_step_moves_the_chains_and_counts(start):
    chains = Chains(random_rbm(24, 5), start, (4, 6))
    chains.advance(3)
    assert chains.gibbs_steps == 3
    assert not torch.equal(chains.v, start)
    assert ((chains.v == 0) | (chains.v == 1)).all()


def test_held_pixels_stay_as_they_are_in_the_start_images(start):
    chains = Chains(random_rbm(24, 5), start, (4, 6))
    chains.advance(5)
    chains.hold("left half")  # from here on, whatever the chains have done to it
    for from_noise in (False, True):
        for _ in range(2):
            assert torch.equal(chains.v[:, chains.held], start[:, chains.held])
            chains.advance(2)
            assert not torch.equal(chains.v[:, ~chains.held], start[:, ~chains.held])
        chains.restart(from_noise)


def test_the_same_seed_gives_the_same_chains(start):
    first, second = (Chains(random_rbm(24, 5), start, (4, 6), seed=4) for _ in range(2))
    for chains in (first, second):
        chains.restart(from_noise=True)
        chains.advance(3)
    assert torch.equal(first.v, second.v)


def test_start_images_of_another_size_are_refused(start):
    with pytest.raises(ValueError, match=r"24 pixels and shape=\(5, 5\) for an RBM of 24 visible units"):
        Chains(random_rbm(24, 5), start, (5, 5))


def test_every_control_changes_the_picture(player):
    def changes(act) -> bool:
        before = player.picture.value
        act()
        return player.picture.value != before

    assert changes(player.step_button.click)
    assert changes(lambda: setattr(player.show, "value", "means"))
    assert changes(lambda: setattr(player.hold, "value", "top half"))
    assert changes(player.noise_button.click)
    assert changes(player.data_button.click)
    assert changes(lambda: setattr(player.play, "value", 1))


def test_a_tick_of_the_film_takes_the_chosen_number_of_steps(player):
    player.play.value = 1
    player.speed.value = 10
    player.play.value = 2
    assert "step 11:" in player.caption.value


def test_stop_goes_back_to_where_the_chains_last_began(player, start):
    player.noise_button.click()
    player.play.value = 1
    player.play.value = 0
    assert "step 0:" in player.caption.value
    assert not torch.equal(player.chains.v, start)
    player.data_button.click()
    player.play.value = 1
    player.play.value = 0
    assert torch.equal(player.chains.v, start)


def test_the_caption_tells_the_step_the_free_energy_and_what_is_held(player, start):
    with torch.no_grad():
        energy = float(player.chains.rbm.free_energy(start).mean())
    assert f"step 0: mean free energy {energy:.1f} nats; the start images' is {energy:.1f}." in player.caption.value
    player.hold.value = "right half"
    assert "The right half of each image is held (blue)." in player.caption.value


def test_held_pixels_are_blue_and_all_others_grey(player):
    player.hold.value = "left half"
    left = shown(player)[5, 5].astype(int)
    assert left[2] > left[0] + 20
    grey = shown(player)[5, 73:130].astype(int)  # the right half of the first image
    assert (grey.max(1) == grey.min(1)).all()


def test_images_may_be_given_as_images(start):
    player = GibbsPlayer(random_rbm(24, 5), start.view(9, 4, 6), (4, 6))
    assert torch.equal(player.chains.start, start)


def test_the_text_that_stands_in_for_the_widget_is_short(player):
    assert repr(player) == "GibbsPlayer(9 chains of RBM(visible=24, hidden=5))"
