"""One check, in the process that it has for itself: `python -m gpu_check.one module:function device seconds file`.

The function is given a `Setting` and gives the check's parts. A line of JSON goes to the file when a part begins, when
it has ended, and when all have: so it is known where a process was that died or hung.
"""

import importlib
import json
import sys
import time
import traceback
from typing import Any, TextIO

from gpu_check.setting import Setting, Skipped


def main(parts: str, device: str, seconds: str, file: str) -> None:
    module, function = parts.split(":")
    with open(file, "w", buffering=1, encoding="utf-8") as lines:
        for name, part in getattr(importlib.import_module(module), function)(Setting(device, float(seconds))):
            write(lines, {"name": name, "outcome": "begun"})
            begun = time.perf_counter()
            row = {"name": name, "outcome": "passed", "measured": "", "why": "", "details": ""}
            try:
                row["measured"] = part() or ""
            except Skipped as reason:
                row |= {"outcome": "skipped", "why": str(reason)}
            except Exception as error:
                why = f"{type(error).__name__}: {(str(error).strip() or 'no words').splitlines()[0]}"
                row |= {"outcome": "failed", "why": why, "details": traceback.format_exc()}
            write(lines, row | {"seconds": round(time.perf_counter() - begun, 2)})
        write(lines, {"name": "", "outcome": "end"})


def write(lines: TextIO, row: dict[str, Any]) -> None:
    lines.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
