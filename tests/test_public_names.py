"""What the Tab key shows: the names that a user looks for, documented, and nothing else."""

import ast
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["dlkit", *(f"dlkit.{path.parent.name}" for path in sorted(ROOT.glob("dlkit/*/__init__.pyi")))]
PLAIN = (str, int, float, tuple, dict)  # colours, tables


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_shows_its_public_names_and_nothing_else(name):
    package = importlib.import_module(name)
    stub = ast.parse(Path(package.__file__).with_suffix(".pyi").read_text())
    names = {alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(dir(package)) == names
    for public in names:
        value = getattr(package, public)
        if not isinstance(value, PLAIN):
            assert inspect.getdoc(value), f"{name}.{public} has no docstring"


@pytest.mark.parametrize("name", PACKAGES)
def test_what_a_public_class_makes_says_what_it_is(name):
    package = importlib.import_module(name)
    classes = [value for public in dir(package) if inspect.isclass(value := getattr(package, public))]
    bare = {c.__name__ for c in classes if c.__repr__ is object.__repr__ and not getattr(c, "_is_protocol", False)}
    assert not bare


@pytest.mark.parametrize("name", PACKAGES)
def test_no_public_name_hides_a_module(name):
    """A module that is imported later would take the name's place."""
    package = importlib.import_module(name)
    modules = {path.stem for path in Path(package.__file__).parent.iterdir()}
    hidden = {public for public in dir(package) if public in modules and not inspect.ismodule(getattr(package, public))}
    assert not hidden


def imports_of(path: Path) -> list[tuple[str, str]]:
    """(module, name) of each import from dlkit in a notebook's cells, or in a solution."""
    sources = [path.read_text()]
    if path.suffix == ".ipynb":
        cells = json.loads(sources[0])["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    trees = [ast.parse("\n".join(line for line in source.split("\n") if line[:1] != "%")) for source in sources]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return [
        (node.module, alias.name) for node in nodes if (node.module or "").startswith("dlkit") for alias in node.names
    ]


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/**/[0-9]*")), ids=lambda path: path.name)
def test_notebooks_import_from_packages(path):
    for module, name in imports_of(path):
        package = importlib.import_module(module)
        assert hasattr(package, "__path__"), f"{name} comes from {module}, a module inside a package"


def test_importing_dlkit_imports_no_torch():
    code = "import sys, dlkit; dir(dlkit); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
