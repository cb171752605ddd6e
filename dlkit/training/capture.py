"""Small steps on a GPU: a learner's work on a batch, recorded once in a CUDA graph and replayed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from dlkit.training.learner import Batch, Learner

FillGrad = Callable[[Batch], dict[str, Tensor]]


def captured(learner: Learner, model: nn.Module, data: Batch, batch_size: int, generator: torch.Generator) -> FillGrad:
    """`learner.fill_grad` for this model; on CUDA, replayed from a graph for every whole batch.

    Only learners that set `capturable = True` are recorded: they must make no decision on the host from a tensor.
    A short last batch, and a generator that draws on the CPU, take the ordinary way.
    """

    def ordinary(batch: Batch) -> dict[str, Tensor]:
        return learner.fill_grad(model, batch, generator)

    device = data.images.device
    if device.type != "cuda" or generator.device.type != "cuda" or not getattr(learner, "capturable", False):
        return ordinary
    replay = _record(learner, model, data, batch_size, generator)

    def fill_grad(batch: Batch) -> dict[str, Tensor]:
        return replay(batch) if len(batch.images) == batch_size else ordinary(batch)

    return fill_grad


def _record(learner: Learner, model: nn.Module, data: Batch, batch_size: int, generator: torch.Generator) -> FillGrad:
    """Record one `fill_grad` on fixed buffers. Warming up draws numbers and moves averages: both are put back."""
    images = data.images[:batch_size].clone()
    labels = None if data.labels is None else data.labels[:batch_size].clone()
    fixed = Batch(images, labels)
    drawn, state = generator.get_state(), {name: value.clone() for name, value in learner.state.items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            learner.fill_grad(model, fixed, generator)
    torch.cuda.current_stream().wait_stream(side)
    for name, value in state.items():
        learner.state[name].copy_(value)
    generator.set_state(drawn)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        report = learner.fill_grad(model, fixed, generator)
    grads = {name: parameter.grad for name, parameter in model.named_parameters()}

    def replay(batch: Batch) -> dict[str, Tensor]:
        images.copy_(batch.images)
        if labels is not None and batch.labels is not None:
            labels.copy_(batch.labels)
        graph.replay()
        for name, parameter in model.named_parameters():
            parameter.grad = grads[name]  # an ordinary step in between has put its own there
        return report

    return replay
