"""The command line: what it starts, what it says when it cannot, and with which exit code."""

import os
import subprocess
import sys
import time
from importlib import metadata
from types import SimpleNamespace

import psutil
import pytest
from ports import free_port
from typer.testing import CliRunner

import dlkit
from dlkit import cli, copies, doctor


def call(*arguments):
    return CliRunner().invoke(cli.app, arguments)


@pytest.fixture
def stand_in(monkeypatch):
    """Puts a module in place of dlkit.<name>; gives the list of the arguments that its `run` is called with."""

    def put(name, error=None):
        calls = []

        def run(chosen, **options):
            calls.append((chosen, options))
            if error:
                raise error

        module = SimpleNamespace(NAMES=("first", "second"), run=run)
        monkeypatch.setitem(sys.modules, f"dlkit.{name}", module)
        monkeypatch.setattr(dlkit, name, module, raising=False)
        return calls

    return put


def test_the_command_line_is_there_before_torch_is():
    check = "import sys, dlkit.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_version_is_the_packages():
    assert call("--version").stdout == f"dlkit {metadata.version('dlkit')}\n"


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_doctor_fails_only_where_a_row_does(monkeypatch, state, code):
    monkeypatch.setattr(doctor, "rows", lambda: iter([doctor.Row("a check", "as found", state, "do this")]))
    done = call("doctor")
    assert done.exit_code == code
    assert "as found" in done.stdout
    assert call("doctor", "--json").exit_code == code


def test_bench_and_reproduce_pass_their_options_on(stand_in):
    bench, papers = stand_in("bench"), stand_in("papers")
    assert call("bench", "first", "--json").exit_code == 0
    assert call("reproduce", "second", "--quick").exit_code == 0
    assert call("reproduce", "second", "--fresh", "--json", "--seeds", "2").exit_code == 0
    assert bench == [("first", {"as_json": True})]
    assert papers == [
        ("second", {"quick": True, "as_json": False, "fresh": False, "seeds": None}),
        ("second", {"quick": False, "as_json": True, "fresh": True, "seeds": 2}),
    ]


@pytest.mark.parametrize(("command", "name"), [("bench", "bench"), ("reproduce", "papers")])
def test_an_unknown_or_missing_name_ends_with_the_names_that_there_are(stand_in, command, name):
    calls = stand_in(name)
    unknown, missing = call(command, "third"), call(command)
    assert (unknown.exit_code, missing.exit_code, calls) == (2, 2, [])
    assert unknown.stderr == "dlkit: there is no 'third': the names are first, second.\n"
    assert missing.stderr == "dlkit: give a name: first, second.\n"


@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError, RuntimeError])
def test_an_error_meant_for_the_reader_is_one_sentence(stand_in, kind):
    stand_in("bench", kind("a batch of 100 does not divide over 3 ranks: use 99."))
    done = call("bench", "first")
    assert done.exit_code == 1
    assert done.stderr == "dlkit: a batch of 100 does not divide over 3 ranks: use 99.\n"
    assert done.stdout == ""


def test_a_fault_of_dlkit_itself_keeps_its_traceback(stand_in):
    stand_in("bench", KeyError("W"))
    assert isinstance(call("bench", "first").exception, KeyError)


def test_a_missing_package_is_named(stand_in):
    stand_in("bench", ModuleNotFoundError("No module named 'pooch'"))
    done = call("bench", "first")
    assert done.exit_code == 1
    assert "No module named 'pooch'" in done.stderr


@pytest.fixture
def project(monkeypatch, tmp_path):
    """A checkout with one notebook."""
    for folder in (".git", "dlkit", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "notebooks" / copies.FIRST).write_text('{"cells": [], "metadata": {}}')
    monkeypatch.setattr(copies, "ROOT", tmp_path)
    return tmp_path


def test_lab_opens_the_copy_of_the_first_notebook_on_this_machine_only(project, capsys):
    command = cli.lab_command(None, True)
    assert f"--ServerApp.root_dir={project}" in command
    assert "--LabApp.default_url=/lab/tree/work/00_start_here.ipynb" in command
    assert "--ServerApp.ip=127.0.0.1" in command
    assert "--no-browser" not in command
    said = f"Your copies of the notebooks are in {project / 'work'}, without outputs. "
    assert capsys.readouterr().out == f"{said}What you write there is never overwritten.\n"


def test_lab_makes_new_copies_when_asked_and_opens_them(project):
    cli.lab_command(None, True)
    assert "--LabApp.default_url=/lab/tree/work-2/00_start_here.ipynb" in cli.lab_command(None, True, fresh=True)
    assert "--LabApp.default_url=/lab/tree/work-2/00_start_here.ipynb" in cli.lab_command(None, True)


def test_lab_takes_the_port_that_was_asked_for_or_none(project):
    command = cli.lab_command(8123, False)
    assert {"--ServerApp.port=8123", "--ServerApp.port_retries=0", "--no-browser"} <= set(command)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="Windows has no root")
@pytest.mark.parametrize(("user", "allowed"), [(0, True), (1000, False)])
def test_lab_runs_as_root_and_as_a_user(project, monkeypatch, user, allowed):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert ("--allow-root" in cli.lab_command(None, True)) == allowed


def test_lab_without_its_notebook_says_so(project):
    (project / "notebooks" / copies.FIRST).unlink()
    done = call("lab")
    assert done.exit_code == 1
    assert f"{project / 'notebooks' / copies.FIRST} is missing" in done.stderr
    assert f'`git -C "{project}" checkout notebooks/` brings it back' in done.stderr


def test_lab_without_jupyterlab_says_so(project, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = call("lab")
    assert done.exit_code == 1
    assert "JupyterLab is not installed" in done.stderr
    assert '-m pip install -c constraints.txt -e ".[lab]"` in the project folder installs it.' in done.stderr
    assert not (project / "work").exists()


def test_lab_from_a_wheel_opens_copies_in_the_current_folder(project, monkeypatch):
    (project / "my course").mkdir()
    monkeypatch.chdir(project / "my course")
    monkeypatch.setattr(copies, "FROM_WHEEL", True)
    command = cli.lab_command(None, True)
    assert f"--ServerApp.root_dir={project / 'my course'}" in command
    assert "--LabApp.default_url=/lab/tree/dlkit-notebooks/00_start_here.ipynb" in command


def test_lab_where_nothing_can_be_copied_says_so(project):
    (project / "work").touch()  # a file where the folder should be
    done = call("lab")
    assert done.exit_code == 1
    assert "dlkit: the notebooks cannot be copied to a folder in" in done.stderr


def listening(pid):
    return [
        connection.laddr for connection in psutil.Process(pid).net_connections("inet") if connection.status == "LISTEN"
    ]


@pytest.mark.skipif(os.name != "posix", reason="elsewhere the server is a child")
def test_lab_listens_on_loopback_only_and_ends_with_its_process(project):
    port = free_port()
    start = f"import pathlib; from dlkit import cli, copies; copies.ROOT = pathlib.Path({str(project)!r}); cli.app()"
    server = subprocess.Popen(
        [sys.executable, "-c", start, "lab", "--no-browser", "--port", str(port)], stderr=subprocess.PIPE, text=True
    )
    try:
        printed = []
        for line in server.stderr:
            printed.append(line)
            if f":{port}/" in line:
                break
        shown = "".join(printed)
        assert f"http://127.0.0.1:{port}/lab/tree/work/00_start_here.ipynb?token=" in shown
        deadline = time.monotonic() + 20
        while not (addresses := listening(server.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert port in {address.port for address in addresses}
        assert {address.ip for address in addresses} == {"127.0.0.1"}
    finally:
        server.terminate()
        server.communicate(timeout=30)
