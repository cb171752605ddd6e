"""What runs on an engine: it keeps to its cores, joins the process group, and runs calls."""

import os
import socket
from datetime import timedelta
from traceback import TracebackException

from dlkit.cluster import travel, watch
from dlkit.cluster.gpus import gpu_facts
from dlkit.core.imports import no_garbage_collection
from dlkit.distributed.process_group import group_is_used, join_by_file, leave_group, yield_on_wakeup

# For ranks to wait for each other. They are watched meanwhile (lookout.py), and one may take long.
EXCHANGE_TIMEOUT = timedelta(seconds=1800)


def on_engine_start() -> None:
    """Called as the engine starts, before it runs calls: pins it to its cores and imports torch, a second or two."""
    os.chdir(os.environ["DLKIT_CWD"])
    cores = [int(core) for core in os.environ["DLKIT_CORES"].split(",") if core]
    if cores:
        os.sched_setaffinity(0, cores)
    yield_on_wakeup()
    watch.start()
    with no_garbage_collection():
        import ipyparallel.serialize
        import torch

    ipyparallel.serialize.use_cloudpickle()  # for those who call the client itself
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def join_group(path: str, world_size: int, backend: str) -> None:
    """Join the process group of all engines by the file `path`; leave the one before, if there is one."""
    watch.joins(path)
    leave_group()
    join_by_file(path, int(os.environ["DLKIT_RANK"]), world_size, backend, EXCHANGE_TIMEOUT)


def run_pickled_call(call: bytes, group: tuple[str, int, str] | None) -> tuple[bool, bytes, bool]:
    """Run a call of `travel.pickle_call`, in the group that is there, or a new one: of the arguments of `join_group`.

    Gives (True, its result, used) or (False, (its error, the traceback), used); the second is pickled. used: were there
    exchanges in the group? Messages may be left over then.
    """
    import cloudpickle

    name = "the function"
    try:
        if group is not None:
            join_group(*group)
        function, args, kwargs = travel.unpickle_call(call)
        name = getattr(function, "__name__", name)
        result = function(*args, **kwargs)
    except BaseException as error:
        trace = TracebackException.from_exception(error, lookup_lines=False)  # the caller has the source of its cells
        del trace.stack[:1]  # this function
        return False, cloudpickle.dumps((picklable_error(error), trace)), group_is_used()
    try:
        return True, cloudpickle.dumps(result), group_is_used()
    except Exception as error:
        wrong = TypeError(f"what `{name}` gives cannot travel back ({error}): give tensors, numbers or text.")
        return False, cloudpickle.dumps((wrong, TracebackException.from_exception(wrong))), group_is_used()


def picklable_error(error: BaseException) -> Exception:
    """The error; or a RuntimeError with its text, if it cannot be pickled, or would end the caller's process."""
    import cloudpickle

    try:
        if isinstance(error, Exception) and type(cloudpickle.loads(cloudpickle.dumps(error))) is type(error):
            return error
    except Exception:
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


def host_facts() -> dict[str, object]:
    """Host, pid and GPU of this engine, for the cluster's table."""
    return {"host": socket.gethostname(), "pid": os.getpid()} | gpu_facts()
