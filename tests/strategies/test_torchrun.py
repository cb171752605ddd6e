"""The same strategies in a plain script under torchrun or mpirun, in a network of its own with nothing but loopback."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

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
os.execv(sys.argv[1], sys.argv[1:])
"""
OWN_NETWORK = ["unshare", "--net", "--map-root-user"]


def has_namespaces():
    return bool(shutil.which("unshare")) and subprocess.run([*OWN_NETWORK, "true"], capture_output=True).returncode == 0


def printed_by(*command):
    """What a command prints in a network of its own."""
    own = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    command = [*OWN_NETWORK, sys.executable, "-c", LOOPBACK, *map(str, command)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ | own)
    assert done.returncode == 0, done.stderr
    return done.stdout


def under_torchrun(folder, request, script, *arguments, ranks=2):
    """What so many ranks print, which run the script with the folder of tests as its first argument."""
    path = folder / "script.py"
    path.write_text(script)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", ranks]
    return printed_by(*torchrun, path, request.path.parents[1], *arguments)


@pytest.mark.skipif(not has_namespaces(), reason="this machine makes no network namespaces")
def test_a_script_under_torchrun_gives_what_one_process_gives(tmp_path, request):
    under_torchrun(tmp_path, request, SCRIPT, tmp_path)
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
    printed = under_torchrun(tmp_path, request, ASYNCHRONOUS)
    assert "rows [20, 40, 60] 60" in printed
    assert "rows [] 60" in printed  # callbacks are the first rank's


SPLIT_AND_KEPT = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from asynchronous_runs import check_ledger, experiment, parameters
from dlkit.distributed.process_group import enter_group
from dlkit.distributed.group import Group
from dlkit.strategies import Downpour

enter_group()
everyone = Group()
quiet = {"device": "cpu", "progress": False}
run = experiment().run(strategy=Downpour(share=True, partitions=2), steps=60, **quiet)
assert run.replicas == 2 and run.step == 60, run
if everyone.rank == 0:  # one process can replay what others have learnt with it
    again = run.replay(progress=False)
    difference = (parameters(run.model) - parameters(again.model)).abs().max().item()
    assert difference < 1e-5, difference

kept = {"strategy": Downpour(share=True, servers=2), "checkpoint": sys.argv[2], "checkpoint_every": 10}
first = experiment().run(steps=30, **kept, **quiet)
second = experiment().run(steps=60, resume=True, **kept, **quiet)
for rows in second.record.servers:
    check_ledger(rows)
assert (first.step, second.step) == (30, 60) and second.replicas > 4, (first, second)
assert torch.equal(parameters(second.model), parameters(second.replay(progress=False).model))
try:
    experiment(seed=3).run(steps=90, resume=True, **kept, **quiet)
except ValueError as error:
    sys.stdout.write(f"refused {everyone.rank} {error}\\n")
"""


@pytest.mark.skipif(not has_namespaces(), reason="this machine makes no network namespaces")
def test_split_replicas_and_runs_that_go_on_need_no_engines(tmp_path, request):
    printed = under_torchrun(tmp_path, request, SPLIT_AND_KEPT, tmp_path / "kept", ranks=4)
    refused = [line for line in printed.splitlines() if line.startswith("refused")]
    assert sorted(line.split()[1] for line in refused) == ["0", "1", "2", "3"]
    assert all("seed" in line for line in refused)


SEARCHES = """
import sys
import threading
sys.path.insert(0, sys.argv[1])
from small_searches import NETS, experiment, largest_difference
from dlkit.distributed.process_group import enter_group
from dlkit.distributed.group import Group
from dlkit.strategies import Sandblaster

enter_group()
rank, quiet = Group().rank, {"device": "cpu", "progress": False}
for name, servers in (("CNN", 2), ("autoencoder", 1)):
    made, rows = experiment(*NETS[name]), []
    run = made.run(strategy=Sandblaster(servers=servers), steps=1, callbacks=[lambda run: rows.append(1)], **quiet)
    assert largest_difference(run.model, made.run(steps=1, progress=False).model) < 1e-10
    assert bool(rows) == (rank == 0) and run.evaluations == len(run.seconds) and run.experiment is made
stop = threading.Event()
if rank == 1:
    threading.Timer(1.0, stop.set).start()
run = made.run(strategy=Sandblaster(), steps=10_000, stop=stop, **quiet)
assert run.stopped == "stopped", run
for servers, settings in ((3, {}), (1, {"checkpoint": "here"})):
    try:
        made.run(strategy=Sandblaster(servers=servers), **settings, **quiet)
    except ValueError as error:
        sys.stdout.write(f"refused {error}\\n")
"""


@pytest.mark.skipif(not has_namespaces(), reason="this machine makes no network namespaces")
def test_searches_need_no_engines(tmp_path, request):
    printed = under_torchrun(tmp_path, request, SEARCHES)
    assert printed.count("on 2 ranks: take fewer servers.") == 2
    assert printed.count("checkpoint= cannot be had with Sandblaster") == 2


UNDER_MPI = """
import sys
from dataclasses import replace
import torch
sys.path.insert(0, sys.argv[1])
from splitting import difference, experiments, run
from torch import nn
from dlkit.distributed.array import Grid
from dlkit.distributed.group import Group
from dlkit.distributed.process_group import enter_group
from dlkit.strategies import DataParallel, Downpour

experiment = experiments()["LeNet-5"]
found = experiment.run(strategy=DataParallel(), steps=6, device="cpu", progress=False)
assert difference(run(experiment, steps=6).model, found.model) < 1e-5
enter_group()
group = Group()
torch.manual_seed(0)
net, images = nn.Conv2d(1, 3, 5, padding=2).double(), torch.rand(2, 1, 12, 9, dtype=torch.float64)
torch.testing.assert_close(net(Grid(group, (2, 2)).split(images)).whole(), net(images), rtol=1e-12, atol=1e-12)
pushed = replace(experiment, momentum=None).run(strategy=Downpour(share=True), steps=20, device="cpu", progress=False)
assert pushed.step == 20, pushed
sys.stdout.write(f"rank {group.rank} of {group.world_size}\\n")
"""


def mpirun():
    """The one that was installed beside Python, or another."""
    own = Path(sys.executable).with_name("mpirun")
    return str(own) if own.exists() else shutil.which("mpirun")


@pytest.mark.skipif(not (mpirun() and has_namespaces()), reason="there is no mpirun, or there are no namespaces")
def test_a_script_under_mpirun_has_the_same_ranks(tmp_path, request):
    script = tmp_path / "script.py"
    script.write_text(UNDER_MPI)
    printed = printed_by(mpirun(), "--oversubscribe", "-n", 4, sys.executable, script, request.path.parents[1])
    assert sorted(printed.split("\n"))[1:] == [f"rank {rank} of 4" for rank in range(4)]
