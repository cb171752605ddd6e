"""The controller lost, its folder open to others, engines that do not start: told at once, and mended."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from dlkit.cluster import ClusterError, family
from dlkit.cluster.engines import Engines
from dlkit.cluster.placement import placements

SCRIPT = """
import psutil
from dlkit.cluster import Cluster
with Cluster(2) as cluster:
    pids = cluster.call(lambda: __import__("os").getpid())
    listening = {c.laddr.ip for pid in pids for c in psutil.Process(pid).net_connections("tcp") if c.status == "LISTEN"}
    here = lambda: (__import__("random").random.__name__, __import__("os").getcwd())
    print(listening, cluster.call(here))
"""


def controllers(cluster):
    return cluster._engines.launcher.controllers


@pytest.mark.parametrize("which", [0, -1])
def test_a_controller_that_is_stopped_is_told_and_goes_on(cluster, which):
    pids = cluster.call(os.getpid)
    threading.Timer(0.3, controllers(cluster)[which].suspend).start()
    with pytest.raises(
        ClusterError, match=r"the controller \(pid \d+\), .* has been stopped .*`cluster.recover\(\)` le"
    ):
        cluster.call(__import__("time").sleep, 1)
    cluster.recover()
    assert cluster.call(os.getpid) == pids


def test_a_controller_that_dies_is_told_and_all_start_afresh_and_stop_at_once(cluster, capsys):
    pids, members = cluster.call(os.getpid), [*controllers(cluster), *family.members(cluster._engines.folder)]
    controllers(cluster)[0].kill()
    controllers(cluster)[0].wait()
    with pytest.raises(ClusterError, match=r"the controller .* has died: `cluster.recover\(\)` starts it and all engi"):
        cluster.call(os.getpid)
    cluster.recover()
    assert "The controller has died" in capsys.readouterr().out
    assert not set(pids) & set(cluster.call(os.getpid))
    assert not [process for process in members if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]

    folder = Path(cluster._engines.folder)
    folder.chmod(0o777)
    with pytest.raises(ClusterError, match=r"the cluster cannot use its folder .*`cluster.stop\(\)`, then `cluster.st"):
        cluster.regroup()
    controllers(cluster)[0].suspend()  # it would not hear that it is to end
    members = list(family.members(str(folder)))
    assert len(members) > 10
    cluster.stop()
    assert not [process for process in members if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    assert not folder.exists()
    cluster.start()
    assert len(cluster.call(os.getpid)) == 2


def test_engines_start_whatever_lies_beside_the_notebook_and_stands_in_the_environment(tmp_path):
    for name in ("random", "numpy", "torch", "psutil", "queue", "ipengine_config", "ipcontroller_config"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not the one that was meant')\n")
    script = tmp_path / "apart" / "notebook.py"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    odd = {"PYTHONWARNINGS": "error", "GLOO_SOCKET_IFNAME": "ib0"}
    place = os.environ | odd | {"PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=place, capture_output=True, text=True, input="")
    assert done.stdout.strip() == f"{{'127.0.0.1'}} {[('random', str(tmp_path))] * 2}", done.stderr


def test_the_last_words_of_an_engine_that_does_not_start_are_told(monkeypatch):
    class Launcher:
        def last_words(self, rank):
            return "MemoryError: no room"

    engines = Engines(placements(1, gpus=[]), "gloo", client=type("Client", (), {"ids": []}))
    engines.launcher = Launcher()
    monkeypatch.setattr(engines, "status", lambda rank: psutil.STATUS_DEAD)
    with pytest.raises(
        ClusterError, match=r"engine 0 \(cpu\) ended while starting: .*; its last words: MemoryError: no"
    ):
        engines.wait_for_start()


def test_a_cluster_of_which_nothing_is_left_but_its_folder_is_cleaned_up_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(family.tempfile, "tempdir", str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    left = Path(family.new_folder())
    (left / "owner").write_text(family.process_key(ended.pid))
    mine = family.new_folder()
    ended.wait()
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    orphan = subprocess.Popen(sleep, env=os.environ | {family.MARK: str(left)})
    family.new_folder()
    assert not left.exists()
    assert not psutil.pid_exists(orphan.pid)
    orphan.wait()
    assert Path(mine).exists()
