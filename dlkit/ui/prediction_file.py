"""What a reader has predicted in a notebook, kept in a JSON file beside it."""

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from dlkit.core.storage import read_json, write_json

ENDING = ".predictions.json"


@dataclass
class Record:
    """One prediction. sure: percent; was: what came out, None until that is shown; late: it was shown before."""

    question: str
    said: str
    sure: int
    late: bool = False
    was: str | None = None
    right: bool | None = None

    @property
    def counts(self) -> bool:
        """Whether it was made before the result was shown, and that has been shown since."""
        return self.right is not None and not self.late


class PredictionFile:
    """The records of one notebook by their keys. What cannot be written is kept until the kernel ends."""

    def __init__(self, notebook: str, folder: Path):
        self.path = folder / f"{notebook}{ENDING}"
        self.records = _read(self.path)
        self.is_written = True

    def keep(self, key: str, record: Record) -> None:
        """Put a record in the place of what was there, here and in the file."""
        self.records[key] = record
        content = {name: asdict(each) for name, each in self.records.items()}
        try:
            write_json(content, self.path)
            self.is_written = True
        except OSError:
            self.is_written = False

    def forget(self) -> None:
        """Delete the file and all records."""
        self.records.clear()
        self.path.unlink(missing_ok=True)

    def all_here(self) -> Iterator[Record]:
        """The records of all notebooks in this folder, this one's as they are now."""
        yield from self.records.values()
        for path in sorted(self.path.parent.glob(f"*{ENDING}")):
            if path != self.path:
                yield from _read(path).values()


def _read(path: Path) -> dict[str, Record]:
    """The records in a file. One that holds something else is put aside with a warning, so that nothing is lost."""
    try:
        return {key: Record(**fields) for key, fields in read_json(path).items()}
    except OSError:  # there is none yet
        return {}
    except (ValueError, TypeError, AttributeError):
        aside = path.with_suffix(".damaged")
        try:
            path.replace(aside)
        except OSError:
            aside = path
        warnings.warn(
            f"{path.name} does not hold predictions: it is kept as {aside.name}, and a new one is begun.", stacklevel=4
        )
        return {}
