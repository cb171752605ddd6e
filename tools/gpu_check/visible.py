"""Engines get those GPUs that CUDA_VISIBLE_DEVICES lists, by number or by UUID, and no others."""

import os
import subprocess
import sys
from functools import partial

import torch
from gpu_check.setting import Parts, Setting, needs_gpu

from dlkit.cluster import Cluster


def parts(setting: Setting) -> Parts:
    uuids = [str(torch.cuda.get_device_properties(index).uuid) for index in range(torch.cuda.device_count())]
    names = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(len(uuids))))).split(",")
    last_first = uuids[1::-1]
    yield "one number", partial(given, setting, ",".join(names[1:2]), uuids[1:2])
    yield "two numbers", partial(given, setting, ",".join(names[1::-1]), last_first)
    yield "two UUIDs", partial(given, setting, ",".join(f"GPU-{uuid}" for uuid in last_first), last_first)


def given(setting: Setting, listed: str, expected: list[str]) -> str:
    """What engines have whose notebook is given these; it is a process of its own, as CUDA reads the list once."""
    needs_gpu(setting)
    done = subprocess.run(
        [sys.executable, "-m", "gpu_check.visible", str(len(expected))],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": listed}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = done.stdout.splitlines()[-1].split()
    assert found == expected, f"{listed} gives {found}, not {expected}"
    return listed


def own_uuid() -> str:
    """On an engine."""
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


if __name__ == "__main__":
    with Cluster(int(sys.argv[1])) as engines:
        print(*engines.call(own_uuid))
