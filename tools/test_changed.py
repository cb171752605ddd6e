"""Runs the tests that stand on the files changed since a commit: `make test-changed SINCE=commit`.

A test file stands on what it imports of dlkit and of tests/, directly or through other modules; the browser tests of a
notebook on that notebook and on all that it imports. What is no Python of dlkit, tests or a notebook (data, settings,
JavaScript) stands under everything in its folder. Arguments behind the commit go to pytest.
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parent.parent


def changed_since(commit: str) -> list[str]:
    """Paths of files that differ from the commit, and of new ones."""
    commands = (["diff", "--name-only", commit], ["ls-files", "--others", "--exclude-standard"])
    outputs = [subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True) for command in commands]
    if outputs[0].returncode:
        sys.exit(f"test-changed: {outputs[0].stderr.strip().splitlines()[0]}")
    return [path for output in outputs for path in output.stdout.split()]


def module_of(path: str) -> str:
    return path.removesuffix("/__init__.py").removesuffix("/__init__.pyi").removesuffix(".py").replace("/", ".")


def public_names() -> dict[str, str]:
    """The module behind each name that a package hands on: dlkit.models.RBM is of dlkit.models.rbm."""
    names = {}
    for stub in (ROOT / "dlkit").rglob("__init__.pyi"):
        package = module_of(str(stub.relative_to(ROOT)))
        for node in ast.parse(stub.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {f"{package}.{alias.name}": f"{package}.{node.module}" for alias in node.names}
    return names


PUBLIC = public_names()


def imports_of(path: Path) -> set[str]:
    """Modules that a Python file or a notebook may import: `from a import b` is of a.b, or what is behind that name."""
    sources = [path.read_text(encoding="utf-8")]
    if path.suffix == ".ipynb":
        cells = json.loads(sources[0])["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: set[str] = set()
    for source in sources:
        for node in ast.walk(ast.parse("\n".join(line for line in source.split("\n") if line[:1] != "%"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                names |= {node.module, *full, *(PUBLIC[name] for name in full if name in PUBLIC)}
    return names


def tests_for(changed: list[str]) -> list[str]:
    """Test files, relative to the project, that stand on these files; all of them for a file that all stand on."""
    graph = grimp.build_graph("dlkit", cache_dir=None)
    for name, module in PUBLIC.items():
        graph.add_import(importer=name.rpartition(".")[0], imported=module)
    moved = {module_of(path) for path in changed if path.startswith("dlkit/")}
    touched = moved | {name for module in moved & graph.modules for name in graph.find_downstream_modules(module)}
    touched -= {name.rpartition(".")[0] for name in PUBLIC}  # a test is asked for the names that it takes of a package
    files = list((ROOT / "tests").rglob("*.py"))
    helpers = {path.stem for path in files if f"tests/{path.relative_to(ROOT / 'tests')}" in changed}
    while grown := {path.stem for path in files if imports_of(path) & helpers} - helpers:
        helpers |= grown
    everything = [p for p in changed if not p.endswith((".py", ".pyi", ".ipynb", ".md", ".png", ".js", ".css"))]
    chosen = []
    for path in files:
        if not path.name.startswith("test_"):
            continue
        imports = imports_of(path)
        notebook = (
            next((ROOT / "notebooks").glob(f"{path.stem[-2:]}_*.ipynb"), None) if "browser" in path.parts else None
        )
        if notebook is not None:
            imports |= imports_of(notebook)
        own = notebook is not None and str(notebook.relative_to(ROOT)) in changed
        if everything or own or path.stem in helpers or imports & touched:
            chosen.append(path)
    tests = {str(path.relative_to(ROOT)) for path in chosen}
    for path in map(Path, changed):
        if path.suffix == ".ipynb":
            names = ("test_runs_from_top_to_bottom_without_an_error", "test_shows_what_is_stored_in_its_file")
            tests |= {f"tests/browser/test_notebooks.py::{name}[{path.name}]" for name in names}
            tests.add("tests/test_notebook_rules.py")
        if path.parent.name == "solutions":
            tests.add(f"tests/exercises/test_exercises_{path.name[:2]}.py")
    return sorted(tests)


if __name__ == "__main__":
    tests = tests_for(changed_since(sys.argv[1]))
    if not tests:
        sys.exit("test-changed: no test stands on what has changed.")
    print("\n".join(tests))
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", *tests, *sys.argv[2:]], cwd=ROOT))
