"""Students' copies of the notebooks: without outputs, theirs for good, and what they are told of the kit's own."""

import errno
import json
import os
import re
from pathlib import Path

import nbformat
import pytest

from dlkit import copies

NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Start\n", "Here."]},
        {
            "cell_type": "code",
            "id": "b",
            "metadata": {"tags": ["exercise"]},
            "source": "print(42)",
            "execution_count": 7,
            "outputs": [{"output_type": "stream", "name": "stdout", "text": "42\n"}],
        },
    ],
    "metadata": {"kernelspec": {"name": "python3"}, "widgets": {"state": {"x": 1}}},
    "nbformat": 4,
    "nbformat_minor": 5,
}


def write(path, notebook):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook))


def edited(source="", outputs=()):
    """The notebook with other code, or other outputs, in its second cell."""
    new = json.loads(json.dumps(NOTEBOOK))
    new["cells"][1] |= {"source": source or new["cells"][1]["source"], "outputs": list(outputs)}
    return new


@pytest.fixture
def project(monkeypatch, tmp_path):
    """A checkout with two notebooks, a solution and what may lie beside them; the current folder."""
    notebooks = tmp_path / "notebooks"
    write(notebooks / copies.FIRST, NOTEBOOK)
    write(notebooks / "01_next.ipynb", NOTEBOOK)
    write(notebooks / ".ipynb_checkpoints/00_start_here-checkpoint.ipynb", NOTEBOOK)
    (notebooks / "solutions/__pycache__").mkdir(parents=True)
    (notebooks / "solutions/00_start_here.py").write_text("answer = 42\n")
    (notebooks / "solutions/__pycache__/00_start_here.cpython-311.py").touch()
    (notebooks / "00_start_here.predictions.json").write_text("{}")
    monkeypatch.setattr(copies, "ROOT", tmp_path)
    monkeypatch.setattr(copies, "FROM_WHEEL", False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(fresh=False):
    return " ".join(copies.open_copies(fresh)[1])


def test_copies_have_no_outputs_counts_or_widgets_and_keep_the_rest(project):
    folder, _ = copies.open_copies()
    assert folder == project / "work"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {copies.FIRST, "01_next.ipynb", "solutions/00_start_here.py", copies.MANIFEST}
    markdown, code = NOTEBOOK["cells"]
    assert json.loads((folder / copies.FIRST).read_text()) == NOTEBOOK | {
        "metadata": {"kernelspec": {"name": "python3"}},
        "cells": [markdown, code | {"outputs": [], "execution_count": None}],
    }
    assert (folder / "solutions/00_start_here.py").read_text() == "answer = 42\n"
    assert json.loads((project / "notebooks" / copies.FIRST).read_text()) == NOTEBOOK  # the kit keeps its outputs
    assert sorted(path.name for path in project.iterdir()) == ["notebooks", "work"]  # and nothing half made is left


def test_what_a_student_wrote_stays_and_what_is_missing_is_added(project):
    copies.open_copies()
    (project / "work" / copies.FIRST).write_text("my work")
    (project / "work/solutions/00_start_here.py").unlink()
    write(project / "notebooks/02_new.ipynb", NOTEBOOK)
    said = told()
    assert said == (
        "Your copies of the notebooks are in work, as you left them. Added, because they were not there: 02_new.ipynb."
    )
    assert (project / "work" / copies.FIRST).read_text() == "my work"
    assert (project / "work/solutions/00_start_here.py").exists()
    assert told() == "Your copies of the notebooks are in work, as you left them."


def test_fresh_copies_are_complete_lie_beside_and_are_opened_from_then_on(project):
    copies.open_copies()
    (project / "work" / copies.FIRST).write_text("my work")
    (project / "work/00_start_here.predictions.json").write_text("{}")
    folder, (said,) = copies.open_copies(fresh=True)
    assert folder == project / "work-2"
    assert said == (
        "New copies of the notebooks are in work-2, and `dlkit lab` opens these from now on. work stays as you left it."
    )
    assert not (folder / "00_start_here.predictions.json").exists()
    assert nbformat.read(folder / copies.FIRST, as_version=4).cells[1].source == "print(42)"
    assert (project / "work" / copies.FIRST).read_text() == "my work"
    for count in range(3, 11):
        assert copies.open_copies(fresh=True)[0].name == f"work-{count}"
    for other in ("work-old", "work-010", "works"):
        (project / other).mkdir()
    assert copies.open_copies()[0].name == "work-10"  # by number, not by letters


def test_fresh_without_copies_makes_the_first(project):
    assert copies.open_copies(fresh=True)[0] == project / "work"


def test_a_notebook_that_the_kit_has_changed_is_told_by_its_name_until_there_are_new_copies(project):
    copies.open_copies()
    write(project / "notebooks" / copies.FIRST, edited(outputs=[{"output_type": "stream", "text": "43\n"}]))
    assert "changed" not in told()  # it was only run again
    write(project / "notebooks/01_next.ipynb", edited("print(43)"))
    (project / "notebooks/solutions/00_start_here.py").write_text("answer = 43\n")
    for _ in range(2):
        said = told()
        assert "The kit has changed these since your copies were made: 00_start_here, 01_next; `" in said
        assert "lab --fresh` makes new copies beside these." in said
    copies.open_copies(fresh=True)
    assert told() == "Your copies of the notebooks are in work-2, as you left them."


@pytest.mark.parametrize("damage", ["", "{", "[1, 2]", "{}", None])
def test_a_damaged_manifest_is_a_sentence_and_no_more(project, damage):
    copies.open_copies()
    manifest = project / "work" / copies.MANIFEST
    manifest.unlink() if damage is None else manifest.write_text(damage)
    write(project / "notebooks/02_new.ipynb", NOTEBOOK)
    for _ in range(2):  # a file that is new does not make the others known
        assert f"work/{copies.MANIFEST} is missing or damaged, so it is not known whether" in told()
    assert (project / "work/02_new.ipynb").exists()
    assert "damaged" not in told(fresh=True) + told()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"cells": [1], "metadata": {}}'])
def test_a_damaged_notebook_of_the_kit_is_named_and_nothing_is_copied(project, content):
    (project / "notebooks/01_next.ipynb").write_text(content)
    with pytest.raises(ValueError, match=r"01_next.ipynb is damaged: .* again from the dlkit repository\.$"):
        copies.open_copies()
    assert not (project / "work").exists()


def test_where_nothing_can_be_written_the_student_is_told_so_in_a_sentence(project):
    (project / "work").touch()  # a file where the folder should be
    with pytest.raises(
        RuntimeError, match=r"cannot be copied to a folder in .*: copy the project to a folder of yours"
    ):
        copies.open_copies()
    assert sorted(path.name for path in project.iterdir()) == ["notebooks", "work"]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_is_told_and_leaves_no_half_folder(project, monkeypatch, error):
    def fails(path, content):
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patched:
        patched.setattr(copies, "_write", fails)
        with pytest.raises(RuntimeError, match=rf"{os.strerror(error)}\): copy .* on a disk that is not full\.$"):
            copies.open_copies()
    assert sorted(path.name for path in project.iterdir()) == ["notebooks"]
    assert copies.open_copies()[0] == project / "work"


@pytest.fixture
def wheel(project, monkeypatch):
    """As if dlkit came from a wheel: in an empty current folder."""
    here = project / "mine"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(copies, "FROM_WHEEL", True)
    return here


def test_for_a_wheel_copies_are_in_the_current_folder_or_it_has_them(wheel, monkeypatch):
    assert copies.open_copies()[0] == wheel / "dlkit-notebooks"
    monkeypatch.chdir(wheel / "dlkit-notebooks")
    assert copies.open_copies()[0] == wheel / "dlkit-notebooks"  # and not a copy within the copy
    assert copies.open_copies(fresh=True)[0] == wheel / "dlkit-notebooks-2"
    assert copies.open_copies()[0] == wheel / "dlkit-notebooks-2"  # from within the old ones too
    renamed = (wheel / "dlkit-notebooks").rename(wheel / "week-3")
    monkeypatch.chdir(renamed)
    assert copies.open_copies()[0] == renamed
    assert copies.open_copies(fresh=True)[0] == wheel / "week-3-2"


def test_copies_of_an_older_dlkit_which_have_no_manifest_stay(wheel):
    (wheel / "dlkit-notebooks").mkdir()
    (wheel / "dlkit-notebooks" / copies.FIRST).write_text("my work")
    assert "is missing or damaged" in told()
    assert (wheel / "dlkit-notebooks" / copies.FIRST).read_text() == "my work"


LINK = re.compile(r"\]\(([^)\s]+)\)|\b(?:href|src)=[\"']([^\"']+)")


def test_each_link_of_the_notebooks_leads_somewhere_from_the_copies(tmp_path):
    folder = tmp_path / "work"
    copies.make(copies.read_kit(Path(copies.ROOT, "notebooks")), folder)
    for path in sorted(folder.glob("*.ipynb")):
        assert (folder / f"solutions/{path.stem}.py").is_file()
        for cell in nbformat.read(path, as_version=4).cells:
            for link in (found[1] or found[2] for found in LINK.finditer(cell.source) if cell.cell_type == "markdown"):
                if not re.match(r"https?:|#|data:", link):
                    assert (folder / link.partition("#")[0]).is_file(), f"{path.name}: {link}"
