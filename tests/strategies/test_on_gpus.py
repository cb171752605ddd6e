"""What strategies do on GPUs, by stand-ins, as no GPU is here."""

from contextlib import ExitStack
from dataclasses import replace
from unittest import mock

import pytest
import torch
from ranks import team
from splitting import difference, experiments, run, same_bits
from torch import nn

from dlkit import Experiment
from dlkit.distributed import Recorder
from dlkit.strategies import DataParallel, Hybrid, ModelAveraging, TensorParallel
from dlkit.strategies.pipeline import stage
from dlkit.training import CrossEntropy


def on_a_pretended_gpu(nccl, function, *args, **kwargs):
    """What the function gives, and how many times it has waited for all that the GPU was asked, where a rank's model
    seems to be on a GPU; nccl: has each rank one of its own?"""
    with ExitStack() as stack:
        stack.enter_context(mock.patch("dlkit.strategies.base.is_on_gpu", return_value=True))
        stack.enter_context(mock.patch("dlkit.distributed.group.takes_cuda", return_value=nccl))
        stack.enter_context(mock.patch("dlkit.strategies.base.check_exchanged"))
        waits = stack.enter_context(mock.patch.object(torch.cuda, "synchronize"))
        return function(*args, **kwargs), waits.call_count


def sends(experiment, strategy, nccl):
    """Of a run: its model, and where gradients began to be sent: inside a backward pass, or after it."""
    from dlkit.distributed.group import Group

    inside, moments = [False], []
    backward, start = torch.Tensor.backward, Group.start_all_reduce

    def marked(tensor, *args, **kwargs):
        inside[0] = True
        backward(tensor, *args, **kwargs)
        inside[0] = False

    def noted(group, tensor):
        moments.append(inside[0])
        return start(group, tensor)

    with mock.patch.object(torch.Tensor, "backward", marked), mock.patch.object(Group, "start_all_reduce", noted):
        (outcome, waits) = on_a_pretended_gpu(nccl, run, experiment, strategy, steps=3)
    return outcome.model, moments, waits


def net():
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 700), nn.Tanh(), nn.Linear(700, 700), nn.Tanh(), nn.Linear(700, 10)
    )


@pytest.mark.parametrize("strategy", [Hybrid(data=2, model=1), Hybrid(data=1, model=2)])
def test_by_nccl_replicas_send_gradients_when_no_other_group_exchanges(strategy):
    experiment = replace(experiments()["DBN"], model=net)
    (early, during, _), *_ = team(2).call(sends, experiment, strategy, False)
    (late, after, _), *_ = team(2).call(sends, experiment, strategy, True)
    assert any(during)
    assert after
    assert not any(after)
    assert same_bits(early, late)


def test_with_one_group_gradients_are_sent_during_the_backward_pass_by_nccl_too():
    (_, moments, _), *_ = team(2).call(sends, experiments()["LeNet-5"], DataParallel(bucket=1 << 12), True)
    assert any(moments)


@pytest.mark.parametrize("strategy", [DataParallel(), ModelAveraging(every=2), TensorParallel()])
def test_a_rank_waits_for_its_gpu_once_a_step_and_in_the_step(strategy):
    def run_and_look():
        from dlkit.training.run import Run

        inside, learn = [False], Run._learn

        def marked(run, batch):
            inside[0] = True
            try:
                return learn(run, batch)
            finally:
                inside[0] = False

        moments = []
        with (
            mock.patch.object(Run, "_learn", marked),
            mock.patch("dlkit.strategies.base.is_on_gpu", return_value=True),
            mock.patch.object(torch.cuda, "synchronize", side_effect=lambda: moments.append(inside[0])),
        ):
            run(experiments()["CD"], strategy, steps=3)
        return moments

    assert team(2).call(run_and_look) == [[True] * 3] * 2


def test_a_stage_s_spans_begin_when_its_input_is_on_the_gpu_and_end_when_its_output_is(monkeypatch):
    clock, pending = [0.0], {"computing": 0.0, "exchange": 0.0}

    def pass_time(kind):
        def wait(device):
            assert device == torch.device("cuda", 0)
            clock[0] += pending[kind]
            pending[kind] = 0.0

        return wait

    monkeypatch.setattr(stage, "wait_for_gpu", pass_time("computing"))
    monkeypatch.setattr(stage, "wait_for_exchange", pass_time("exchange"))
    monkeypatch.setattr(stage, "now", lambda: clock[0])
    log = stage.Log(Recorder(), torch.device("cuda", 0))
    pending.update(exchange=2.0)
    begin = log.arrival()
    pending.update(computing=3.0)
    log.computed("F0", begin)
    span = log.recorder.spans[-1]
    assert (span.begin, span.end) == (2.0, 5.0)


def freed_in_a_step(experiment, strategy, folder):
    """What a run raises whose second exchange of gradients was ended before its end, by torch or by the cluster."""
    with (
        mock.patch("dlkit.strategies.base.is_on_gpu", return_value=True),
        mock.patch("dlkit.distributed.group.takes_cuda", return_value=True),
        mock.patch.object(torch.cuda, "synchronize"),
        mock.patch("dlkit.strategies.base.check_exchanged", side_effect=[None, RuntimeError("freed")]),
    ):
        try:
            run(experiment, strategy, steps=4, checkpoint=folder, checkpoint_every=2)
        except RuntimeError as error:
            return str(error)


def test_what_was_not_exchanged_is_kept_in_no_checkpoint(tmp_path):
    for strategy, kept in ((DataParallel(), tmp_path / "kept"), (DataParallel(reduce="ddp"), tmp_path / "ddp")):
        assert team(2).call(freed_in_a_step, experiments()["LeNet-5"], strategy, kept) == ["freed"] * 2
        assert not list(kept.glob("*.safetensors"))


def shard_for_a_gpu(experiment):
    """What `DTensorShard` says of a run on a GPU, in a group by gloo."""
    from dlkit.strategies.tensor.dtensor import DTensorShard
    from dlkit.training.run import Run

    whole = Run(experiment, 1, torch.device("cpu"), None)
    whole.device = torch.device("cuda", 0)
    DTensorShard(whole)


def test_dtensors_on_gpus_that_ranks_share_are_refused_and_the_mends_train():
    experiment = Experiment(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10)),
        experiments()["LeNet-5"].data,
        CrossEntropy(),
        lr=0.1,
        optimizer=torch.optim.SGD,
    )
    with pytest.raises(
        ValueError, match=r"torch's DTensors on GPUs need NCCL, which takes one rank a GPU, and"
    ) as told:
        team(2).call(shard_for_a_gpu, experiment)
    assert str(told.value).endswith('leave `using` out, or give device="cpu".')
    alone = run(experiment)
    (split, _), *_ = team(2).call(on_a_pretended_gpu, False, run, experiment, TensorParallel())
    on_cpu, *_ = team(2).call(run, experiment, TensorParallel(using="dtensor"), device="cpu")
    (by_nccl, _), *_ = team(2).call(on_a_pretended_gpu, True, run, experiment, TensorParallel(using="dtensor"))
    for mended in (split, on_cpu, by_nccl):
        assert difference(alone.model, mended.model) < 1e-5
