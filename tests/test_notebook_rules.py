"""What holds for every notebook as it is stored: what CONTRIBUTING.md asks of one, read from the file."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

from dlkit.exercises.checks import Check
from dlkit.exercises.tasks import Task

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))

TIMING = re.compile(r"\d\s?(\w+/s|µs|ms|s|seconds?|minutes?)\b")
BAR = re.compile(r"\[\d+:\d\d[^\]]*\]")  # of progress: nbval-sanitize.cfg takes it out
ELSEWHERE = re.compile(
    rf"{re.escape(str(ROOT))}/|(?<![\w.~/:])/(home|root|Users|tmp|var|usr|opt|mnt|srv|private)/|[A-Z]:\\\w"
    r"|https?://(localhost|127\.)"
)


@pytest.fixture(params=PATHS, ids=[path.stem for path in PATHS])
def path(request):
    """Each notebook."""
    return request.param


def cells(path, kind=None, tag=None):
    """The notebook's cells, of this type and with this tag."""
    every = nbformat.read(path, as_version=4).cells
    return [c for c in every if kind in (None, c.cell_type) and (tag is None or tag in c.metadata.get("tags", []))]


def data(cell):
    """(media type, content) of each thing that the cell shows; what it prints is text/plain."""
    for output in cell.get("outputs", []):
        yield from output.get("data", {}).items()
        if output.output_type == "stream":
            yield "text/plain", output.text


def text(cell):
    """All that the cell prints or shows as text."""
    return "\n".join(content for media, content in data(cell) if media == "text/plain")


class Images(HTMLParser):
    """Gathers the alt text of each <img>."""

    def __init__(self, html):
        super().__init__()
        self.alts = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.alts.append(dict(attrs).get("alt") or "")


def test_it_is_valid_and_names_the_kernel_that_every_machine_has(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec == {
        "name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"
    }  # fmt: skip


def test_it_stores_nothing_of_the_machine_it_ran_on(path):
    assert set(nbformat.read(path, as_version=4).metadata) <= {"kernelspec", "language_info", "widgets"}
    assert {key for cell in cells(path) for key in cell.metadata} <= {"tags"}


def test_it_was_run_from_top_to_bottom_and_stores_what_it_showed(path):
    run = [cell for cell in cells(path, "code") if cell.source.strip()]
    assert [cell.execution_count for cell in run] == list(range(1, len(run) + 1))
    for cell in run:
        counts = [out.execution_count for out in cell.outputs if out.output_type == "execute_result"]
        assert set(counts) <= {cell.execution_count}
    assert any(cell.outputs for cell in run)


def test_it_stores_no_error(path):
    for cell in cells(path, "code"):
        if "raises-exception" not in cell.metadata.get("tags", []):
            assert "error" not in [out.output_type for out in cell.outputs], cell.source
        assert "Traceback" not in text(cell)


def test_it_takes_less_than_a_megabyte(path):
    assert path.stat().st_size < 1_000_000


def test_it_opens_with_what_you_will_be_able_to_do_how_long_it_takes_and_what_it_needs(path):
    first = cells(path)[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    for wanted in (r"\bable to\b", r"\b(minutes|min)\b", r"\bneeds?\b"):
        assert re.search(wanted, first.source, re.IGNORECASE), wanted


def test_it_has_three_exercises_each_with_a_check_that_speaks(path):
    code = cells(path, "code")
    exercises = [i for i, cell in enumerate(code) if "exercise" in cell.metadata.get("tags", [])]
    assert len(exercises) >= 3
    for i in exercises:
        assert any(re.search("^[○✓✗] ", text(cell), re.MULTILINE) for cell in code[i : i + 2]), code[i].source


ASKS = re.compile(r"""\bpredict\.(?:choice|number)\(\s*"([^"]+)\"""")
TELLS = re.compile(r"""\bpredict\.was\(\s*"([^"]+)\"""")


def test_predictions_are_asked_before_a_result_and_told_after_it(path):
    code = cells(path, "code")
    asked = {key: i for i, cell in enumerate(code) for key in ASKS.findall(cell.source)}
    told = {key: i for i, cell in enumerate(code) for key in TELLS.findall(cell.source)}
    assert len(asked) >= 6
    assert asked.keys() == told.keys()
    assert [key for key in asked if asked[key] >= told[key]] == []
    assert all("prediction" in code[i].metadata.get("tags", []) for i in asked.values())
    (tally,) = [i for i, cell in enumerate(code) if "predict.tally()" in cell.source]
    assert tally > max(told.values())
    assert f'Predictions("{path.stem}")' in code[0].source


def test_no_question_before_a_result_is_left_unrecorded(path):
    for cell in cells(path, "markdown"):
        bold = [text for text in re.findall(r"\*\*([^*]+)\*\*", cell.source) if "?" in text]
        assert bold == []


# What only the result can tell; of a text that is computed, the words in the source are not looked at.
TOLD = re.compile(
    r"\b(higher|lower|better|worse|faster|slower|larger|smaller|rises?|falls?|grows?|best|worst|never|always)\b"
)


def test_no_alt_text_gives_the_result_away_in_the_cell_that_asks_for_it(path):
    for cell in cells(path, "code"):
        for call in re.findall(r"(?:\balt=|\bshow\(\w+,\s*|\bgrid\([^)]*?,\s*)(\"[^\"]*\")", cell.source):
            assert not TOLD.search(call), call


def test_all_checks_are_asked_for_and_one_is_an_open_task_with_points(path):
    checks = vars(import_module(f"dlkit.exercises.{path.stem[3:]}")).items()
    code = "".join(cell.source for cell in cells(path, "code"))
    named = {name: check for name, check in checks if isinstance(check, Check | Task)}
    assert [name for name in named if f"check.{name}(" not in code] == []
    assert [name for name, check in named.items() if isinstance(check, Check) and not check.deeper] == []
    assert any(isinstance(check, Task) for check in named.values())
    rubric = [cell for cell in cells(path, "markdown") if re.search(r"\bpoints?\b", cell.source)]
    assert rubric


def test_it_has_a_widget(path):
    shown = [media for cell in cells(path, "code", "widget") for media, _ in data(cell)]
    assert "application/vnd.jupyter.widget-view+json" in shown


def test_it_ends_with_what_to_read(path):
    headings = [line for cell in cells(path, "markdown") for line in cell.source.splitlines() if line.startswith("#")]
    assert re.search(r"\b(what to read|(further )?reading)\b", headings[-1], re.IGNORECASE)


def test_every_stored_picture_has_an_alt_text(path):
    for cell in cells(path):
        shown = list(data(cell))
        assert not [media for media, _ in shown if media.startswith("image/")], f"no alt text: {cell.source}"
        html = [content for media, content in shown if media == "text/html"]
        if cell.cell_type == "markdown":
            html.append(cell.source)
            assert not re.search(r"!\[\s*\]\(", cell.source)
        assert all(alt.strip() for source in html for alt in Images(source).alts), cell.source


def test_no_cell_is_longer_than_a_screen(path):
    assert max(len(cell.source.splitlines()) for cell in cells(path)) <= 45


def test_it_speaks_of_no_path_or_address_of_one_machine(path):
    for cell in cells(path):
        shown = [content for media, content in data(cell) if media.startswith("text/")]
        for words in [cell.source, *(re.sub(r"base64,[\w+/=]+", "", content) for content in shown)]:
            assert not ELSEWHERE.search(words), ELSEWHERE.search(words)


def test_what_nbval_compares_holds_no_timing(path):
    for cell in cells(path, "code"):
        assert "NBVAL_" not in cell.source, "use a tag: a comment is in the student's way"
        if not {"nbval-ignore-output", "nbval-skip"} & set(cell.metadata.get("tags", [])):
            words = BAR.sub("", text(cell))
            assert not TIMING.search(words), f"tag it nbval-ignore-output: {words}"


def test_its_code_has_no_unused_imports_or_trailing_semicolons(path):
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select=F,E703", "--quiet"]
    checked = subprocess.run([*command, "--ignore=F722,F821", path], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_readme_lists_the_notebooks_that_there_are():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    if not readme:
        pytest.skip("README.md is empty")
    assert sorted(set(re.findall(r"\b(\d\d_\w+)\.ipynb", readme))) == [path.stem for path in PATHS]
