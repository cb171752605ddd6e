"""What a run refuses after a trial before its first step, or when a step has failed."""

import gc
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from dlkit.core.evaluation import is_out_of_memory
from dlkit.core.global_generators import NAMES, marks, moved_since
from dlkit.core.text_table import format_bytes
from dlkit.training.trial import Passes


def refuse_a_lone_image(run: Any) -> None:
    """ValueError if the last batch of an epoch is one image, and the model learns from two but not from one.

    Found by a trial on copies: batch normalisation has no statistics of one image, and other layers may have none.
    """
    count, size = len(run.data.images), run.experiment.batch_size
    last = count % size or size
    if last > 1 or (size > 1 and run.total_steps < run.steps_per_epoch):
        return
    why = failure_on(run, 1)
    if not why or (count > 1 and failure_on(run, 2)):
        return
    sizes = [other for other in range(2, count + 1) if count % other != 1]
    mend = f"batch_size={min(sizes, key=lambda other: abs(other - size))}" if sizes else "give more images"
    raise ValueError(
        f"{count:,} images in batches of {size} leave one image alone in a batch, from which the "
        f"{type(run.model).__name__} cannot learn ({why}): {mend}."
    )


def failure_on(run: Any, images: int) -> str:
    """Why the model cannot learn from so many images; "" if it can. The run is left as it was."""
    passes = Passes(run, images)
    try:
        metrics = passes()
    except Exception as error:  # whatever it is, two images are asked next
        return str(error).split("\n")[0]
    values = [*metrics.values(), *passes.gradient]
    return "" if all(bool(value.to_dense().isfinite().all()) for value in values) else "its gradient is not finite"


def refuse_sparse(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """ValueError if a gradient is sparse: asked when the optimizer has failed, as some take these."""
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and parameter.grad.layout is not torch.strided:
            raise ValueError(
                f"the gradient of {name} is sparse, which {type(optimizer).__name__} does not take: make that layer "
                "with sparse=False."
            )


@contextmanager
def late_draws(run: Any) -> Iterator[None]:
    """Context of a step: were generators drawn from that the trial before the first step did not find?

    Asked at the first step behind a row, where callbacks may have changed the net, at the last, and at every eighth.
    RuntimeError where the run is split, for ranks then draw numbers of their own; else a UserWarning, once, and from
    the next step on the run lends these generators its seed.
    """
    asked = run.step % 8 == 0 or run.step in (run.last_row_step, run.total_steps - 1)
    if not asked or threading.current_thread() is not threading.main_thread():  # beside which cells go on, and may draw
        yield
        return
    before = marks(tuple(name for name in NAMES if name not in run.trial.generators))
    yield
    if names := moved_since(before):
        found = (
            f"step {run.step + 1} drew from the generator of {' and of '.join(names)}, and the trial before the first "
            "step did not"
        )
        mend = "let the net draw from its first step on, as Dropout(1e-6) does in place of Dropout(0)"
        if run.shard.world_size > 1:
            raise RuntimeError(f"{found}: ranks are no longer in step; {mend}, or train in one process.")
        warnings.warn(f"{found}: a run cannot be repeated to the bit, nor resumed so; {mend}.", stacklevel=5)
        run.trial = replace(run.trial, generators=run.trial.generators + names)


@contextmanager
def _told(sentence: Callable[[str], str]) -> Iterator[None]:
    """Context in which memory that is out becomes a MemoryError. sentence: of what torch asked for, in words or ""."""
    try:
        yield
        return
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
    # Behind the except clause nothing holds what the failed step had made.
    raise MemoryError(sentence(f", which asked for {asked[1]} more" if asked else ""))


def told_no_room(device: torch.device) -> AbstractContextManager[None]:
    """Context of what a run makes before its first step. MemoryError, with the mend, where memory is out."""
    return _told(
        lambda wanted: (
            f"before its first step the run needs more memory than there is on {device}{wanted}: make the model "
            "smaller, give fewer images, or end what else uses that memory."
        )
    )


def told_out_of_memory(run: Any) -> AbstractContextManager[None]:
    """Context of a run's steps. MemoryError that says what the run holds, and a batch that fits, where memory is out.

    The batch is found by trial, halving it, on the model of the run, which has ended; ranks are not asked for that.
    """

    def sentence(wanted: str) -> str:
        size = run.experiment.batch_size
        fits = _largest_that_fits(run, size) if run.shard.world_size == 1 else None
        mend = "make batch_size smaller" if fits is None else f"batch_size={fits} fits"
        if fits == 0:
            mend = "not even one image fits, so make the model smaller"
        return (
            f"a step of {size:,} images needs more memory than there is on {run.device}{wanted}; the run holds "
            f"{format_bytes(run.memory_bytes)} of parameters, gradients and optimizer state: {mend}."
        )

    return _told(sentence)


def _largest_that_fits(run: Any, size: int) -> int:
    """The largest of size/2, size/4, … with which the run's model takes a step; 0 if not even one image fits."""
    while size > 1:
        size //= 2
        run.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if run.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            run.learner.fill_weighted_grad(run.model, run.first_images(size), run.generator)
            run.optimizer.step(lambda: torch.zeros(()))
            return size
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
    return 0
