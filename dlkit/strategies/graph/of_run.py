"""The graph of a run's net, for the batches that its learner gives it."""

from typing import Any

from dlkit.core.random import ShardedGenerator
from dlkit.data.batch import Batch
from dlkit.models.graph import NetGraph
from dlkit.models.graph_check import STEPS, graph_of
from dlkit.training.trial import copy_of


def graph_of_run(run: Any) -> NetGraph:
    """ValueError, with the reason, where the net cannot be read as a graph."""
    generator = ShardedGenerator(run.generator.device)
    images = run.first_images(min(run.experiment.batch_size, max(STEPS)))
    inputs = run.learner.inputs(Batch(images.images.clone(), images.labels), generator)
    return graph_of(run.model, inputs, lambda net: copy_of(net, run))
