"""A wheel of dlkit, installed outside the checkout, is all that a student needs."""

import json
import os
import secrets
import subprocess
import sys
import sysconfig
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest
from ports import free_port

from dlkit.core.installation import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links folders, and starts programs by sh")

STARTING = 120  # seconds that a busy machine may take to start JupyterLab
FIRST = "00_start_here.ipynb"
# Runs the command until standard input closes, which it does when the tests end, in whatever way they end.
UNTIL_THE_TESTS_END = '"$@" & cat; kill $!; wait'


def run(*command, **options):
    """Run to the end; what it said if it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tracked(*folders):
    """Names of the files in the repository, without those that only the tests need."""
    names = run("git", "-C", ROOT, "ls-files", "-z", *folders).split("\0")[:-1]
    return set(names) - {"notebooks/nbval-sanitize.cfg"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, ROOT)
    (path,) = folder.glob("dlkit-*.whl")
    return path


@pytest.fixture(scope="module")
def student(wheel, tmp_path_factory):
    """An environment that holds the wheel, and a student's empty folder: `run` runs a command of the former there.

    Other packages are those of the environment that runs the tests, without its editable dlkit: a path in a .pth file
    is searched, but its own .pth files are not read.
    """
    base = tmp_path_factory.mktemp("student")
    environment, work = base / "venv", base / "work"
    work.mkdir()
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "others.pth").write_text(sysconfig.get_path("purelib"))
    for name in ("etc", "share"):  # where JupyterLab keeps its pages and settings
        (environment / name).symlink_to(Path(sys.prefix, name))
    own = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "DLKIT", "JUPYTER"))}
    own |= {f"JUPYTER_{name}_DIR": str(base / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {"IPYTHONDIR": str(base / "ipython"), "JUPYTER_TOKEN": secrets.token_hex(16), "OMP_NUM_THREADS": "1"}

    def in_folder(program, *arguments):
        return run(environment / "bin" / program, *arguments, cwd=work, env=own)

    return SimpleNamespace(run=in_folder, site=site, environment=environment, work=work, variables=own)


@contextmanager
def lab(student):
    """URL of `dlkit lab`, which ends with the block."""
    port = free_port()
    command = [student.environment / "bin/dlkit", "lab", "--no-browser", "--port", str(port)]
    with (student.work.parent / "lab.log").open("w") as log:
        server = subprocess.Popen(
            ["sh", "-c", UNTIL_THE_TESTS_END, "sh", *command],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=student.work,
            env=student.variables,
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.communicate(timeout=60)


def get(student, url):
    """The answer, once the server is up."""
    deadline = time.monotonic() + STARTING
    while True:
        try:
            address = f"{url}?token={student.variables['JUPYTER_TOKEN']}"
            return build_opener(ProxyHandler({})).open(address, timeout=60)
        except URLError:
            assert time.monotonic() < deadline, (student.work.parent / "lab.log").read_text()
            time.sleep(0.2)


def test_the_wheel_holds_the_package_the_data_and_the_notebooks(wheel):
    wanted = tracked("dlkit") | {f"dlkit/_share/{name}" for name in tracked("data", "notebooks")}
    held = set(zipfile.ZipFile(wheel).namelist())
    assert wanted - held == set()
    others = {name for name in held - wanted if ".dist-info/" not in name}
    assert {name for name in others if Path(name).name.startswith((".", "nbval"))} == set()
    assert {name.partition("/")[0] for name in others} <= {"dlkit"}


def test_the_wheel_brings_its_data_and_models(student):
    script = """
import json, dlkit
from dlkit import data
from dlkit.models.shipped import pretrained
digits = data.load("mnist").test
answers = pretrained("lenet5")(digits.images[:1000].unsqueeze(1)).argmax(1)
print(json.dumps([dlkit.__file__, list(digits.images.shape), (answers == digits.labels[:1000]).sum().item()]))
"""
    file, shape, right = json.loads(student.run("python", "-c", script))
    assert Path(file).is_relative_to(student.site)
    assert shape == [10_000, 28, 28]
    assert right > 950


def test_doctor_passes(student):
    rows = json.loads(student.run("dlkit", "doctor", "--json"))
    assert [row for row in rows if row["state"] == "fail"] == []
    assert {"data: mnist", "notebooks", "JupyterLab", "kernel", "engines"} <= {row["check"] for row in rows}
    assert not any(str(ROOT) in row["found"] + row["mend"] for row in rows)


def test_lab_opens_notebook_00_in_the_students_folder_and_it_runs(student):
    with lab(student) as url:
        page = get(student, f"{url}/")
        assert page.status == 200
        assert page.url.partition("?")[0] == f"{url}/lab/tree/dlkit-notebooks/{FIRST}"
        assert json.load(get(student, f"{url}/api/contents/dlkit-notebooks/{FIRST}"))["writable"]
    folder = student.work / "dlkit-notebooks"
    wanted = {name.removeprefix("notebooks/") for name in tracked("notebooks")} | {".dlkit-copies.json"}
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == wanted
    student.run("python", "-m", "nbconvert", "--to", "notebook", "--execute", "--output", "executed", folder / FIRST)
    assert list(student.work.iterdir()) == [folder]
