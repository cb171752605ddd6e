"""Random numbers that do not depend on how a batch is split."""

import numpy as np
import pytest
import torch

from dlkit.core import random
from dlkit.core.random import ShardedGenerator
from dlkit.core.slices import Slice, slice_of
from dlkit.training import Affine, InputDropout


def seeded(kind=ShardedGenerator, seed=0):
    generator = kind("cpu")
    generator.manual_seed(seed)
    return generator


def test_slices_are_contiguous_nearly_equal_and_all_of_it():
    slices = [slice_of(11, rank, 4) for rank in range(4)]
    assert slices == [Slice(0, 3, 11), Slice(3, 6, 11), Slice(6, 9, 11), Slice(9, 11, 11)]
    assert [rows.count for rows in slices] == [3, 3, 3, 2]
    assert [slice_of(2, rank, 4).count for rank in range(4)] == [1, 1, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", [random.bernoulli, random.normal, random.categorical, random.uniform])
def test_workers_draw_what_one_process_draws_and_go_on_from_the_same_state(kind, dtype):
    p = torch.rand(11, 5, generator=torch.Generator().manual_seed(1)).to(dtype)  # rows begin within a word
    alone = seeded()
    whole = [kind(p, alone) for _ in range(3)]
    for rank in range(3):
        generator = seeded()
        rows = generator.rows = slice_of(11, rank, 3)
        for expected in whole:
            assert torch.equal(kind(p[rows.start : rows.stop], generator), expected[rows.start : rows.stop])
        assert torch.equal(generator.get_state(), alone.get_state())


def test_a_rank_without_rows_only_skips():
    alone, idle = seeded(), seeded()
    random.uniform(torch.empty(7, 3), alone)
    idle.rows = Slice(7, 7, 7)
    assert random.uniform(torch.empty(0, 3), idle).shape == (0, 3)
    assert torch.equal(idle.get_state(), alone.get_state())


def test_a_generator_goes_on_from_its_state():
    generator = seeded(seed=-3)
    random.uniform(torch.empty(3), generator)
    state = generator.get_state()
    after = [random.normal(torch.empty(5), generator), torch.rand(2, generator=generator)]
    other = ShardedGenerator()
    other.set_state(state)
    assert torch.equal(random.normal(torch.empty(5), other), after[0])
    assert torch.equal(torch.rand(2, generator=other), after[1])


def test_other_seeds_give_other_numbers():
    assert not torch.equal(random.uniform(torch.empty(9), seeded()), random.uniform(torch.empty(9), seeded(seed=1)))


def kolmogorov_smirnov(samples, cdf):
    """The largest distance between the samples' distribution and `cdf`, times √n: above 1.63 once in a hundred."""
    x = cdf(samples.double().flatten().sort().values)
    steps = torch.arange(len(x) + 1) / len(x)
    return float(torch.maximum(x - steps[:-1], steps[1:] - x).max()) * len(x) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_numbers_have_the_distribution_that_is_asked_for(dtype):
    """The seed is fixed, so that none of these fails by chance."""
    generator = seeded()
    like = torch.empty(200, 500, dtype=dtype)
    assert kolmogorov_smirnov(random.uniform(like, generator), lambda x: x) < 1.63
    assert kolmogorov_smirnov(random.normal(like, generator), torch.special.ndtr) < 1.63
    p = torch.tensor([0.5, 0.0, 0.3, 0.2], dtype=dtype)
    share = random.categorical(p.expand(100_000, 4), generator).flatten().bincount(minlength=4) / 100_000
    assert share[1] == 0
    assert ((share - p).abs() <= 3 * (p * (1 - p) / 100_000).sqrt()).all()
    share = random.bernoulli(torch.full_like(like, 0.3), generator).mean()
    assert abs(share - 0.3) < 3 * (0.21 / like.numel()) ** 0.5


def test_the_numbers_are_those_of_numpy():
    expected = np.random.Generator(np.random.PCG64DXSM(7)).random((4, 6), dtype=np.float32)
    assert torch.equal(random.uniform(torch.empty(4, 6), seeded(seed=7)), torch.from_numpy(expected))


@pytest.mark.parametrize("distortion", [Affine(), InputDropout()])
def test_images_are_distorted_alike_on_all_workers(distortion):
    images = torch.rand(7, 12, 12, generator=torch.Generator().manual_seed(1))
    whole = distortion(images, seeded())
    for rank in range(2):
        generator = seeded()
        rows = generator.rows = slice_of(7, rank, 2)
        distorted = distortion(images[rows.start : rows.stop], generator)
        torch.testing.assert_close(distorted, whole[rows.start : rows.stop])


def test_other_rows_than_the_batch_s_have_a_slice_of_their_own():
    generator = seeded()
    generator.rows = Slice(0, 2, 4)
    with random.sharded(generator, Slice(3, 6, 6)):
        chains = random.normal(torch.empty(3, 2), generator)
    assert generator.rows == Slice(0, 2, 4)
    assert torch.equal(chains, random.normal(torch.empty(6, 2), seeded())[3:])
    assert repr(generator) == "ShardedGenerator(device='cpu', rows=Slice(start=0, stop=2, whole=4))"
