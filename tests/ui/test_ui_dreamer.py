"""The dreamer without a browser: what its chains do, and that each control shows it."""

import io

import numpy as np
import pytest
import torch
from oracles import randomised, seeded
from PIL import Image

from dlkit.models import DBN
from dlkit.ui.controls.film import held_pixels
from dlkit.ui.dreamer import CHAINS, Dreamer, Dreams


def stack(labels=3):
    return randomised(DBN.of([24, 7, 5], labels=labels), 0, 1.0)


@pytest.fixture
def start():
    """Nine images of 4x6 pixels."""
    return torch.rand(9, 4, 6, generator=seeded(3))


@pytest.fixture
def dreamer(start):
    return Dreamer(stack(), start, (4, 6))


def shown(dreamer) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(dreamer.picture.value)))


def test_it_begins_with_the_start_images_or_without_them_with_noise(start):
    dreams = Dreams(stack(), start, (4, 6))
    assert torch.equal(dreams.images, start.flatten(1))
    torch.testing.assert_close(dreams.state[:, :7], stack().up(start).detach())
    alone = Dreams(stack(), shape=(4, 6))
    assert alone.images.shape == (CHAINS, 24)
    torch.testing.assert_close(alone.images, stack().down(alone.state[:, :7]).detach())


def test_a_step_dreams_and_counts(start):
    dreams = Dreams(stack(), start, (4, 6))
    dreams.advance(3)
    assert dreams.gibbs_steps == 3
    assert (dreams.images != start.flatten(1)).all()
    torch.testing.assert_close(dreams.images, stack().down(dreams.state[:, :7]).detach())


def test_the_same_seed_gives_the_same_dreams(start):
    first, second, third = (Dreams(stack(), start, (4, 6), seed) for seed in (4, 4, 5))
    for dreams in (first, second, third):
        dreams.restart(from_noise=True)
        dreams.advance(3)
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.images, third.images)


def test_a_label_is_held_from_when_it_is_asked_for_until_it_is_let_go(start):
    dreams = Dreams(stack(), start, (4, 6))
    dreams.advance(2)
    painted = dreams.images
    for label in (2, 0):
        dreams.ask_for(label)
        for _ in range(4):
            assert dreams.labels.tolist() == [[float(k == label) for k in range(3)]] * 9
            assert torch.equal(dreams.state[:, 7:], dreams.labels)
            dreams.advance()
    assert dreams.gibbs_steps == 2 + 8
    assert not torch.equal(dreams.images, painted)
    dreams.ask_for(None)
    dreams.advance(1)
    assert ((dreams.labels > 0) & (dreams.labels < 1)).all()


def test_asking_for_a_label_paints_nothing_before_the_next_step(start):
    dreams = Dreams(stack(), start, (4, 6))
    dreams.advance(2)
    before = dreams.images
    dreams.ask_for(1)
    assert torch.equal(dreams.images, before)


def test_a_label_stays_held_over_a_restart(dreamer):
    dreamer.label.value = 1
    dreamer.noise_button.click()
    assert (dreamer.dreams.labels.argmax(1) == 1).all()


def test_the_list_of_labels_names_the_one_that_is_held_or_that_none_is(dreamer):
    assert dreamer.label.label == "free"
    for place, label in [(2, 1), (0, None), (1, 0)]:
        dreamer.label.index = place  # as the browser sets it
        assert (dreamer.label.index, dreamer.dreams.label) == (place, label)
    dreamer.label.value = "free"
    assert dreamer.dreams.label is None


def test_a_held_label_conditions_the_dreams():
    """Where the weights tie label 1 to the features that are all on, and label 0 to those all off."""
    dbn = DBN.of([4, 3, 1], labels=2)
    with torch.no_grad():
        dbn.layers[0].W.fill_(6)
        dbn.layers[0].a.fill_(-9)
        dbn.top.W.copy_(torch.tensor([[8.0], [8.0], [8.0], [-40.0], [40.0]]))
        dbn.top.a.fill_(-4)
        dbn.top.b.fill_(-4)
    dreams = Dreams(dbn, shape=(2, 2))
    for label in (0, 1, 0):
        dreams.ask_for(label)
        dreams.advance(5)
        bright = dreams.images.mean()
        assert bright > 0.95 if label else bright < 0.05


@pytest.mark.parametrize("from_noise", [False, True])
def test_held_pixels_stay_and_the_others_do_not(start, from_noise):
    dreams = Dreams(stack(), start, (4, 6))
    dreams.advance(5)
    dreams.hold("left half")  # from here on, whatever the chains have done to it
    held = held_pixels((4, 6), "left half")
    for _ in range(2):
        for _ in range(2):
            assert torch.equal(dreams.images[:, held], start.flatten(1)[:, held])
            dreams.advance(2)
            assert (dreams.images[:, ~held] != start.flatten(1)[:, ~held]).all()
        dreams.restart(from_noise)
    dreams.hold("nothing")
    dreams.advance(1)
    assert (dreams.images[:, held] != start.flatten(1)[:, held]).all()


def test_every_control_changes_the_picture(dreamer):
    def changes(act) -> bool:
        before = dreamer.picture.value
        act()
        return dreamer.picture.value != before

    assert changes(dreamer.step_button.click)
    assert changes(dreamer.noise_button.click)
    assert changes(lambda: setattr(dreamer.label, "value", 1))  # the numbers under the dreams
    assert changes(lambda: setattr(dreamer.hold, "value", "top half"))
    assert changes(dreamer.data_button.click)
    assert changes(lambda: setattr(dreamer.play, "value", 1))


def test_a_tick_takes_the_chosen_number_of_steps_and_stop_goes_back_to_where_it_began(dreamer, start):
    dreamer.play.value = 1
    dreamer.speed.value = 5
    dreamer.play.value = 2
    assert "9 chains, step 6:" in dreamer.caption.value
    dreamer.play.value = 0
    assert "step 0:" in dreamer.caption.value
    assert torch.equal(dreamer.dreams.images, start.flatten(1))
    dreamer.noise_button.click()
    dreamer.play.value = 1
    dreamer.play.value = 0
    assert dreamer.dreams.gibbs_steps == 0
    assert not torch.equal(dreamer.dreams.images, start.flatten(1))


def test_the_caption_counts_the_likeliest_labels_and_says_which_is_held(dreamer):
    dreamer.step_button.click()
    likeliest = dreamer.dreams.labels.argmax(1).tolist()
    most = max(range(3), key=lambda label: (likeliest.count(label), -label))
    assert f"labels are free, and now most often {most} ({likeliest.count(most)} chains)" in dreamer.caption.value
    dreamer.label.value = 2
    dreamer.hold.value = "right half"
    assert "label 2 is held. The right half of each image is held (blue)." in dreamer.caption.value


def test_the_bars_are_the_mean_label_probabilities(dreamer):
    dreamer.step_button.click()
    means = dreamer.dreams.labels.mean(0).tolist()
    assert ", ".join(f"{k}: {mean:.2f}" for k, mean in enumerate(means)) in dreamer.chart.value
    dreamer.label.value = 1
    assert "0: 0.00, 1: 1.00, 2: 0.00" in dreamer.chart.value


def test_held_pixels_are_blue_and_all_others_grey(dreamer):
    dreamer.hold.value = "left half"
    zoomed = 420 // (3 * 6) * 6  # three images of 6 pixels in a row
    left, right = shown(dreamer)[5, : zoomed // 2].astype(int), shown(dreamer)[5, zoomed // 2 : zoomed].astype(int)
    assert (left[:, 2] > left[:, 0] + 20).all()
    assert (right.max(1) == right.min(1)).all()


def test_a_dream_can_be_taken_along(dreamer):
    dreamer.step_button.click()
    taken = dreamer.image(4)
    assert torch.equal(taken, dreamer.dreams.images[4].view(4, 6))
    kept = taken.clone()
    dreamer.step_button.click()
    assert torch.equal(taken, kept)
    for index in (-1, 9):
        with pytest.raises(ValueError, match=f"chain {index}: there are 9, 0 to 8"):
            dreamer.image(index)


def test_without_labels_or_start_images_it_still_dreams_and_says_what_it_cannot():
    dreamer = Dreamer(stack(labels=None), shape=(4, 6))
    assert dreamer.label.disabled
    assert dreamer.hold.disabled
    assert dreamer.data_button.disabled
    assert "no label units" in dreamer.caption.value
    assert "No start images were given" in dreamer.caption.value
    before = dreamer.picture.value
    dreamer.step_button.click()
    assert dreamer.picture.value != before
    assert dreamer.chart.value == ""
    labelled = Dreamer(stack(), torch.zeros(2, 4, 6), (4, 6))
    assert not any(control.disabled for control in (labelled.label, labelled.hold, labelled.data_button))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda start: Dreamer(stack(), start),
            r"4x6 pixels and shape=\(28, 28\): give shape=\(4, 6\)",
        ),
        (lambda start: Dreamer(stack(), shape=(5, 5)), r"shape=\(5, 5\) has 25 pixels and the DBN paints 24"),
        (
            lambda start: Dreams(stack(), shape=(4, 6)).hold("top half"),
            "no digits to hold a part of",
        ),
        (lambda start: Dreams(stack(), shape=(4, 6)).restart(), "no digits to start from: give start_images"),
        (lambda start: Dreams(stack(), start, (4, 6)).ask_for(3), "label 3 is out of range: this DBN knows 0 to 2"),
        (lambda start: Dreams(stack(None), start, (4, 6)).ask_for(0), "no label units"),
    ],
)
def test_what_cannot_be_done_is_refused(act, message, start):
    with pytest.raises(ValueError, match=message):
        act(start)


def test_the_text_that_stands_in_for_the_widget_is_short(dreamer):
    assert repr(dreamer) == "Dreamer(9 chains of a DBN 24-7-5 with 3 labels)"
    assert repr(Dreamer(stack(None), shape=(4, 6))) == "Dreamer(16 chains of a DBN 24-7-5)"
