"""All processes of a cluster: found by its folder, ended together, also when the one who started it has been killed.

A process of its own, `start_janitor`, waits for the owner's end: engines and controller may be killed with the owner.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlkit.core.processes import is_alive, private_folder, process_key

MARK = "DLKIT_FOLDER"  # in the environment of all processes of a cluster, and of what they start
PREFIX = "dlkit-cluster-"
OWNER_POLL = 0.5  # seconds between two looks whether the owner is still there
GONE_TIMEOUT = 10.0  # seconds for a killed process to be gone: one with a GPU has much to give back
# The first process ends at once, so that the janitor is no child of the owner, and need not be waited for.
JANITOR = "import os, sys; os.fork() and os._exit(0); sys.path += {path!r}; from dlkit.cluster import family; "
JANITOR += "family.clean_up_after({owner!r}, {folder!r})"


def new_folder() -> str:
    """A folder for a new cluster; those are removed first that clusters left behind whose processes were all killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, ValueError):
            if not is_alive((left / "owner").read_text()):
                end_all(str(left))
    folder = tempfile.mkdtemp(prefix=PREFIX)
    keep(folder)
    return folder


def keep(folder: str) -> None:
    """Make the folder again if somebody has deleted it, as programs do that empty temporary folders."""
    private_folder(folder)
    owner = Path(folder, "owner")
    if not owner.exists():
        owner.write_text(process_key(os.getpid()))


def members(folder: str) -> Iterator[Any]:
    """The processes, as psutil's, of the cluster with this folder."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == folder and process.pid != os.getpid():
                yield process


def end_all(folder: str) -> None:
    """Kill all processes of the cluster with this folder but this one, and delete the folder."""
    kill_all(folder)
    shutil.rmtree(folder, ignore_errors=True)


def kill_all(folder: str) -> None:
    """Kill all processes of the cluster with this folder but this one."""
    import psutil

    killed = list(members(folder))
    for process in killed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(killed, timeout=GONE_TIMEOUT)


def start_janitor(folder: str) -> None:
    """Start the process that ends the cluster when this process has ended, however it did."""
    code = JANITOR.format(path=absolute_path(), owner=process_key(os.getpid()), folder=folder)
    subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=os.environ | python_environment() | {MARK: folder},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        check=True,
    )


def clean_up_after(owner: str, folder: str) -> None:
    """Wait until the process with this key has ended, then end its cluster."""
    os.chdir("/")
    while is_alive(owner):
        time.sleep(OWNER_POLL)
    end_all(folder)


def absolute_path() -> list[str]:
    """Where this process looks for modules, for another that starts in another folder."""
    return [os.path.abspath(entry) for entry in sys.path]


# Of Python's own variables those that say where code is; others change how it runs, or break it, as -W error does.
KEPT = {"PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONPLATLIBDIR", "PYTHONPYCACHEPREFIX"}
KEPT |= {"PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONUTF8", "PYTHONCOERCECLOCALE"}


def python_environment() -> dict[str, str]:
    """What to change in the environment of a Python that is to start whatever this one was started with.

    An empty variable is to Python as one that is not set.
    """
    changed = {name: "" for name in os.environ if name.startswith("PYTHON") and name not in KEPT}
    if "PYTHONPATH" in os.environ:
        entries = os.environ["PYTHONPATH"].split(os.pathsep)
        changed["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in entries)
    return changed
