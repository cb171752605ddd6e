"""Every kind of layer in the table, under every strategy: trained as in one process, and costed as it is sent."""

import sys
from pathlib import Path

import pytest
import torch
from ranks import team
from splitting import difference

from dlkit import Experiment
from dlkit.analysis import counts
from dlkit.models.layer_kinds import KINDS, base_kind_of
from dlkit.strategies import DataParallel, Hybrid, OneWeirdTrick, Pipeline, SpatialParallel, TensorParallel, cost
from dlkit.training import CrossEntropy

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from layer_examples import CLASSES, EXAMPLES, IMAGE, WITHOUT_MAPS

STRATEGIES = [DataParallel(), TensorParallel(), SpatialParallel(), Pipeline(2), Hybrid(1, 2), OneWeirdTrick()]
BATCH = 6
METRICS = 3 * 2 * 4  # bytes at most of loss, error and the count of unused parameters, which a cost leaves out


def experiment(kind):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2 * BATCH, *IMAGE, generator=generator)
    return Experiment(EXAMPLES[kind], (images, torch.arange(2 * BATCH) % CLASSES), CrossEntropy(), batch_size=BATCH)


def trained(kind, strategy):
    """The model after three steps, and the bytes that this rank sent in the third; or the refusal."""
    sent = []
    try:
        run = experiment(kind).run(
            strategy=strategy,
            steps=3,
            device="cpu",
            progress=False,
            on_step=lambda run: sent.append(run.shard.recorder.bytes_sent),
        )
    except ValueError as error:
        return str(error), 0
    return run.model, sent[-1] - sent[-2]


def test_every_kind_has_an_example():
    assert set(KINDS) <= set(EXAMPLES)
    for kind, make in EXAMPLES.items():
        assert any(type(module) is kind for module in make().modules())


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_a_strategy_trains_every_kind_as_one_process_does_and_sends_what_its_cost_says(strategy):
    by_rank = team(2).call(lambda: {kind.__name__: trained(kind, strategy) for kind in EXAMPLES})
    for kind in EXAMPLES:
        model, _ = by_rank[0][kind.__name__]
        if isinstance(strategy, SpatialParallel | OneWeirdTrick) and kind in WITHOUT_MAPS:
            assert "convolution" in model  # the refusal
            continue
        assert not isinstance(model, str), f"{kind.__name__}: {model}"
        alone = experiment(kind).run(steps=3, device="cpu", progress=False).model
        assert difference(alone, model) < 1e-5, kind.__name__
        paper = cost(EXAMPLES[kind](), IMAGE, BATCH, 2, strategy)
        for rank, results in enumerate(by_rank):
            _, sent = results[kind.__name__]
            rounding = 2 * len(paper.layers[rank])
            assert 0 <= sent - paper.bytes_sent(rank) <= METRICS + rounding, (kind.__name__, rank)


def test_counts_are_those_of_the_layers_that_have_connections():
    for kind, make in EXAMPLES.items():
        net = make()
        names = [name for name, module in net.named_modules() if base_kind_of(module).connections is not None]
        assert [row.name for row in counts(net, torch.zeros(1, *IMAGE))] == names, kind.__name__


def test_a_pool_compares_or_adds_what_is_in_its_windows():
    (row,) = [row for row in counts(EXAMPLES[torch.nn.MaxPool2d](), torch.zeros(1, *IMAGE)) if row.name == "1"]
    assert (row.output, row.parameters, row.connections) == ((4, 5, 5), 0, 4 * 5 * 5 * 3 * 3)
