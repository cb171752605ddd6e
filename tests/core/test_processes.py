"""A process that has ended is not taken for a later one; folders that others can enter are refused."""

import os
import subprocess
import sys

import pytest

from dlkit.core.processes import is_alive, private_folder, process_key


def test_a_process_is_there_until_it_ends_and_a_later_one_with_its_pid_is_another():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    key = process_key(process.pid)
    assert is_alive(key)
    assert not is_alive(f"{process.pid}@{float(key.split('@')[1]) - 1}")
    process.communicate(b"\n")
    assert not is_alive(key)
    assert is_alive(process_key(os.getpid()))


def test_only_its_user_can_enter_a_private_folder(tmp_path):
    before = os.umask(0)
    try:
        folder = private_folder(tmp_path / "mine")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert private_folder(folder) == folder


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="no owners of files here")
def test_a_folder_of_another_or_open_to_others_or_a_link_is_refused(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o770)
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "private")
    for name in ("open", "link"):
        with pytest.raises(PermissionError, match=rf"{name} is not a folder of yours alone: remove it, or set TMPDIR"):
            private_folder(tmp_path / name)
    elsewhere = subprocess.run(  # as the message says
        [sys.executable, "-c", "from dlkit.cluster.family import new_folder; print(new_folder())"],
        env=os.environ | {"TMPDIR": str(tmp_path / "private")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.startswith(str(tmp_path / "private" / "dlkit-cluster-"))
    (tmp_path / "link").unlink()
    assert private_folder(tmp_path / "link").is_dir()  # as the message says
