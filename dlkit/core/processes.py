"""Processes of this machine by a name that no later process has, and folders that only their user can enter."""

import os
import stat
from pathlib import Path


def process_key(pid: int) -> str:
    """`pid@creation time` of a process: a later process may have the same pid, but not the same key."""
    import psutil

    return f"{pid}@{psutil.Process(pid).create_time()}"


def is_alive(key: str) -> bool:
    """Is there still the process with this `process_key`?"""
    import psutil

    pid, created = key.split("@")
    try:
        process = psutil.Process(int(pid))
        return process.create_time() == float(created) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def private_folder(path: str | Path) -> Path:
    """The folder, made if it is missing. PermissionError where others could enter it, or have made it."""
    path = Path(path)
    path.mkdir(mode=0o700, exist_ok=True)
    if hasattr(os, "getuid"):
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(f"{path} is not a folder of yours alone: remove it, or set TMPDIR to another folder.")
    return path
