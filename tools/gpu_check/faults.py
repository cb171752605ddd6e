"""An exception, a killed process, a slow rank: the other rank is free soon and keeps what it holds; then it goes on."""

import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from gpu_check.experiments import experiments, train
from gpu_check.groups import run_split, same_as_alone
from gpu_check.setting import Parts, Setting

from dlkit.cluster import Cluster, ClusterError
from dlkit.strategies import DataParallel

SOON = 5.0  # seconds in which a fault must have been told; two are meant
SLEEP, SHORT_SLEEP = 70.0, 20.0  # seconds; after 60 NCCL's own watching thread would end the processes
JOINS = 10


def parts(setting: Setting) -> Parts:
    with Cluster(2) as cluster, tempfile.TemporaryDirectory() as folder:
        moment = Path(folder, "moment")
        cluster.call(hold, setting.device)
        yield "an exception", partial(fault, cluster, setting, moment, fails, ValueError, lost=[])
        yield "after an exception", partial(goes_on, cluster, setting)
        yield "SIGKILL", partial(fault, cluster, setting, moment, dies, ClusterError, lost=[1])
        yield "after SIGKILL", partial(goes_on, cluster, setting)
        yield "a checkpoint", partial(resumed, cluster, setting, moment)
        long = "nccl" in cluster.backend and setting.seconds > 2 * SLEEP
        yield "a slow rank", partial(slow, cluster, setting, SLEEP if long else SHORT_SLEEP if setting.is_gpu else 7.0)
        yield f"{JOINS} joins", partial(joins, cluster, setting)


# On an engine.


def hold(device: str) -> None:
    torch._gpu_check_held = torch.full((3,), 7.0, device=device)  # type: ignore[attr-defined]


def held() -> tuple[int, list[float]]:
    """The engine's process, and what it holds."""
    return os.getpid(), getattr(torch, "_gpu_check_held", torch.zeros(0)).tolist()


def fails() -> None:
    raise ValueError("on this rank alone")


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_step(step: int, moment: str, does: Callable[[], object], run: Any) -> None:
    """A callback: on rank 1, note the time and do it."""
    if run.shard.rank == 1 and run.step == step:
        Path(moment).write_text(str(time.time()))
        does()


def sleeps(seconds: float, run: Any) -> None:
    if run.shard.rank == 1 and run.step == 2:
        time.sleep(seconds)


# Here.


def every_step() -> Any:
    """An experiment whose callbacks are called after each step."""
    return replace(experiments()["LeNet-5"], row_every=1)


def fault(
    cluster: Cluster, setting: Setting, moment: Path, does: Callable[[], object], kind: type, lost: list[int]
) -> str:
    """How long it took until it was told; all ranks but those lost keep their process and what it holds."""
    before = cluster.recover().call(held)
    moment.unlink(missing_ok=True)
    callbacks = [partial(at_step, 3, str(moment), does)]
    try:
        cluster.run(every_step(), DataParallel(), device=setting.device, steps=12, callbacks=callbacks, progress=False)
    except kind:
        seconds = time.time() - float(moment.read_text())
    else:
        raise AssertionError("it is not told")
    cluster.recover()
    recovered = time.time() - float(moment.read_text()) - seconds
    after = cluster.call(held)
    for rank in (0, 1):
        kept = before[rank] == after[rank]
        assert kept == (rank not in lost), f"rank {rank} held {before[rank]}, now {after[rank]}"
    assert seconds < SOON, f"told after {seconds:.1f} s"
    return f"told after {seconds:.1f} s, recovered in {recovered:.1f} s"


def goes_on(cluster: Cluster, setting: Setting) -> str:
    split = partial(run_split, cluster, DataParallel(), setting.device)
    return same_as_alone(split, experiments()["LeNet-5"], setting.device)


def resumed(cluster: Cluster, setting: Setting, moment: Path) -> str:
    """A run that loses a rank, and goes on from its checkpoint, ends with the bits of one that does not."""
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {"device": setting.device, "steps": 12, "progress": False}
        kept = common | {"checkpoint": folder, "checkpoint_every": 2}
        try:
            callbacks = [partial(at_step, 5, str(moment), dies)]
            cluster.run(every_step(), DataParallel(), callbacks=callbacks, **kept)
        except ClusterError:
            pass
        found = cluster.run(every_step(), DataParallel(), resume=True, **kept)
        whole = cluster.run(every_step(), DataParallel(), **common)
    assert found.history["loss"] == whole.history["loss"], "a run that goes on has other losses"
    return "the same losses"


def slow(cluster: Cluster, setting: Setting, seconds: float) -> str:
    begun = time.monotonic()
    settings: dict[str, Any] = {"device": setting.device, "steps": 4, "progress": False}
    found = cluster.recover().run(every_step(), DataParallel(), callbacks=[partial(sleeps, seconds)], **settings)
    took = time.monotonic() - begun
    assert found.step == 4
    assert took > seconds, "nobody slept"
    alone = train(every_step(), setting.device, steps=4)
    assert abs(found.history["loss"][-1] - alone.history["loss"][-1]) < 1e-3
    return f"{seconds:.0f} s slept, {took - seconds:.1f} s for all else"


def joins(cluster: Cluster, setting: Setting) -> str:
    """Groups made anew by the same processes; the last one is used."""
    pids = [pid for pid, _ in cluster.recover().call(held)]
    seconds = []
    for _ in range(JOINS):
        begun = time.monotonic()
        cluster.regroup()
        seconds.append(time.monotonic() - begun)
    assert [pid for pid, _ in cluster.call(held)] == pids
    goes_on(cluster, setting)
    return f"median {median(seconds):.2f} s, longest {max(seconds):.2f} s"
