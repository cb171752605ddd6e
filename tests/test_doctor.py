"""Every finding of `dlkit doctor`, made to happen."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from importlib import metadata
from types import SimpleNamespace

import psutil
import pytest
import torch
from rich.console import Console

from dlkit import browser, copies, doctor
from dlkit.doctor import GIB, ROOT


def only(rows):
    (row,) = rows
    return row


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10, 9), "fail"), ((3, 11, 2), "ok"), ((3, 13, 0), "ok"), ((3, 14, 0), "fail")]
)
def test_python_is_held_to_the_supported_range(version, state):
    row = only(doctor.python(version))
    assert (row.found, row.state) == (".".join(map(str, version)), state)


def numpy_row(monkeypatch, installed):
    """The doctor's row for numpy, as if this version were installed (None: none)."""
    real = metadata.version

    def version(name):
        if name != "numpy":
            return real(name)
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(metadata, "version", version)
    return next(row for row in doctor.packages() if row.check == "numpy")


@pytest.mark.parametrize(
    ("version", "state", "text"),
    [(None, "fail", "missing, wanted"), ("1.20.0", "fail", "1.20.0, wanted"), ("99.0", "warn", "99.0, tested with")],
)
def test_a_package_missing_too_old_or_untested_is_told(monkeypatch, version, state, text):
    row = numpy_row(monkeypatch, version)
    assert row.state == state
    assert row.found == f"{text} {doctor.pins()['numpy']}"
    assert "pip install -c constraints.txt" in row.mend


def test_every_package_of_this_environment_is_found_and_test_tools_are_not_asked_for():
    rows = {row.check: row for row in doctor.packages()}
    assert {"torch", "jupyterlab", "ipyparallel"} <= rows.keys()
    assert "pytest" not in rows
    assert {row.state for row in rows.values()} == {"ok"}


def test_more_threads_than_cores_is_a_warning_and_its_mend_works(monkeypatch):
    monkeypatch.setattr(doctor, "usable_cores", lambda: 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    row = only(doctor.cores())
    assert row.state == "warn"
    assert "set OMP_NUM_THREADS=1:" in row.mend
    done = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.get_num_threads())"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(("free", "state"), [(0.5, "fail"), (2, "warn"), (8, "ok")])
def test_little_memory_is_told(monkeypatch, free, state):
    monkeypatch.setattr(doctor, "available_memory", lambda: int(free * GIB))
    assert only(doctor.memory()).state == state


def test_a_containers_limit_counts_as_memory(tmp_path):
    (tmp_path / "memory.max").write_text("300000\n")
    (tmp_path / "memory.current").write_text("100000\n")
    assert doctor.available_memory(tmp_path) == 200000
    (tmp_path / "memory.max").write_text("max\n")
    assert doctor.available_memory(tmp_path) > 200000


@pytest.mark.parametrize(("free", "state"), [(0.01, "fail"), (0.5, "warn"), (50, "ok")])
def test_little_disk_is_told(monkeypatch, free, state):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=int(free * GIB)))
    assert only(doctor.disk()).state == state


def test_no_gpu_is_no_fault(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    row = only(doctor.gpus())
    assert (row.found, row.state) == ("none: everything runs on the CPU", "ok")


def test_each_gpu_has_a_row(monkeypatch):
    card = SimpleNamespace(name="Card", total_memory=24 * GIB)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    assert [(row.check, row.found) for row in doctor.gpus()] == [("GPU 0", "Card, 24 GiB"), ("GPU 1", "Card, 24 GiB")]


@pytest.fixture
def data_copy(tmp_path, monkeypatch):
    folder = shutil.copytree(ROOT / "data", tmp_path / "data")
    monkeypatch.setenv("DLKIT_DATA", str(folder))
    return folder


def test_whole_data_are_ok():
    names = ("mnist", "photos", "pretrained")
    assert [(row.check, row.state) for row in doctor.data()] == [(f"data: {name}", "ok") for name in names]


def test_altered_data_are_told_by_file(data_copy):
    altered = data_copy / "mnist" / "t10k-labels-idx1-ubyte.gz"
    altered.write_bytes(gzip.compress(b"other labels"))
    mnist, photos, pretrained = doctor.data()
    assert (mnist.state, photos.state, pretrained.state) == ("fail", "ok", "ok")
    assert altered.name in mnist.mend


def test_missing_data_are_told(data_copy):
    shutil.rmtree(data_copy / "photos")
    mnist, photos, pretrained = doctor.data()
    assert (mnist.state, photos.state, pretrained.state) == ("ok", "fail", "ok")
    assert "missing" in photos.mend


@pytest.fixture
def walk(monkeypatch, tmp_path):
    """The first notebook of a checkout that has no other."""
    for module in (doctor, copies):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    path = tmp_path / "notebooks" / copies.FIRST
    path.parent.mkdir()
    path.write_text('{"cells": [], "metadata": {}}')
    return path


def test_missing_and_damaged_notebooks_are_told(walk):
    assert only(doctor.notebooks()).state == "ok"
    walk.write_text("{")
    assert only(doctor.notebooks()).state == "fail"
    walk.unlink()
    assert only(doctor.notebooks()).state == "fail"


def test_copies_that_are_older_than_the_kit_are_told(walk):
    copies.open_copies()
    row = only(doctor.notebooks())
    assert (row.state, row.found) == ("ok", f"1, copied to {walk.parents[1] / 'work'}")
    walk.write_text('{"cells": [{"cell_type": "markdown", "source": "new"}], "metadata": {}}')
    row = only(doctor.notebooks())
    assert row.state == "warn"
    assert "changed in the kit since: 00_start_here" in row.found
    assert "`dlkit lab --fresh`" in row.mend
    (walk.parents[1] / "work" / copies.MANIFEST).unlink()
    assert only(doctor.notebooks()).state == "warn"


def test_a_place_where_no_copies_can_be_written_is_told(walk, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != walk.parents[1])
    assert only(doctor.notebooks()).state == "fail"


def test_what_a_wheels_user_is_told_needs_no_checkout(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "FROM_WHEEL", True)
    monkeypatch.chdir(tmp_path)
    assert list(doctor.browser()) == []  # there are no tests that need one
    assert only(doctor.disk()).found.endswith(f" free at {tmp_path}")
    assert (
        only(doctor.python((3, 10, 9))).mend == "install Python 3.11, 3.12 or 3.13, then dlkit's wheel in a venv of it"
    )


@pytest.fixture
def no_browser(monkeypatch, tmp_path):
    """A machine without a browser, whose PATH is the folder given back."""
    monkeypatch.delenv("DLKIT_BROWSER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(browser, "off_path", lambda: iter(()))
    return tmp_path


def test_no_browser_is_a_warning(no_browser):
    row = only(doctor.browser())
    assert (row.found, row.state) == ("no Chromium or Chrome", "warn")


def test_a_browser_on_path_is_found_chromium_first(no_browser):
    for name in ("google-chrome", "chromium"):
        (no_browser / name).touch(mode=0o755)
    assert browser.find_browser() == no_browser / "chromium"


def test_the_browser_that_is_named_comes_first(no_browser, monkeypatch):
    (no_browser / "chromium").touch(mode=0o755)
    (no_browser / "mine").touch()
    monkeypatch.setenv("DLKIT_BROWSER", str(no_browser / "mine"))
    assert browser.find_browser() == no_browser / "mine"


def test_a_browser_that_is_named_but_missing_is_told(no_browser, monkeypatch):
    (no_browser / "chromium").touch(mode=0o755)
    monkeypatch.setenv("DLKIT_BROWSER", "/nowhere/chrome")
    row = only(doctor.browser())
    assert row.state == "warn"
    assert row.found.startswith("DLKIT_BROWSER=/nowhere/chrome is not a file")


@pytest.mark.skipif(sys.platform != "linux", reason="looks where Linux keeps it")
def test_playwrights_own_browser_is_found(monkeypatch, tmp_path):
    monkeypatch.delenv("DLKIT_BROWSER", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    program = tmp_path / ".cache/ms-playwright/chromium-1234/chrome-linux/chrome"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    assert browser.find_browser() == program


def test_a_jupyterlab_that_does_not_start_is_told(monkeypatch, tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'No module named jupyterlab' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    row = only(doctor.lab())
    assert (row.found, row.state) == ("No module named jupyterlab", "fail")


def test_jupyterlab_and_a_kernel_start():
    assert [row.state for row in (*doctor.lab(), *doctor.kernel())] == ["ok", "ok"]


@pytest.fixture
def kernelspec(monkeypatch, tmp_path):
    """Makes `python3` a kernel that runs this command."""
    folder = tmp_path / "kernels" / "python3"
    folder.mkdir(parents=True)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))

    def write(*command):
        specification = {"argv": [*command, "{connection_file}"], "display_name": "other", "language": "python"}
        (folder / "kernel.json").write_text(json.dumps(specification))

    return write


def test_a_kernel_that_dies_is_told(kernelspec):
    kernelspec("/bin/false")
    row = only(doctor.kernel())
    assert row.state == "fail"
    assert row.found.startswith("does not start")


def test_a_kernel_of_another_python_is_told(kernelspec):
    code = (
        "import sys; sys.prefix = '/other'; from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"
    )
    kernelspec(sys.executable, "-c", code, "-f")
    row = only(doctor.kernel())
    assert (row.found, row.state) == ("is another Python's, of /other", "fail")
    assert "jupyter-kernelspec remove python3" in row.mend


def marked(mark):
    """Processes whose environment holds the mark, but this one."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DLKIT_TEST_MARK") == mark and process.pid != os.getpid():
                processes.append(process)
        except psutil.Error:
            continue
    return processes


def none_left(mark, seconds=20):
    deadline = time.monotonic() + seconds
    while left := marked(mark):
        if time.monotonic() > deadline:
            return left
        time.sleep(0.2)
    return []


def test_engines_start_answer_and_leave_nothing_behind(monkeypatch, tmp_path):
    monkeypatch.setenv("DLKIT_TEST_MARK", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    row = only(doctor.engines())
    assert (row.found, row.state) == ("2 start and answer", "ok")
    assert none_left(str(tmp_path)) == []


def test_engines_that_do_not_start_are_told_and_leave_nothing_behind(monkeypatch, tmp_path):
    from ipyparallel.cluster import launcher

    monkeypatch.setenv("DLKIT_TEST_MARK", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setattr(launcher, "ipengine_cmd_argv", ["/bin/false"])
    row = only(doctor.engines(timeout=2.0))
    assert row.state == "fail"
    assert row.found.startswith("do not start")
    assert none_left(str(tmp_path)) == []


def test_a_check_that_breaks_down_is_a_row_and_the_others_still_run():
    def breaks():
        raise ImportError("libgomp.so.1: cannot open shared object file")

    broken, sound = doctor.rows((breaks, doctor.python))
    assert (broken.check, broken.state) == ("breaks", "fail")
    assert "libgomp.so.1" in broken.found
    assert sound.check == "Python"


def test_the_table_and_the_json_hold_every_row():
    rows = [doctor.Row("a", "1 [GiB]", "warn", "add [more]"), doctor.Row("b", "fine")]
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(doctor.table(rows))
    shown = console.export_text()
    assert "1 [GiB]" in shown
    assert "add [more]" in shown
    assert json.loads(doctor.as_json(rows)) == [
        {"check": "a", "found": "1 [GiB]", "state": "warn", "mend": "add [more]"},
        {"check": "b", "found": "fine", "state": "ok", "mend": ""},
    ]
