"""How a call travels to the engines: what the reader wrote goes by value, as it is in the notebook at this moment.

Engines can import what is installed, and dlkit. What is in a file beside the notebook they may have in another version,
or not at all: such a module is sent with the call that needs it.
"""

import contextlib
import dis
import hashlib
import importlib.util
import io
import os
import pickle
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import cloudpickle

REMEDY = "put the folder of its file on the notebook's sys.path"


def pickle_call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> bytes:
    """A call for `unpickle_call`. TypeError if the function, or what it needs, cannot be pickled."""
    all_own = own_modules()
    own = {name: module for name, module in all_own.items() if not is_compiled(module)}
    try:
        with by_value(own):
            call, imported = dumps((function, args, kwargs))
            modules: dict[str, bytes] = {}
            while needed := [name for name in sorted(imported) if name in own and name not in modules]:
                for name in needed:
                    modules[name], more = dumps(own[name])
                    imported |= more
    except Exception as error:
        name = getattr(function, "__name__", repr(function))
        what = f"`{name}`, or an argument of it, cannot travel to the engines ({error})"
        raise TypeError(f"{what}: make that inside the function.") from None
    compiled = {
        name: digest(str(module.__file__))
        for name, module in all_own.items()
        if name not in own and any(name.encode() in sent for sent in (call, *modules.values()))
    }
    return pickle.dumps((call, modules, compiled, [os.path.abspath(entry) for entry in sys.path]))


def unpickle_call(pickled: bytes) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """The function, its arguments and keyword arguments, with the modules that they need.

    ImportError if a compiled module of the reader's is missing here, or is another than the notebook's.
    """
    call, modules, compiled, path = pickle.loads(pickled)
    sys.path += [entry for entry in path if entry not in sys.path]
    for name, expected in compiled.items():
        check_compiled(name, expected)
    try:
        for name, content in modules.items():
            sys.modules[name] = pickle.loads(content)
        return pickle.loads(call)
    except ModuleNotFoundError as error:
        raise ImportError(f"the engines find no module `{error.name}`: {REMEDY}.") from None


class Pickler(cloudpickle.Pickler):
    """cloudpickle's; `imported` are the names that functions which travel by value import when they are called."""

    def __init__(self, file: io.BytesIO):
        super().__init__(file)
        self.imported: set[str] = set()

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, FunctionType):
            self.imported |= set(imports_of(obj.__code__, obj.__globals__.get("__package__") or ""))
        return super().reducer_override(obj)


def dumps(item: Any) -> tuple[bytes, set[str]]:
    """The pickled item, and the `imported` of its Pickler."""
    with io.BytesIO() as file:
        pickler = Pickler(file)
        pickler.dump(item)
        return file.getvalue(), pickler.imported


def imports_of(code: CodeType, package: str) -> Iterator[str]:
    """The modules, and names in them that may be modules, that this code and that inside it imports."""
    steps = list(dis.get_instructions(code))
    for i, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            level, names = (before.argval for before in steps[i - 2 : i])
            name = str(step.argval)
            with contextlib.suppress(ImportError):
                name = importlib.util.resolve_name("." * level + name, package) if level else name
            parts = name.split(".")
            yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))
            yield from (f"{name}.{part}" for part in names or ())
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from imports_of(constant, package)


@contextmanager
def by_value(modules: dict[str, ModuleType]) -> Iterator[None]:
    """In this context, cloudpickle sends what is defined in these modules, and the modules, by value."""
    registered = cloudpickle.list_registry_pickle_by_value()
    new = [module for name, module in modules.items() if name not in registered]
    for module in new:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in new:
            cloudpickle.unregister_pickle_by_value(module)


_installed: dict[str, Any] = {}  # modules found to be none of the reader's, by name; there are thousands


def own_modules() -> dict[str, ModuleType]:
    """The modules that the reader wrote, in Python or compiled: those neither Python's, nor installed, nor dlkit's."""
    own = {}
    for name, module in list(sys.modules.items()):
        if _installed.get(name, own) is not module:
            if is_own(name, module):
                own[name] = module
            else:
                _installed[name] = module
    return own


def is_own(name: str, module: Any) -> bool:
    """Is this module in a file of the reader's?"""
    file = getattr(module, "__file__", None) if isinstance(module, ModuleType) else None
    if name in ("__main__", "__mp_main__") or not isinstance(file, str) or not os.path.isabs(file):
        return False
    return module.__name__ == name and not is_installed(file, name)


def is_compiled(module: ModuleType) -> bool:
    return str(module.__file__).endswith(tuple(EXTENSION_SUFFIXES))


def is_installed(file: str, name: str) -> bool:
    """Is the module `name` in this file Python's, an installed package's, or dlkit's?"""
    folder, _, own = file.rpartition(os.sep)
    if in_an_installation(folder):
        return True
    top = Path(os.path.realpath(folder), own).parents[name.count(".") + own.startswith("__init__.")]
    return any(top.glob("*.dist-info"))  # by `pip install --target`


@cache
def in_an_installation(folder: str) -> bool:
    return os.path.realpath(folder).startswith(installations())


@cache
def installations() -> tuple[str, ...]:
    """The folders of Python's own modules, of installed ones, and of dlkit."""
    paths = sysconfig.get_paths()
    folders = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages(), str(Path(__file__).parents[1])]
    return tuple(os.path.realpath(folder) for folder in folders)


@cache
def digest(file: str) -> str:
    """SHA-256 of the file when it was first asked for: a compiled module stays as it was when it was loaded."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_compiled(name: str, expected: str) -> None:
    """ImportError if this compiled module is missing here, or is another than that with the digest `expected`."""
    spec = sys.modules[name].__spec__ if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ImportError(f"the engines find no module `{name}`: {REMEDY}.")
    if digest(spec.origin) != expected:
        remedy = "restart the notebook's kernel, which ends the engines too"
        raise ImportError(f"the engines have another `{name}` ({spec.origin}) than the notebook: {remedy}.")
