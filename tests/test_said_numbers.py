"""What a notebook's text says of a number is what its cells show, to the digits that the text gives: drift fails here.

A number that no cell shows or holds is a definition or a published figure, and stands in SAID with its reason.
"""

import re
from pathlib import Path

import nbformat
import pytest
from said_numbers import SAID

PATHS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"(?<![\w.,])[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w]|[.,]\d)")
IN_CODE = re.compile(r"(?<![\w.])\d[\d_]*(?:\.\d*)?(?:e[-+]?\d+)?(?!\w)")
PLACE = r"[Ss]ections?|[Cc]hapters?|[Ff]igures?|[Tt]ables?|[Ee]quations?|[Ee]xercises?|[Ll]ines?|[Pp]ages?|pp?\."
NOT_SAID = re.compile(
    "|".join(
        [
            r"```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$",  # code, formulas
            r"<img[^>]*>|<summary>.*?</summary>|\]\([^)]*\)|https?://\S+|^#+ [^\n]*$",  # pictures, addresses, headings
            rf"(§|\b({PLACE})) ?[\d.,–]+(( and| or|,|–) [\d.]+)*",
            r"\b(1[89]|20)\d\d\b|\b0\d\b|\b\d+ minutes\b",  # years, notebooks, how long it takes
        ]
    ),
    re.MULTILINE | re.DOTALL,
)
BAR = re.compile(r"\d+%\|.*")  # of progress, as far as it had come when it was stored
SMALL = 20  # whole numbers up to here are counted by the reader, not looked up, save shares and ratios
WORDS = {"three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "a dozen": 12}
WORDS |= {"twenty": 20, "a hundred": 100, "a thousand": 1000, "a million": 1_000_000}
RATIO = re.compile(rf"\b({'|'.join(WORDS)}) times\b")


def said(source):
    """(number as it is written, whether it is a share or a ratio) of a text; ratios may be in words."""
    source = NOT_SAID.sub(" ", source)
    for match in NUMBER.finditer(source):
        is_share = re.match(r"( ?%| times\b)", source[match.end() :])
        if is_share or not (re.fullmatch(r"\d+", match[0]) and int(match[0]) <= SMALL):
            yield match[0], bool(is_share)
    yield from ((match[0], True) for match in RATIO.finditer(source.lower()))


def value(text):
    return float(text.replace(",", "").replace("_", "").replace("−", "-"))


def shown(notebook):
    """The numbers of all outputs; those of all code."""
    outputs, code = [], []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        code += [value(text) for text in IN_CODE.findall(cell.source)]
        for output in cell.outputs:
            texts = [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
            outputs += [value(text) for each in texts for text in NUMBER.findall(BAR.sub("", each))]
    return outputs, code


def is_among(text, numbers):
    """Whether one of the numbers is this one when it is rounded as the text is; one of a share may be in percent."""
    text = str(WORDS.get(text.removesuffix(" times"), text))
    wanted = value(text)
    mantissa, _, exponent = text.partition("e")
    step = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return any(
        abs(abs(number) * scale - abs(wanted)) <= step / 2 * (1 + 1e-9) for number in numbers for scale in (1, 100)
    )


def unexplained(notebook, allowed):
    """(number, where) of what a text says and no cell shows."""
    outputs, code = shown(notebook)
    reading = next((i for i, c in enumerate(notebook.cells) if re.search(r"^## .*\b[Rr]ead", c.source)), None)
    for i, cell in enumerate(notebook.cells[:reading]):
        if cell.cell_type == "markdown":
            for text, is_ratio in said(cell.source):
                if text not in allowed and not is_among(text, outputs if is_ratio else outputs + code):
                    yield text, f"cell {i}"


@pytest.mark.parametrize("path", PATHS, ids=[path.stem for path in PATHS])
def test_every_number_of_a_text_is_shown_by_a_cell_or_has_a_reason(path):
    allowed = {number for reason in SAID.get(path.stem, {}).values() for number in reason}
    assert list(unexplained(nbformat.read(path, as_version=4), allowed)) == []


def notebook_of(text, printed, code="pass"):
    cell = nbformat.v4.new_code_cell(code, outputs=[nbformat.v4.new_output("stream", text=printed)])
    return nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_markdown_cell(text)])


HELD = {
    "rounded as the text is": ("It is 5.11 nats.", "5.1062", "5.12"),
    "in percent": ("It misses 16.67 %.", "0.16671", "0.17"),
    "with thousands": ("It has 397,510 connections.", "397510 connections", "340,908 connections"),
    "a small share": ("It misses 10 % of them.", "10.2", "16.67"),
    "a ratio": ("It takes 15 times as long.", "ratio 15.2", "ratio 1000"),
    "a ratio in words": ("It takes a thousand times as long.", "ratio 1000", "ratio 15.2"),
    "below zero": ("A bound of −86.3 nats.", "-86.34", "-86.44"),
    "tiny": ("Updates of 4.8e-6 of the weights.", "4.81e-06", "5.8e-06"),
}


@pytest.mark.parametrize("name", HELD)
def test_a_number_that_has_drifted_is_found(name):
    text, right, drifted = HELD[name]
    assert list(unexplained(notebook_of(text, right), ())) == []
    assert len(list(unexplained(notebook_of(text, drifted), ()))) == 1


def test_a_progress_bar_shows_no_number():
    bar = " 86%|########6 | 432/500 [00:01<00:00, 431.44step/s]"
    assert list(unexplained(notebook_of("It reads 86 % of them.", bar), ())) == [("86", "cell 1")]


def test_a_setting_may_stand_in_the_code_and_a_ratio_may_not():
    assert list(unexplained(notebook_of("Batches of 1,024.", "", "batch = 1_024"), ())) == []
    assert list(unexplained(notebook_of("25 times as long.", "", "steps = 25"), ())) == [("25", "cell 1")]


def test_every_reason_is_still_needed():
    for path in PATHS:
        notebook = nbformat.read(path, as_version=4)
        needed = {text for text, _ in unexplained(notebook, ())}
        listed = {number for reason in SAID.get(path.stem, {}).values() for number in reason}
        assert listed <= needed, f"{path.stem}: {listed - needed}"
