"""The JavaScript of a widget as one text, which is what anywidget takes."""

import re
from pathlib import Path

IMPORT = re.compile(r'^import \{[^}]*\} from "\./([\w.]+)";\n', re.MULTILINE)


def bundled(path: Path) -> str:
    """The JavaScript module at `path`; each import from a file beside it is replaced by the text of that file."""
    return IMPORT.sub(
        lambda match: path.with_name(match[1]).read_text(encoding="utf-8"), path.read_text(encoding="utf-8")
    )
