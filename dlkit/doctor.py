"""`dlkit doctor`: will the walk of notebooks work on this machine, and what mends what will not?

Every check yields rows of plain data; only `table` knows of the terminal.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement
from rich.markup import escape
from rich.table import Table

from dlkit import copies
from dlkit.browser import find_browser
from dlkit.core.installation import FROM_WHEEL, REINSTALL, ROOT, restore

GIB = 2**30
DATA = ("mnist", "photos", "pretrained")
PYTHON = Path(sys.executable)


@dataclass(frozen=True)
class Row:
    """One line of the table: what was checked, what was found, and what mends it (empty when the state is ok)."""

    check: str
    found: str
    state: Literal["ok", "warn", "fail"] = "ok"
    mend: str = ""


def python(version: tuple[int, int, int] = sys.version_info[:3]) -> Iterator[Row]:
    """The interpreter, against the versions that dlkit supports (3.11 to 3.13)."""
    text = ".".join(map(str, version))
    if (3, 11) <= version[:2] <= (3, 13):
        yield Row("Python", text)
    else:
        then = "then dlkit's wheel in a venv of it" if FROM_WHEEL else "delete .venv, then `make setup`"
        yield Row("Python", text, "fail", f"install Python 3.11, 3.12 or 3.13, {then}")


def pins(path: Path = ROOT / "constraints.txt") -> dict[str, str]:
    """Version of each package pinned in `constraints.txt`, by its name in lower case with hyphens."""
    requirements = [Requirement(line) for line in path.read_text().splitlines() if line and line[0] != "#"]
    wanted = [r for r in requirements if r.marker is None or r.marker.evaluate()]
    return {canonical(r.name): next(iter(r.specifier)).version for r in wanted}


def canonical(name: str) -> str:
    """A package's name as the package index compares it."""
    return name.lower().replace("_", "-").replace(".", "-")


def packages() -> Iterator[Row]:
    """Each package that the library and its notebooks import, against the lowest that works and the tested one."""
    wanted = pins() if (ROOT / "constraints.txt").exists() else {}  # a wheel brings none
    for line in metadata.requires("dlkit") or ():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": "lab"}):
            continue
        name, pin = requirement.name, wanted.get(canonical(requirement.name), "")
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Row(name, f"missing, wanted {pin or requirement.specifier}", "fail", f"{REINSTALL} installs it")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            yield Row(name, f"{installed}, wanted {pin or requirement.specifier}", "fail", f"{REINSTALL} replaces it")
        elif pin and installed.partition("+")[0] != pin:  # 2.13.0+cpu is a build of 2.13.0
            yield Row(name, f"{installed}, tested with {pin}", "warn", f"{REINSTALL} replaces it")
        else:
            yield Row(name, installed)


def usable_cores() -> int:
    """Cores on which this process may run."""
    process = psutil.Process()
    # macOS has no affinity
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count() or 1


def cores() -> Iterator[Row]:
    """How many cores this machine has, this process may use, and torch will use."""
    import torch

    usable, threads = usable_cores(), torch.get_num_threads()
    physical = psutil.cpu_count(logical=False) or os.cpu_count()
    text = f"{physical} physical, {usable} usable, {threads} torch threads"
    if threads > usable:
        yield Row("cores", text, "warn", f"set OMP_NUM_THREADS={usable}: more threads than cores slow each other down")
    else:
        yield Row("cores", text)


def available_memory(group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that a new process could take, a container's limit (its cgroup v2) included."""
    available = psutil.virtual_memory().available
    try:
        limit, used = (group / name for name in ("memory.max", "memory.current"))
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        pass
    return available


def memory() -> Iterator[Row]:
    """Free memory: a notebook on MNIST takes about 1 GiB, one with four engines about 3 GiB."""
    free = available_memory() / GIB
    text = f"{free:.1f} GiB free of {psutil.virtual_memory().total / GIB:.1f}"
    if free < 1:
        yield Row("memory", text, "fail", "close other programs and notebooks: a notebook needs 1 GiB")
    elif free < 3:
        yield Row("memory", text, "warn", "close other programs: a notebook with four engines needs 3 GiB")
    else:
        yield Row("memory", text)


def disk() -> Iterator[Row]:
    """Room for notebooks and checkpoints: in the checkout, or where a wheel's user works."""
    folder = Path.cwd() if FROM_WHEEL else ROOT
    free = shutil.disk_usage(folder).free / GIB
    text = f"{free:.1f} GiB free at {folder}"
    if free < 0.1:
        yield Row("disk", text, "fail", "free some: notebooks cannot be saved on a full disk")
    elif free < 1:
        yield Row("disk", text, "warn", "free some: checkpoints of longer runs take up to 1 GiB")
    else:
        yield Row("disk", text)


def gpus() -> Iterator[Row]:
    """Each GPU that torch can use; to have none is no fault."""
    import torch

    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Row(f"GPU {index}", f"{properties.name}, {properties.total_memory / GIB:.0f} GiB")
    if not torch.cuda.device_count():
        yield Row("GPU", "none: everything runs on the CPU")


def data() -> Iterator[Row]:
    """The data files of the project, against their checksums."""
    from dlkit import data

    for name in DATA:
        try:
            data.verify(name)
        except (ValueError, OSError) as error:
            yield Row(f"data: {name}", "not whole", "fail", str(error))
        else:
            yield Row(f"data: {name}", "checksums match")


def notebooks() -> Iterator[Row]:
    """The walk itself, and the student's copies of it."""
    try:
        kit = copies.read_kit(folder := ROOT / "notebooks")
    except ValueError as error:
        yield Row("notebooks", "not whole", "fail", str(error))
        return
    if not (count := sum(name.endswith(".ipynb") for name in kit)):
        yield Row("notebooks", f"none in {folder}", "fail", restore(folder))
        return
    parent, mine = copies.home()[0], copies.newest()
    text = f"{count}, copied to {mine}" if mine else f"{count}, to be copied to a folder in {parent}"
    changed = copies.changed(kit, mine) if mine else []
    if not os.access(mine or parent, os.W_OK):
        yield Row("notebooks", text, "fail", "it cannot be written to: work in a folder of yours")
    elif changed is None or changed:
        what = f"changed in the kit since: {', '.join(changed)}" if changed else "not known whether the kit has changed"
        yield Row("notebooks", f"{text}; {what}", "warn", "`dlkit lab --fresh` makes new copies beside these")
    else:
        yield Row("notebooks", text)


def browser() -> Iterator[Row]:
    """Chromium or Chrome; only the tests need it, and a wheel has none."""
    if FROM_WHEEL:
        return
    try:
        path = find_browser()
    except FileNotFoundError as error:
        yield Row("browser", str(error), "warn", "`unset DLKIT_BROWSER` to search for one (only `make test` needs it)")
        return
    if path:
        yield Row("browser", str(path))
    else:
        mend = "install Chrome or Chromium (Debian: `apt-get install chromium`): only `make test` needs it"
        yield Row("browser", "no Chromium or Chrome", "warn", mend)


def lab() -> Iterator[Row]:
    """Whether JupyterLab starts as a program."""
    command = [sys.executable, "-m", "jupyterlab", "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        yield Row("JupyterLab", "did not start in 60 s", "fail", "wait until the machine is less busy, then try again")
        return
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        yield Row(
            "JupyterLab", lines[-1] if lines else f"exit code {done.returncode}", "fail", f"{REINSTALL} repairs it"
        )
    else:
        yield Row("JupyterLab", f"{done.stdout.strip()} starts")


def kernel() -> Iterator[Row]:
    """Whether a notebook's kernel starts, runs a line, and is this Python."""
    from jupyter_client.blocking import BlockingKernelClient
    from jupyter_client.manager import run_kernel

    prefix = []
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        with run_kernel(kernel_name="python3", startup_timeout=30, **quiet) as client:
            assert isinstance(client, BlockingKernelClient)
            client.execute_interactive(
                "import sys; print(sys.prefix, end='')",
                timeout=30,
                output_hook=lambda message: prefix.append(message["content"].get("text", "")),
            )
    except Exception as error:  # any error is reported in this row
        mend = f"`{PYTHON.with_name('jupyter-kernel')} --kernel=python3` shows why"
        yield Row("kernel", f"does not start: {error or type(error).__name__}", "fail", mend)
        return
    if Path("".join(prefix)) == Path(sys.prefix):
        yield Row("kernel", "starts")
    else:
        mend = f"`{PYTHON.with_name('jupyter-kernelspec')} remove python3` removes the one that comes first"
        yield Row("kernel", f"is another Python's, of {''.join(prefix)}", "fail", mend)


def engines(count: int = 2, timeout: float = 60.0) -> Iterator[Row]:
    """Whether ipyparallel engines start on this machine, answer, and stop again."""
    import ipyparallel

    cluster = ipyparallel.Cluster(
        n=count, controller_ip="127.0.0.1", load_profile=False, delay=0.1, log_level=logging.CRITICAL
    )
    try:
        cluster.start_cluster_sync()
        with cluster.connect_client_sync() as client:
            client.wait_for_engines(count, timeout=timeout, interactive=False)
            answers = client[:].apply_async(os.getpid).get(timeout=timeout)
    except Exception as error:
        mend = f"`{PYTHON.with_name('ipcluster')} start -n {count} --debug` shows why"
        yield Row("engines", f"do not start: {error or type(error).__name__}", "fail", mend)
    else:
        yield Row("engines", f"{len(set(answers))} start and answer")
    finally:
        cluster.stop_cluster_sync()


CHECKS = (python, packages, cores, memory, disk, gpus, data, notebooks, browser, lab, kernel, engines)


def rows(checks: Iterable[Callable[[], Iterator[Row]]] = CHECKS) -> Iterator[Row]:
    """The rows of all checks; a check that raises an error gives a row with the error."""
    for check in checks:
        try:
            yield from check()
        except Exception as error:
            yield Row(check.__name__, f"{type(error).__name__}: {error}", "fail", f"{REINSTALL} repairs it")


def table(rows: Iterable[Row]) -> Table:
    """The rows as the terminal shows them."""
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    shown = Table("check", "found", "state", "mend")
    for row in rows:
        shown.add_row(escape(row.check), escape(row.found), f"[{colours[row.state]}]{row.state}[/]", escape(row.mend))
    return shown


def as_json(rows: Iterable[Row]) -> str:
    """The rows as a JSON list of objects."""
    return json.dumps([asdict(row) for row in rows], indent=2)
