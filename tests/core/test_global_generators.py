"""The generators that a program shares are lent a seed, and are afterwards as they were."""

import random
import threading

import numpy as np
import pytest
import torch

from dlkit.core.global_generators import mixed, moved_by, seeded, undisturbed

pytestmark = pytest.mark.usefixtures("unchecked")  # beartype, which checks types, draws from `random`


def draws():
    return float(torch.rand(1)), float(np.random.rand()), random.random()


def test_the_same_numbers_give_the_same_draws_and_others_do_not():
    found = []
    for numbers in ((3, 1), (3, 1), (3, 2), (4, 1), (1, 3)):
        with seeded(*numbers):
            found.append(draws())
    assert found[0] == found[1]
    for column in zip(*found[1:], strict=True):
        assert len(set(column)) == 4


def test_afterwards_they_are_as_they_were():
    with seeded(8):
        expected = [draws(), draws()]
    with seeded(8):
        before = draws()
        try:
            with seeded(9):
                draws()
                raise KeyError
        except KeyError:
            pass
        assert [before, draws()] == expected


def test_only_those_named_are_lent():
    with seeded(8):
        torch_alone = draws()[0]
    with seeded(1), seeded(8, names=("torch",)):
        inside = draws()
    with seeded(1):
        assert draws()[1:] == inside[1:]
    assert inside[0] == torch_alone


def test_those_that_a_call_draws_from_are_found():
    calls = {
        "torch": lambda: torch.rand(1),
        "numpy": lambda: np.random.rand(),
        "random": lambda: random.random(),
    }
    for name, call in calls.items():
        assert moved_by(call) == (name,)
    assert moved_by(lambda: torch.rand(1, generator=torch.Generator())) == ()
    assert moved_by(draws) == ("torch", "numpy", "random")


def test_seeds_of_neighbours_look_unrelated():
    seeds = [mixed(seed, step) for seed in range(-20, 20) for step in range(-1, 200)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 1 << 32 for seed in seeds)
    bits = torch.tensor([[seed >> bit & 1 for bit in range(32)] for seed in seeds], dtype=torch.float64)
    assert ((bits.mean(0) - 0.5).abs() < 4 * 0.5 / len(seeds) ** 0.5).all()


def test_that_of_apple_s_gpu_is_one_of_them(monkeypatch):
    """A net draws from it there, for dropout say; here another generator stands in for it."""
    there = torch.Generator().manual_seed(5)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "_get_default_mps_generator", lambda: there)
    before, found = there.get_state(), []
    for numbers in ((3, 1), (3, 1), (3, 2)):
        with seeded(*numbers):
            found.append(float(torch.rand(1, generator=there)))
    assert found[0] == found[1] != found[2]
    assert torch.equal(there.get_state(), before)
    assert moved_by(lambda: torch.rand(1, generator=there)) == ("torch",)


def test_threads_take_turns():
    with seeded(5):
        alone = [draws() for _ in range(200)]
    found = {}

    def draw_in(thread):
        with seeded(5):
            found[thread] = [draws() for _ in range(200)]

    threads = [threading.Thread(target=draw_in, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(each == alone for each in found.values())
    assert len(found) == 4


def test_what_may_draw_beside_a_run_waits_for_its_turn():
    begun, waited = threading.Event(), []

    def beside():
        begun.set()
        with undisturbed():
            waited.append(draws())

    thread = threading.Thread(target=beside)
    with seeded(5):
        first = draws()
        thread.start()
        begun.wait()
        second = draws()
        assert not waited
    thread.join()
    assert waited
    with seeded(5):
        assert [draws(), draws()] == [first, second]
