import copy
import errno
import json
import os
import pickle
import re
import resource
import shutil
import signal
import tempfile
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from oracles import random_states, seeded
from torch import nn

from dlkit import Experiment
from dlkit.core.storage import read_json, write_json
from dlkit.models import DBN, RBM, GaussianRBM, LeNet5
from dlkit.training import (
    CD,
    PCD,
    Backprop,
    CrossEntropy,
    Learner,
    UpDown,
    checkpoint,
    linear_schedule,
    piecewise_constant,
)
from dlkit.training.shard import Shard

IMAGES = random_states(50, 12, seed=3, probability=0.3)
TIMING = "images_per_second"
adam = partial(torch.optim.Adam, amsgrad=True)
gaussian = {"model": partial(GaussianRBM, 12, 6), "data": torch.randn(50, 12, generator=seeded()), "lr": 0.01}

PICTURES = random_states(50, 784, seed=4).view(50, 28, 28), torch.arange(50) % 10
DRAWN = {"data": PICTURES, "learner": CrossEntropy()}

CASES = {
    "cd": {},
    "cd, momentum from the second epoch": {"momentum": piecewise_constant({0: 0.0, 1: 0.9}), "weight_decay": 0.01},
    "cd, adam": {"optimizer": adam, "momentum": None, "lr": 0.01},
    "pcd": {"learner": PCD(chains=5), "momentum": 0.5},
    "centred": {"learner": CD(centred=True, sparsity_target=0.2), "lr": linear_schedule(0.1, 0.0, 2)},
    "centred pcd, adam": {"learner": PCD(k=2, centred=True), "optimizer": adam, "lr": 0.01},
    "up-down, persistent": {"model": partial(DBN.of, (12, 6, 5), untied=True), "learner": UpDown(2, persistent=True)},
    "gaussian": gaussian | {"learner": CD(k=2)},
    # Kernels are kept in an order of their own in memory, and fused optimizers go by it.
    "convolutions, momentum": {"model": LeNet5, "momentum": 0.9, "lr": 0.002} | DRAWN,
}


def small(**changes):
    """7 steps an epoch, the last on 2 images; a row every 3 steps."""
    settings = {"model": partial(RBM, 12, 6), "data": IMAGES, "learner": CD(), "batch_size": 8, "row_every": 3}
    return Experiment(**settings | changes)


def run(experiment, folder=None, steps=20, **arguments):
    return experiment.run(steps=steps, checkpoint=folder, progress=False, device="cpu", **arguments)


def assert_same(found, expected):
    """The same run to the bit, but for the clock."""
    for name, value in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name
    assert set(found.learner.state) == set(expected.learner.state)
    for name, value in expected.learner.state.items():
        assert torch.equal(found.learner.state[name], value), name
    mine, theirs = found.optimizer.state_dict()["state"], expected.optimizer.state_dict()["state"]
    assert mine.keys() == theirs.keys()
    for index, values in theirs.items():
        assert mine[index].keys() == values.keys()
        for name, value in values.items():
            torch.testing.assert_close(mine[index][name], value, rtol=0, atol=0, msg=f"{index}.{name}")
    assert torch.equal(found.generator.get_state(), expected.generator.get_state())
    assert (found.step, found.epoch) == (expected.step, expected.epoch)
    rows = [[{k: v for k, v in row.items() if k != TIMING} for row in one.history.rows] for one in (found, expected)]
    assert rows[0] == rows[1]


class Crash(Exception):
    pass


def crash_at(step):
    def callback(now):
        if now.step >= step:
            raise Crash

    return callback


# To the bit


@pytest.mark.parametrize("stop", [5, 14], ids=["within an epoch and a row", "at an epoch's end"])
@pytest.mark.parametrize("case", CASES)
def test_a_run_in_two_parts_is_the_run_in_one(case, stop, tmp_path):
    experiment = small(**CASES[case])
    run(experiment, tmp_path, steps=stop)
    assert_same(run(experiment, tmp_path, resume=True), run(experiment))


def test_a_run_in_many_parts_is_the_run_in_one(tmp_path):
    experiment = small(learner=PCD(centred=True), momentum=0.9)
    for stop in (1, 2, 5, 6, 7, 8, 13, 20):
        found = run(experiment, tmp_path, steps=stop, resume=True)
        assert_same(found, run(experiment, steps=stop))


def test_a_run_that_died_between_two_checkpoints_goes_on_from_the_one_before(tmp_path):
    experiment = small(learner=PCD(), momentum=0.9)
    with pytest.raises(Crash):
        run(experiment, tmp_path, checkpoint_every=4, callbacks=[crash_at(15)])
    assert json.loads((tmp_path / "checkpoint.json").read_text())["step"] == 12
    assert_same(run(experiment, tmp_path, resume=True), run(experiment))


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path):
    experiment = small(learner=PCD(), momentum=0.9, row_every=1)

    def interrupt(now):
        if now.step == 9:
            os.kill(os.getpid(), signal.SIGINT)

    assert run(experiment, tmp_path, callbacks=[interrupt]).stopped == "interrupted"
    found = run(experiment, tmp_path, resume=True)
    assert found.stopped is None
    assert_same(found, run(experiment))


def test_writing_checkpoints_changes_nothing_in_the_run(tmp_path):
    experiment = small(learner=PCD(), momentum=0.9)
    assert_same(run(experiment, tmp_path, checkpoint_every=1), run(experiment))


def test_a_finished_run_resumed_is_what_it_was(tmp_path):
    experiment = small(learner=PCD(), momentum=0.9)
    first = run(experiment, tmp_path)
    assert_same(run(experiment, tmp_path, resume=True), first)


def test_a_resumed_run_counts_the_time_and_the_images_of_all_its_parts(tmp_path):
    before = run(small(), tmp_path, steps=5)
    after = run(small(), tmp_path, resume=True)
    assert after.seconds > before.seconds
    assert after.throughput == pytest.approx((2 * 50 + 6 * 8) / after.seconds)


def test_with_nothing_to_go_on_from_a_run_starts_at_the_beginning(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "not" / "there"):
        assert_same(run(small(), folder, resume=True), run(small()))
        assert (folder / "checkpoint.json").is_file()


def test_without_resume_a_run_starts_at_the_beginning_whatever_is_there(tmp_path):
    run(small(seed=1), tmp_path)
    assert_same(run(small(), tmp_path), run(small()))
    assert_same(run(small(), tmp_path, resume=True), run(small()))


def test_a_learner_of_one_s_own_with_no_repr_can_go_on(tmp_path):
    class Own(Learner):
        def start(self, model, data, batch_size, generator):
            self.state["count"] = torch.zeros(())

        def fill_grad(self, model, batch, generator):
            self.state["count"] += 1
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator) * self.state["count"]
            return {"loss": self.state["count"]}

    experiment = small(learner=Own())
    run(experiment, tmp_path, steps=5)
    experiment = small(learner=Own())  # at another address, as in another process
    assert_same(run(experiment, tmp_path, resume=True), run(experiment))


# On disk


def steps_in(folder):
    """The steps of the checkpoints in a folder, in which nothing else lies."""
    names = sorted(path.name for path in folder.iterdir())
    steps = [int(re.fullmatch(r"step-(\d{9})(-again)?.safetensors", name)[1]) for name in names if "step" in name]
    assert names[: -len(steps)] == ["checkpoint-before.json", "checkpoint.json"][-len(steps) :]
    return steps


def tensor_file(folder, step):
    (path,) = folder.glob(f"step-{step:09d}*.safetensors")
    return path


def test_a_folder_holds_the_newest_checkpoint_and_the_one_before_however_many_were_written(tmp_path):
    run(small(), tmp_path, checkpoint_every=3)
    assert steps_in(tmp_path) == [18, 20]
    run(small(), tmp_path, resume=True)  # nothing left to do: the one before must not become the newest again
    assert steps_in(tmp_path) == [18, 20]


def test_of_another_run_in_the_same_folder_nothing_is_kept(tmp_path):
    run(small(seed=1), tmp_path, checkpoint_every=3)
    run(small(), tmp_path, steps=2)
    assert steps_in(tmp_path) == [2]


def test_weights_that_two_layers_share_are_kept_too(tmp_path):
    class Tied(torch.nn.Sequential):
        def __init__(self):
            super().__init__(torch.nn.Flatten(), torch.nn.Linear(12, 12), torch.nn.Tanh(), torch.nn.Linear(12, 12))
            self[3].weight = self[1].weight

    experiment = small(model=Tied, data=(IMAGES, torch.arange(50) % 3), learner=CrossEntropy())
    run(experiment, tmp_path, steps=5)
    found = run(experiment, tmp_path, resume=True)
    assert_same(found, run(experiment))
    assert found.model[3].weight is found.model[1].weight


def test_checkpoints_come_when_asked_for_and_at_the_end(tmp_path):
    there = []

    def look(now):
        path = tmp_path / "checkpoint.json"
        there.append(json.loads(path.read_text())["step"] if path.is_file() else None)

    run(small(row_every=1), tmp_path, steps=9, checkpoint_every=4, callbacks=[look])
    assert there == [None] * 4 + [4] * 4 + [8]
    assert json.loads((tmp_path / "checkpoint.json").read_text())["step"] == 9


def test_nothing_is_unpickled_from_disk(tmp_path, monkeypatch):
    experiment = small(learner=PCD(), momentum=0.9)
    run(experiment, tmp_path, steps=5)

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    assert run(experiment, tmp_path, resume=True).step == 20


@pytest.mark.parametrize("call", [1, 2, 3], ids=["of the tensors", "of the JSON before", "of the JSON"])
def test_a_write_that_fails_leaves_the_old_checkpoint(call, tmp_path, monkeypatch):
    experiment = small(learner=PCD(), momentum=0.9)
    run(experiment, tmp_path, steps=5)
    replace, calls = os.replace, []

    def fail(source, target):
        calls.append(target)
        if len(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match=r"\(No space left on device\): delete .* the checkpoint of step 5 is st"):
            run(experiment, tmp_path, steps=10, resume=True)
    assert json.loads((tmp_path / "checkpoint.json").read_text())["step"] == 5
    assert_same(run(experiment, tmp_path, resume=True), run(experiment))
    assert steps_in(tmp_path) == [5, 20]


@contextmanager
def files_of_at_most(size):
    """As on a disk that is full: the system itself refuses to write more into a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [200, 900], ids=["the tensors", "the JSON"])
def test_a_file_that_the_system_does_not_take_is_told_and_the_run_goes_on_elsewhere(size, tmp_path):
    experiment = small(model=partial(RBM, 12, 3))
    run(experiment, tmp_path / "small", steps=5)
    with files_of_at_most(size), pytest.raises(OSError, match=r"could not be written \(File too large\): delete what"):
        run(experiment, tmp_path / "small", steps=10, resume=True)
    shutil.copytree(tmp_path / "small", tmp_path / "large")  # "a path on a disk with room"
    assert_same(run(experiment, tmp_path / "large", resume=True), run(experiment))
    assert steps_in(tmp_path / "large") == [5, 20]


def test_a_folder_that_is_emptied_or_deleted_during_the_run_is_there_again_at_the_next_checkpoint(tmp_path):
    def clean(now):
        if now.step == 7:
            shutil.rmtree(tmp_path / "run")

    experiment = small(row_every=1)
    run(experiment, tmp_path / "run", checkpoint_every=5, callbacks=[clean])
    assert_same(run(experiment, tmp_path / "run", resume=True), run(experiment))


def test_a_folder_where_nothing_can_be_written_is_refused_before_training(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EROFS, "Read-only file system")

    started = []
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "TemporaryFile", refuse)
        with pytest.raises(PermissionError, match=r"could not be written \(Read-only file system\): give a path in"):
            run(small(row_every=1), tmp_path, callbacks=[lambda now: started.append(now.step)])
    assert started == []


def test_what_is_not_read_back_as_it_was_written_does_not_take_the_old_one_s_place(tmp_path, monkeypatch):
    from dlkit.core import storage

    def bad_disk(tensors, path, metadata):
        real(tensors, path, metadata)
        flip(path, path.stat().st_size - 3, 4)

    experiment, real = small(), storage.save_file
    run(experiment, tmp_path, steps=5)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "save_file", bad_disk)
        with pytest.raises(OSError, match=r"could not be written .*the checkpoint of step 5 is still there"):
            run(experiment, tmp_path, steps=10, resume=True)
    assert_same(run(experiment, tmp_path, resume=True), run(experiment))


# Damage


def flip(path, byte, bit):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def test_one_bit_flipped_anywhere_is_told_or_changes_nothing(tmp_path):
    run(small(model=partial(RBM, 12, 3)), tmp_path, steps=5)
    tensors, state = checkpoint.read(tmp_path)
    for path in (tmp_path / "checkpoint.json", tensor_file(tmp_path, 5)):
        whole = path.read_bytes()
        told = 0
        for byte in range(0, len(whole), 11):
            flip(path, byte, byte % 8)
            try:
                found, found_state = checkpoint.read(tmp_path)
                assert {name: found_state[name] for name in state} == state
                assert all(torch.equal(found[name], tensors[name]) for name in tensors | found)
            except ValueError:
                told += 1
            path.write_bytes(whole)
        assert told > 0.9 * len(whole) / 11  # not so in the spaces that fill a header up


@pytest.mark.parametrize("name", ["checkpoint.json", "the tensors"])
def test_a_run_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before_as_told(name, tmp_path):
    experiment = small(learner=PCD(), momentum=0.9)
    run(experiment, tmp_path, steps=10, checkpoint_every=4)
    flip(tmp_path / name if name == "checkpoint.json" else tensor_file(tmp_path, 10), 150, 3)
    with pytest.raises(ValueError, match=r"damaged: delete .*checkpoint.json to go on from step 8, the newest that is"):
        run(experiment, tmp_path, resume=True)
    (tmp_path / "checkpoint.json").unlink()
    again = run(experiment, tmp_path, steps=8, resume=True)
    assert again.step == 8
    assert_same(run(experiment, tmp_path, resume=True), run(experiment))
    assert steps_in(tmp_path) == [8, 20]


def test_where_both_are_damaged_the_folder_is_to_be_deleted(tmp_path):
    run(small(), tmp_path, steps=10, checkpoint_every=4)
    for step in (8, 10):
        flip(tensor_file(tmp_path, step), 150, 3)
    with pytest.raises(ValueError, match=r"damaged: delete .* to start again"):
        run(small(), tmp_path, resume=True)
    shutil.rmtree(tmp_path)
    assert_same(run(small(), tmp_path, resume=True), run(small()))


def test_the_files_are_on_the_disk_before_they_take_the_old_ones_place(tmp_path, monkeypatch):
    synced, replace, fsync = set(), os.replace, os.fsync

    def watched_fsync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def watched_replace(source, target):
        assert os.stat(source).st_ino in synced, f"{source} may be empty after a power cut"
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    run(small(), tmp_path)
    assert len(synced) == 2


def test_weights_that_are_no_longer_finite_do_not_replace_a_good_checkpoint(tmp_path):
    experiment = small(**gaussian)
    run(experiment, tmp_path, steps=5)
    wild = small(**gaussian | {"lr": 1e30})
    with pytest.raises(FloatingPointError, match="try a smaller lr"):
        run(wild, tmp_path, resume=True, checkpoint_every=1)
    tensors = run(experiment, tmp_path, steps=1, resume=True).model.state_dict()
    assert all(value.isfinite().all() for value in tensors.values())


def test_columns_that_callbacks_add_are_kept_whatever_number_type_they_are(tmp_path):
    columns = [lambda now: {"a": np.float32(0.5), "b": torch.tensor(now.step), "c": 2.0, "d": np.int64(7)}]
    run(small(), tmp_path, steps=6, callbacks=columns)
    found = run(small(), tmp_path, steps=6, resume=True)
    assert [found.history[name] for name in "abcd"] == [[0.5, 0.5], [3, 6], [2.0, 2.0], [7, 7]]


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": partial(GaussianRBM, 12, 6)}, r"model: RBM there, GaussianRBM here"),
        ({"model": partial(RBM, 12, 7)}, r"shapes: .*\[12, 6\].* there, .*\[12, 7\].* here"),
        ({"batch_size": 10}, "batch_size: 8 there, 10 here"),
        ({"seed": 1}, "seed: 0 there, 1 here"),
        ({"learner": CD(k=2)}, r"learner: CD\(k=1.* there, CD\(k=2.* here"),
        ({"learner": PCD()}, r"learner: CD\(.* there, PCD\(.* here"),
        ({"optimizer": adam}, "optimizer: SGD there, Adam here"),
        ({"data": IMAGES[:48]}, "images: 50 there, 48 here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_says_what_differs(changes, message, tmp_path):
    run(small(), tmp_path, steps=5)
    with pytest.raises(ValueError, match=rf"of another run \({message}\): give another folder, or delete that one"):
        run(small(**changes), tmp_path, resume=True)


class Settled(nn.Module):
    """A net that has the same parameters however it is made."""

    def __init__(self, rate=0.1, power=2.0, squash=torch.tanh, passes=(1, 2)):
        super().__init__()
        self.linear, self.drop = nn.Linear(784, 10), nn.Dropout(rate)
        self.power, self.squash, self.passes, self._cache = power, squash, passes, object()

    def forward(self, images):
        return self.squash(self.linear(self.drop(images.flatten(1) ** self.power)))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"rate": 0.3}, r"drop\.p: 0\.1 there, 0\.3 here"),
        ({"power": 1.0}, r"power: 2\.0 there, 1\.0 here"),
        ({"squash": torch.sin}, r"squash: .*tanh there, .*sin here"),
        ({"passes": (1, 3)}, r"passes: \(1, 2\) there, \(1, 3\) here"),
    ],
)
def test_a_checkpoint_of_a_net_that_computes_otherwise_is_refused(made, message, tmp_path):
    pictures = DRAWN | {"lr": 0.01}
    run(small(model=Settled, **pictures), tmp_path, steps=5)
    other = small(model=partial(copy.deepcopy, Settled(**made)), **pictures)
    with pytest.raises(ValueError, match=rf"of another run \({message}\): give another folder"):
        run(other, tmp_path, resume=True)
    assert run(other, tmp_path / "another folder", steps=5, resume=True).step == 5
    assert run(small(model=partial(copy.deepcopy, Settled()), **pictures), tmp_path, steps=6, resume=True).step == 6


@pytest.mark.parametrize("kept", ["nothing", "an attribute of torch's next version"])
def test_what_a_checkpoint_does_not_keep_of_a_net_is_no_difference(kept, tmp_path):
    run(small(), tmp_path, steps=5)
    path = tmp_path / "checkpoint.json"
    state = read_json(path)
    layers = state["fingerprint"].pop("layers")
    if kept != "nothing":
        state["fingerprint"]["layers"] = layers | {"": {kept: "1"}}
    write_json(state, path)
    assert run(small(), tmp_path, steps=6, resume=True).step == 6


def test_a_checkpoint_whose_numbers_were_drawn_on_another_device_is_refused(tmp_path):
    run(small(), tmp_path, steps=5)
    path = tmp_path / "checkpoint.json"
    state = read_json(path)
    write_json(state | {"fingerprint": state["fingerprint"] | {"rng_device": "cuda"}}, path)
    with pytest.raises(ValueError, match=r"of another run \(rng_device: cuda there, cpu here\)"):
        run(small(), tmp_path, resume=True)


@pytest.mark.parametrize("version", [1, 2])
def test_a_checkpoint_of_an_earlier_version_is_refused_in_one_sentence(version, tmp_path):
    run(small(), tmp_path, steps=5)
    path = tmp_path / "checkpoint.json"
    state = read_json(path) | {"format": version}
    path.write_text(json.dumps({key: value for key, value in state.items() if key != "format" or version > 1}))
    with pytest.raises(
        ValueError, match=rf"by another version of dlkit \(format {version}, .* delete .* to start again"
    ):
        run(small(), tmp_path, resume=True)


def test_a_checkpoint_of_other_images_is_refused(tmp_path):
    run(small(), tmp_path, steps=5)
    with pytest.raises(ValueError, match=r"of another run \(pixels: \d+ there, \d+ here\)"):
        run(small(data=1 - IMAGES), tmp_path, resume=True)


@pytest.mark.parametrize("text", ["", '{"step": 5', "{}", "[]", "null", '{"tensors": 3}'])
def test_a_damaged_checkpoint_json_is_refused_in_one_sentence(text, tmp_path):
    run(small(), tmp_path, steps=5)
    (tmp_path / "checkpoint.json").write_text(text)
    with pytest.raises(ValueError, match=r"checkpoint.json is damaged: delete .* to start again"):
        run(small(), tmp_path, resume=True)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_missing_or_damaged_tensor_file_is_refused_in_one_sentence(damage, tmp_path):
    run(small(), tmp_path, steps=5)
    path = tensor_file(tmp_path, 5)
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 100 if damage == "truncated" else 0])
    with pytest.raises(ValueError, match=rf"{path.name} is missing or damaged: delete .* to start again"):
        run(small(), tmp_path, resume=True)


@pytest.mark.parametrize("arguments", [{"resume": True}, {"checkpoint_every": 3}])
def test_a_folder_is_needed(arguments):
    with pytest.raises(ValueError, match="need checkpoint=, the folder"):
        run(small(), **arguments)


def test_a_path_that_cannot_be_a_folder_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    started = []
    with pytest.raises(OSError, match=r"file could not be written \(File exists\): there is a file where a folder sh"):
        run(small(row_every=1), tmp_path / "file", callbacks=[lambda now: started.append(now.step)])
    assert started == []


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_in_two_parts_on_the_gpu_is_the_run_in_one(tmp_path):
    experiment = small(learner=PCD(), momentum=0.9)
    arguments = {"device": "cuda", "progress": False}
    experiment.run(steps=5, checkpoint=tmp_path, **arguments)
    found = experiment.run(steps=20, checkpoint=tmp_path, resume=True, **arguments)
    assert_same(found, experiment.run(steps=20, **arguments))


class Counts(Learner):
    """Keeps how often it was asked in an attribute."""

    def __init__(self):
        self.asked = 0

    def fill_grad(self, model, batch, generator):
        self.asked += 1
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        return {"loss": torch.tensor(1.0)}


def test_a_learner_that_counts_is_known_again(tmp_path):
    made = Experiment(partial(torch.nn.Linear, 6, 2), torch.rand(12, 6), Counts(), batch_size=4)
    made.run(steps=2, device="cpu", progress=False, checkpoint=tmp_path)
    assert made.run(steps=4, device="cpu", progress=False, checkpoint=tmp_path, resume=True).step == 4


def test_a_learner_s_state_is_loaded_into_the_tensors_that_a_captured_pass_looks_at():
    learner, rbm = PCD(), RBM(12, 6)
    learner.state["chains"] = chains = torch.zeros(3, 6)
    Shard(rbm, learner).load_learner({"chains": torch.ones(3, 6)}, torch.device("cpu"))
    assert learner.state["chains"] is chains
    assert chains.sum() == 18


class Weighted(Backprop):
    """Cross-entropy with a weight for each class, in an array."""

    def __init__(self, *weights):
        self.weights = np.array(weights)

    def loss(self, output, batch):
        loss = torch.nn.functional.cross_entropy(output, batch.labels, torch.from_numpy(self.weights).float())
        return loss, {"loss": loss}


def test_another_array_in_a_learner_is_another_run(tmp_path):
    made = {"model": partial(torch.nn.Linear, 12, 3), "data": (IMAGES, torch.arange(50) % 3)}
    run(small(learner=Weighted(1, 2, 3), **made), tmp_path, steps=2)
    assert run(small(learner=Weighted(1, 2, 3), **made), tmp_path, steps=4, resume=True).step == 4
    with pytest.raises(ValueError, match=r"of another run \(learner: .*array\(\(3,\), checksum "):
        run(small(learner=Weighted(1, 2, 4), **made), tmp_path, resume=True)
