"""L-BFGS by commands, message by message."""

import re

import pytest
import torch
from small_searches import experiment, parameters

from dlkit.core.text_table import format_bytes
from dlkit.strategies import Sandblaster, sandblast_virtually
from dlkit.strategies.sandblaster.tape import tape
from dlkit.ui import CommandTape
from dlkit.ui.draw.tape_diagram import in_words

STRATEGY = Sandblaster(servers=2, portions=6, together=2)


@pytest.fixture(scope="module")
def player():
    return CommandTape(experiment(iterations=4), STRATEGY, 3)


def test_the_tape_is_of_the_run_itself(player):
    run = sandblast_virtually(experiment(iterations=4), STRATEGY, 3, steps=1)
    losses = [said.loss for said in player.said if said.portions]
    assert len(losses) == run.evaluations
    assert losses[0] == pytest.approx(run.history["loss"][0])
    last = 1  # which forgets vectors when the run is over
    assert sum(bool(said.commands) for said in player.said) == run.bill["messages"] - last


def test_values_and_gradients_travel_once_for_each_worker_and_each_sum(player):
    size = 8 * len(parameters(experiment().initial_model()))
    for said in player.said:
        assert said.vector_bytes == (size * (3 + len(said.portions)) if said.portions else 0)
        assert sorted(portion for portions in said.portions for portion in portions) == (
            list(range(6)) if said.portions else []
        )


def test_the_parts_of_a_dot_product_add_up():
    """By one server and by three the same numbers."""
    one, three = (
        [
            sum(parts)
            for said in tape(experiment(iterations=3), Sandblaster(servers=servers, portions=6), 1)
            for command, parts in zip(
                [c for c in said.commands if c[0] in ("dot", "largest", "length")],
                zip(*said.numbers, strict=True),
                strict=True,
            )
            if command[0] == "dot"
        ]
        for servers in (1, 3)
    )
    torch.testing.assert_close(torch.tensor(one), torch.tensor(three))


def test_the_slider_and_the_buttons_go_through_it(player):
    _, before, after, forward = player.children[0].children
    after.click()
    assert player.at.value == 2
    assert "the gradient: add up the 3 sums" in player.caption.value
    before.click()
    before.click()
    assert player.at.value == 1
    assert "Workers ask for portions" in player.caption.value
    forward.click()
    assert player.said[player.at.value - 1].portions
    for _ in range(20):
        forward.click()
    assert player.at.value == len(player.said)
    assert format_bytes(sum(said.vector_bytes for said in player.said)) in player.bill.value


def test_a_picture_says_who_talks_to_whom(player):
    labels = []
    for player.at.value in (1, 2):
        labels += re.findall(r'aria-label="([^"]*)"', player.picture.value)
    assert labels[0].startswith("workers fetch values from 2 servers")
    assert labels[1].startswith("the coordinator sends commands to 2 servers")


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (("dot", "v1", "v2"), "v1 · v2 = ?"),
        (("largest", "v1"), "max |v1| = ?"),
        (("length", "v1"), "Σ |v1| = ?"),
        (("scaled", "v2", "v1", -1.0), "v2 = -1 v1"),
        (("sum", "v3", "x", "v2", -0.5), "v3 = x − 0.5 v2"),
        (("add", "x", "v2", 0.25), "x = x + 0.25 v2"),
        (("collect", "v4", ["a", "b"]), "v4 = the gradient: add up the 2 sums that came from workers"),
        (("free", "v4"), "forget v4"),
    ],
)
def test_commands_in_words(command, text):
    assert in_words(command) == text
