"""The same strategies in a plain script under torchrun, in a network of its own with nothing but loopback."""

import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file
from splitting import difference, experiments, run

SCRIPT = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from safetensors.torch import save_file
from splitting import experiments
from dlkit.strategies import DataParallel, Pipeline, TensorParallel
for number, strategy in enumerate((DataParallel(), TensorParallel(), Pipeline(microbatches=4))):
    found = experiments()["LeNet-5"].run(strategy=strategy, steps=6, device="cpu", progress=False)
    if found.shard.rank == 0:
        save_file({name: value.contiguous() for name, value in found.model.state_dict().items()},
                  f"{sys.argv[2]}/{number}.safetensors")
"""
LOOPBACK = """
import fcntl, os, socket, struct, sys
flags = struct.pack("16sh", b"lo", 0x41)  # up and running
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8914, flags)
os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *sys.argv[1:]])
"""
OWN_NETWORK = ["unshare", "--net", "--map-root-user"]


def has_namespaces():
    return bool(shutil.which("unshare")) and subprocess.run([*OWN_NETWORK, "true"], capture_output=True).returncode == 0


@pytest.mark.skipif(not has_namespaces(), reason="this machine makes no network namespaces")
def test_a_script_under_torchrun_gives_what_one_process_gives(tmp_path, request):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [*OWN_NETWORK, sys.executable, "-c", LOOPBACK, "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [*command, str(request.path.parents[1]), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    alone = run(experiments()["LeNet-5"], steps=6)
    for number in range(3):
        found = experiments()["LeNet-5"].initial_model()
        found.load_state_dict(load_file(tmp_path / f"{number}.safetensors"))
        assert difference(alone.model, found) < 1e-5


ASYNCHRONOUS = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from asynchronous_runs import experiment, parameters
from dlkit.strategies.asynchronous.downpour import Downpour
rows = []
run = experiment(row_every=20).run(
    strategy=Downpour(share=True, servers=2),
    steps=60,
    device="cpu",
    progress=False,
    callbacks=[lambda run: rows.append(run.step)],
)
again = run.replay(progress=False)
assert torch.equal(parameters(run.model), parameters(again.model))
assert run.step == 60 and run.replicas == 2, run
print("rows", rows, run.staleness.total())
alone = experiment().run(strategy=Downpour(adagrad=False, overlap=False), steps=30, device="cpu", progress=False)
torch.testing.assert_close(parameters(alone.model), parameters(experiment().run(steps=30, progress=False).model))
"""


@pytest.mark.skipif(not has_namespaces(), reason="this machine makes no network namespaces")
def test_servers_and_replicas_need_no_engines(tmp_path, request):
    script = tmp_path / "script.py"
    script.write_text(ASYNCHRONOUS)
    command = [*OWN_NETWORK, sys.executable, "-c", LOOPBACK, "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run([*command, str(request.path.parents[1])], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "rows [20, 40, 60] 60" in done.stdout
    assert "rows [] 60" in done.stdout  # callbacks are the first rank's
