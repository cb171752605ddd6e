"""The nets of tests/nets.py by each way of splitting them, beside one process: a table of what is equal, and what not.

    python benchmarks/any_net.py [--only NET ...] [--ways WAY ...]

Needs the extra `test`. A cell that has been measured is kept in runs/any_net, under a sum of the sources of dlkit and
of the nets: ended early, the table goes on where it was. When it is whole, benchmarks/any_net.md is written.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import sys
from collections import Counter
from dataclasses import asdict
from functools import cache
from pathlib import Path

import torch
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # ranks have it too

from net_ways import EVERY, STEPS, WAYS, Cell, may_refuse, measure
from nets import NETS, make
from vision import HAS_TORCHVISION

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "benchmarks/any_net.md"
NET_SOURCES = ("averaged_experiment", "nets", "net_ways", "ranks", "sequential_averaging", "vision", "written_nets")
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
Table = dict[tuple[str, str], Cell]


def sum_of_sources() -> str:
    files = sorted((ROOT / "dlkit").rglob("*.py")) + [ROOT / f"tests/{name}.py" for name in NET_SOURCES]
    digest = hashlib.sha256(torch.__version__.encode())
    for file in files:
        digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def measured(net: str, way: str, folder: Path) -> Cell:
    """The cell from its file, or measured and kept there."""
    file = folder / (re.sub(r"\W+", "-", f"{net} by {way}") + ".json")
    if file.exists():
        return Cell(**json.loads(file.read_text()))
    cell = measure(net, way)
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(asdict(cell), indent=1))
    part.rename(file)
    return cell


def measure_all(nets: list[str], ways: list[str]) -> Table:
    cells = [(net, way) for net in nets for way in ways if WAYS[way].only(net)]
    folder, table = ROOT / "runs/any_net" / sum_of_sources(), {}
    with tqdm(cells, unit="cell") as bar:
        for net, way in bar:
            bar.set_postfix_str(f"{net}, {way}")
            table[net, way] = measured(net, way, folder)
    return table


class Notes:
    """Sentences, each under a number."""

    def __init__(self):
        self.sentences: list[str] = []

    def number(self, sentence: str) -> str:
        if sentence not in self.sentences:
            self.sentences.append(sentence)
        return str(self.sentences.index(sentence) + 1)


def text_of(net: str, way: str, cell: Cell, notes: Notes) -> str:
    """What the table says of a cell."""
    if cell.state in ("refused", "failed"):
        sentence = one_line(cell.sentence).replace(class_of(net), "the net")
        text = f"{cell.state} {notes.number(sentence).translate(SUPERSCRIPTS)}"
        return f"({text})" if cell.state == "refused" and may_refuse(net, way) else text
    worst = max(cell.gradient or 0.0, cell.steps or 0.0)
    noise = "" if cell.noise is None else f" (noise {cell.noise:.0e})"
    return f"{'=' if cell.state == 'equal' else 'wrong'} {worst:.0e}{noise}"


@cache
def class_of(net: str) -> str:
    return type(make(net)).__name__


def one_line(sentence: str) -> str:
    """As much of a message as a note can hold."""
    return " ".join(sentence.split())[:400]


NO_ANSWER = "refused where there is no answer"


def summary(table: Table) -> str:
    """The counts, and the part of the rest that is equal."""
    counts = Counter(
        NO_ANSWER if cell.state == "refused" and may_refuse(net, way) else cell.state
        for (net, way), cell in table.items()
    )
    rest = len(table) - counts[NO_ANSWER]
    listed = ", ".join(f"{counts[state]} {state}" for state in ("equal", "refused", "wrong", "failed"))
    part = 100 * counts["equal"] / max(rest, 1)
    return (
        f"{len(table)} cells, {counts[NO_ANSWER]} of them {NO_ANSWER}. Of the other {rest}: {listed}; "
        f"{part:.1f} % are equal."
    )


def as_markdown(table: Table) -> str:
    """The table, with its notes behind it."""
    nets, ways = dict.fromkeys(net for net, _ in table), [way for way in WAYS if any(way == of for _, of in table)]
    notes = Notes()
    lines = ["| net | " + " | ".join(ways) + " |", "| --- |" + " --- |" * len(ways)]
    for net in nets:
        cells = [text_of(net, way, table[net, way], notes) if (net, way) in table else "" for way in ways]
        lines.append(f"| {net} | " + " | ".join(cells) + " |")
    lines += ["", *(f"{number}. {sentence}" for number, sentence in enumerate(notes.sentences, 1))]
    return "\n".join(lines) + "\n"


PAGE_TEXT = """# Any net, by every split

How to measure again: `pip install -c constraints.txt -e '.[test]'`, `python benchmarks/any_net.py`; ended early, it \
goes on where it was. {machine}; the cells took {minutes:.0f} minutes together.

Each net is trained for {steps} steps in float64 by each way, on two ranks (hybrid 2 x 2: four) over gloo, and beside \
it in one process; model averaging, which meets every {every} steps, beside a sequential one in plain torch. The last \
batch of an epoch has five images, of which ranks have unequal parts. "=" is equal: the first gradient within 1e-10, \
and parameters and buffers after the last step, as one vector, within 1e-8 or ten times the net's own noise, relative. \
The number is the larger of the two differences. The noise is that of one process against itself with the images of \
each batch (of each replica's part, for averaging) in another order, measured where 1e-8 is passed. Nets that both \
have BatchNorm and draw are averaged without their draws. Refusals in brackets are those where there is no answer: \
BatchNorm and spectral norm by layers, images that mix, nothing to cut by neurons, no maps for regions. Nets with \
BatchNorm go by layers with GroupNorm in its place, too. Numbers lead to the sentences below.

{summary}

{table}"""


def page(table: Table) -> str:
    minutes = sum(cell.seconds for cell in table.values()) / 60
    return PAGE_TEXT.format(
        machine=machine(), minutes=minutes, steps=STEPS, every=EVERY, summary=summary(table), table=as_markdown(table)
    )


def machine() -> str:
    """This machine, in a few words."""
    model = platform.processor() or platform.machine()
    if (cpus := Path("/proc/cpuinfo")).exists():
        named = re.search(r"model name\s*:\s*(.+)", cpus.read_text())
        model = named[1] if named else model
    return f"{os.cpu_count()} cores of {model}, torch {torch.__version__.split('+')[0]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=NETS, metavar="NET", help=f"of {', '.join(NETS)}")
    parser.add_argument("--ways", nargs="+", choices=WAYS, metavar="WAY", help=f"of {', '.join(WAYS)}")
    asked = parser.parse_args()
    nets = [net for net in asked.only or NETS if HAS_TORCHVISION or not NETS[net].torchvision]
    ways = list(asked.ways or WAYS)
    if not HAS_TORCHVISION:
        print(
            "torchvision is missing, and so are its nets: pip install -c constraints.txt -e '.[test]'.", file=sys.stderr
        )
    table = measure_all(nets, ways)
    if set(nets) == set(NETS) and set(ways) == set(WAYS):
        PAGE.write_text(page(table))
        print(f"written: {PAGE.relative_to(ROOT)}")
    else:
        print(as_markdown(table))
    print(summary(table))
    return int(any(cell.state in ("wrong", "failed") for cell in table.values()))


if __name__ == "__main__":
    sys.exit(main())
