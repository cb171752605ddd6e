"""The set-up script, with a Python that only pretends; and that what it installs is pinned."""

import os
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from dlkit import doctor

ROOT = Path(__file__).resolve().parent.parent
FAKE_PYTHON = """#!/bin/sh
case "$*" in
*version_info*) echo "${FAKE_VERSION:-3.12}" ;;
*disk_usage*) echo "${FAKE_FREE_MB:-99999}" ;;
*ensurepip*) [ -z "${FAKE_NO_VENV:-}" ] ;;
"-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
"-m pip "*) echo "$*" >>pip-calls; printf '%s' "${FAKE_PIP_ERROR:-}"; [ -z "${FAKE_PIP_ERROR:-}" ] ;;
esac
"""
# As pip 23 and 26 print them.
NO_NETWORK = """WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(
'<HTTPSConnection object>: Failed to establish a new connection: [Errno -3] Temporary failure')': /simple/hatchling/
ERROR: Could not find a version that satisfies the requirement hatchling (from versions: none)
ERROR: No matching distribution found for hatchling==1.33.0
"""
NO_SPACE = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
NO_FILE = "ERROR: No matching distribution found for torch==2.13.0\n"


@pytest.fixture
def checkout(tmp_path):
    """A copy of the set-up's files in a folder with a space in its name, and programs/ to be the whole PATH."""
    folder = tmp_path / "my project"
    (folder / "tools").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "tools/setup.sh"):
        shutil.copy(ROOT / name, folder / name)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("make", "sh", "cat", "cksum", "cp", "dirname", "grep", "head", "mkdir", "rm", "sed", "tail", "uname"):
        (programs / name).symlink_to(shutil.which(name))
    return folder


def add_python(checkout, name="python3", **answers):
    """Put a fake Python on the PATH; `answers` are its FAKE_ variables."""
    program = checkout.parent / "programs" / name
    settings = "".join(f"FAKE_{key.upper()}='{value}'\n" for key, value in answers.items())
    program.write_text(FAKE_PYTHON.replace("#!/bin/sh\n", f"#!/bin/sh\n{settings}"))
    program.chmod(0o755)
    return program


def make_setup(checkout, *variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MAKE"))}
    environment["PATH"] = str(checkout.parent / "programs")
    return subprocess.run(
        ["make", "setup", *variables], cwd=checkout, env=environment, capture_output=True, text=True, timeout=60
    )


def complaint(done):
    """The one sentence, from a run that failed."""
    assert done.returncode
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def pip_calls(checkout):
    calls = checkout / "pip-calls"
    return calls.read_text().splitlines() if calls.exists() else []


def test_the_first_run_installs_and_the_second_does_nothing(checkout):
    add_python(checkout)
    first = make_setup(checkout)
    assert first.returncode == 0, first.stderr
    assert pip_calls(checkout)[-1].endswith("-c constraints.txt --no-build-isolation -e .[lab]")
    done = len(pip_calls(checkout))
    second = make_setup(checkout)
    assert (second.returncode, second.stdout, len(pip_calls(checkout))) == (0, "", done)


def test_a_changed_pin_is_installed(checkout):
    add_python(checkout)
    make_setup(checkout)
    done = len(pip_calls(checkout))
    with (checkout / "constraints.txt").open("a") as pins:
        pins.write("another==1.0\n")
    assert make_setup(checkout).returncode == 0
    assert len(pip_calls(checkout)) > done


def test_an_install_that_failed_is_tried_again(checkout):
    add_python(checkout, pip_error=NO_SPACE)
    make_setup(checkout)
    shutil.copy(add_python(checkout), checkout / ".venv/bin/python")
    done = len(pip_calls(checkout))
    assert make_setup(checkout).returncode == 0
    assert len(pip_calls(checkout)) > done


def test_a_moved_project_gets_a_new_venv(checkout):
    add_python(checkout)
    make_setup(checkout)
    moved = checkout.rename(checkout.parent / "elsewhere")
    done = make_setup(moved)
    assert done.returncode == 0, done.stderr
    assert f".venv was made in {checkout}: making it anew here" in done.stdout


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.14"])
def test_a_python_out_of_range_is_named(checkout, version):
    add_python(checkout, version=version)
    assert f"python3 is Python {version} and dlkit needs 3.11, 3.12 or 3.13" in complaint(make_setup(checkout))
    assert not (checkout / ".venv").exists()


def test_the_python_asked_for_is_not_replaced_in_silence(checkout):
    add_python(checkout)
    old = add_python(checkout, "python3.9", version="3.9")
    assert f"{old} is Python 3.9" in complaint(make_setup(checkout, f"PYTHON={old}"))


def test_python3_comes_first_where_it_is_in_range(checkout):
    add_python(checkout, version="3.11", tag="default")
    add_python(checkout, "python3.13", version="3.13", tag="newest")
    assert make_setup(checkout).returncode == 0
    assert "FAKE_TAG='default'" in (checkout / ".venv/bin/python").read_text()


def test_else_the_newest_in_range_is_taken(checkout):
    add_python(checkout, version="3.14")
    for version in ("3.11", "3.12"):
        add_python(checkout, f"python{version}", version=version)
    assert make_setup(checkout).returncode == 0
    assert "FAKE_VERSION='3.12'" in (checkout / ".venv/bin/python").read_text()


def test_another_python_than_the_venvs_is_refused(checkout):
    add_python(checkout, version="3.12")
    make_setup(checkout)
    other = add_python(checkout, "python3.11", version="3.11")
    sentence = complaint(make_setup(checkout, f"PYTHON={other}"))
    assert "is Python 3.11 but .venv holds Python 3.12: delete .venv" in sentence


def test_no_python_at_all(checkout):
    assert "there is no Python on PATH: install Python 3.11, 3.12 or 3.13" in complaint(make_setup(checkout))


def test_a_python_without_venv_names_the_package(checkout):
    add_python(checkout, version="3.11", no_venv="1")
    sentence = complaint(make_setup(checkout))
    assert "lacks its venv module" in sentence
    assert "apt-get install python3.11-venv" in sentence


def test_too_little_disk_is_told_before_anything_is_made(checkout):
    add_python(checkout, free_mb="812")
    assert "has 812 MB free and the set-up needs 3072 MB" in complaint(make_setup(checkout))
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize(
    ("pip_error", "sentence"),
    [
        (NO_NETWORK, "pip cannot reach the package index"),
        (NO_SPACE, "the disk was full"),
        (NO_FILE, "there is no torch==2.13.0 for Python 3.12"),
    ],
)
def test_what_pip_says_becomes_one_sentence(checkout, pip_error, sentence):
    add_python(checkout, pip_error=pip_error.replace("'", '"'))
    assert sentence in complaint(make_setup(checkout))


@pytest.fixture
def bare_machine(tmp_path):
    """A folder with .ci/run, on a machine with neither make nor Python nor a browser; gives a function that runs it."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("bash", "dirname", "env", "mktemp", "rm", "tail"):
        (programs / name).symlink_to(shutil.which(name))

    def run(user, *present):
        scripts = {"id": f"echo {user}"}
        scripts |= {name: f'echo "{name} $*" >>"{tmp_path}/calls"' for name in present}
        for name, script in scripts.items():
            (programs / name).write_text(f"#!{programs}/bash\n{script}\n")
            (programs / name).chmod(0o755)
        done = subprocess.run(
            [tmp_path / ".ci/run"], env={"PATH": str(programs)}, capture_output=True, text=True, timeout=60
        )
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return run


def test_ci_installs_what_a_bare_machine_lacks_then_tests(bare_machine):
    done, calls = bare_machine(0, "apt-get", "make")
    assert done.returncode == 0, done.stderr
    update, install, test = calls
    assert update == "apt-get -qq update"
    assert {"python3", "python3-venv", "chromium"} <= set(install.split())
    assert test == "make test"


def test_ci_installs_nothing_it_already_has(bare_machine):
    _, calls = bare_machine(0, "apt-get", "make", "python3", "chromium")
    asked = {word for call in calls if call.startswith("apt-get") for word in call.split()}
    assert not asked & {"make", "python3", "python3-venv", "chromium"}
    assert "make test" in calls


def test_ci_says_when_it_cannot_install(bare_machine):
    without_apt, _ = bare_machine(0, "make")
    assert "without apt-get this script cannot install them" in complaint(without_apt)
    as_user, _ = bare_machine(1000, "make", "apt-get")
    assert "only root can install them" in complaint(as_user)
    with_sudo, calls = bare_machine(1000, "make", "apt-get", "sudo")
    assert with_sudo.returncode == 0
    assert any(call.startswith("sudo --non-interactive env DEBIAN_FRONTEND=noninteractive apt-get") for call in calls)


def test_make_alone_lists_every_target():
    (phony,) = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[1] for line in done.stdout.splitlines()} == set(phony.split()) - {"help"}


def test_every_line_of_the_constraints_pins_one_version():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert "torch==2.13.0" in lines
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][^ *+;]*(; .+)?", line), line


def installed(requirement, seen):
    """Name -> version of what a requirement brings, its own requirements included, in this environment."""
    name = doctor.canonical(requirement.name)
    extras = frozenset(requirement.extras)
    if seen.get(name, ("", frozenset()))[1] >= extras and name in seen:
        return
    distribution = metadata.distribution(name)
    seen[name] = (distribution.version.partition("+")[0], extras | seen.get(name, ("", frozenset()))[1])
    for line in distribution.requires or ():
        needed = Requirement(line)
        if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            installed(needed, seen)


def test_everything_that_is_installed_is_pinned():
    seen = {}
    installed(Requirement("dlkit[test]"), seen)
    del seen["dlkit"]
    assert len(seen) > 80
    pins = doctor.pins()
    assert {name: version for name, (version, _) in seen.items() if pins.get(name) != version} == {}


def test_conda_installs_under_the_same_constraints():
    lines = [line.strip() for line in (ROOT / "environment.yml").read_text().splitlines()]
    pip = lines[lines.index("- pip:") + 1 :]
    assert pip == ["- -c constraints.txt", "- -e .[lab]"]
