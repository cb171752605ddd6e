"""Random numbers that do not depend on how a batch is split."""

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


@pytest.mark.parametrize("kind", [random.bernoulli, random.normal, random.categorical])
def test_workers_draw_what_one_process_draws(kind):
    p = torch.rand(11, 5, generator=torch.Generator().manual_seed(1))
    alone = torch.Generator().manual_seed(0)
    whole = [kind(p, alone) for _ in range(3)]
    for rank in range(3):
        generator = seeded()
        rows = generator.rows = slice_of(11, rank, 3)
        for expected in whole:
            assert torch.equal(kind(p[rows.start : rows.stop], generator), expected[rows.start : rows.stop])


@pytest.mark.parametrize("distortion", [Affine(), InputDropout()])
def test_images_are_distorted_alike_on_all_workers(distortion):
    images = torch.rand(7, 12, 12, generator=torch.Generator().manual_seed(1))
    whole = distortion(images, torch.Generator().manual_seed(0))
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


def test_a_class_is_drawn_as_torch_draws_it():
    p = torch.rand(1000, 6, generator=torch.Generator().manual_seed(1))
    classes = random.categorical(p, torch.Generator().manual_seed(0))
    assert torch.equal(classes, torch.multinomial(p, 1, generator=torch.Generator().manual_seed(0)))
