"""A JupyterLab server and a browser of their own, which end when the tests do."""

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from playwright.sync_api import Browser, sync_playwright

from dlkit import copies

STARTING = 120  # seconds that a busy machine may take to start Lab, open a page or start a kernel
ENDING = 60  # seconds after which what still runs is killed

# The server's standard input closes when the tests end, in whatever way they end.
SERVER = """
import os, signal, sys, threading
def end_with_the_tests():
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=end_with_the_tests, daemon=True).start()
from jupyterlab.labapp import main
main()
"""
SETTINGS = {
    # all cells are in the page, and nothing is below them
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none", "scrollPastEnd": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosave": False},
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
}
FOLDERS = ("JUPYTER_CONFIG", "JUPYTER_DATA", "JUPYTER_RUNTIME", "JUPYTERLAB_SETTINGS", "JUPYTERLAB_WORKSPACES")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",  # containers have little of it
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # a page that needs a network does not work here
)


@contextmanager
def jupyter_server(notebooks: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """URL and token of a JupyterLab that serves a student's copies; `folder` takes these, settings and log.

    Raises RuntimeError with what the server said if it does not start.
    """
    served, log = folder / "notebooks", folder / "server.log"
    copies.make(copies.read_kit(notebooks), served)
    overrides = folder / "config/labconfig/default_setting_overrides.json"
    overrides.parent.mkdir(parents=True)
    overrides.write_text(json.dumps(SETTINGS))
    token = secrets.token_hex(16)
    own = {f"{name}_DIR": str(folder / name.split("_")[1].lower()) for name in FOLDERS}
    own |= {"IPYTHONDIR": str(folder / "ipython"), "JUPYTER_TOKEN": token}
    own |= {"OMP_NUM_THREADS": "1"}  # the other core runs another notebook
    options = ["--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--ServerApp.root_dir={served}"]
    options += ["--LabApp.expose_app_in_browser=True"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options += ["--allow-root"]
    with log.open("wb") as out:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, *options],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            env=os.environ | own,
            start_new_session=True,  # Ctrl-C is for the tests, which end the server
        )
    try:
        yield _url(server, folder / "runtime" / f"jpserver-{server.pid}.json", log), token
    finally:
        if server.stdin:
            server.stdin.close()
        try:
            server.wait(ENDING)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _url(server: subprocess.Popen, info: Path, log: Path) -> str:
    """What the server says that its address is, once it runs."""
    end = time.monotonic() + STARTING
    while time.monotonic() < end and server.poll() is None:
        try:
            return json.loads(info.read_text())["url"]
        except (FileNotFoundError, json.JSONDecodeError):  # not yet, or half written
            time.sleep(0.1)
    how = f"ended with code {server.returncode}" if server.returncode is not None else f"did not start in {STARTING} s"
    raise RuntimeError(f"JupyterLab {how}; the end of its log:\n{log.read_text()[-2000:]}")


@contextmanager
def chromium(program: Path) -> Iterator[Browser]:
    """The browser, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS, timeout=STARTING * 1000)
        yield browser
        browser.close()


@contextmanager
def server_and_browser(notebooks: Path, folder: Path, program: Path) -> Iterator[tuple[str, str, Browser]]:
    """URL and token of a server of `notebooks`, and a browser.

    When the block ends so has every process that was started in it, kernels and their engines included: RuntimeError
    names those that had to be killed.
    """
    before = _children()
    with jupyter_server(notebooks, folder) as (url, token), chromium(program) as browser:
        try:
            yield url, token, browser
        finally:
            started = _children() - before | _with(token)
    left = [process for process in psutil.wait_procs(started | _with(token), ENDING)[1] if not _has_ended(process)]
    for process in left:
        process.kill()
    if left:
        raise RuntimeError(f"still running {ENDING} s after the tests: {', '.join(map(str, left))}.")


def _has_ended(process: psutil.Process) -> bool:
    """Also if who should take note of its end, such as a container's first process, has not yet done so."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def _with(token: str) -> set[psutil.Process]:
    """Processes that inherited the server's token: also those that no longer have a parent."""
    return {p for p in psutil.process_iter(["environ"]) if (p.info["environ"] or {}).get("JUPYTER_TOKEN") == token}
