"""The record of an asynchronous run: what each server did in which order, from which the run can be had again."""

import os
import struct
import zlib
from collections.abc import Iterable, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

ROW = struct.Struct("<6q")
SUM = struct.Struct("<q")
BYTES = ROW.size + SUM.size  # of a row with its checksum


class Kind(IntEnum):
    BEGIN = 1
    JOIN = 2
    INSTALL = 3
    PUSH = 4


class Row(NamedTuple):
    """One thing that a server noted; what `a` to `d` are depends on its kind.

    BEGIN: a server begins life `who`, with the values of life a at version b (life -1: those of the experiment).
    JOIN: replica `who` learns from part a of b of the data.
    INSTALL: replica `who` began its step a with the values of server b that it had fetched: of life c at version d.
    PUSH: the push a of replica `who` was accepted, made after its step b.
    """

    kind: Kind
    who: int
    a: int = 0
    b: int = 0
    c: int = 0
    d: int = 0


def packed(rows: Iterable[Row], before: int = 0) -> tuple[bytes, int]:
    """Rows as they are on disk, and the last one's checksum. It is also of all rows before, the last of which had
    `before`, so that none can be missing.
    """
    content = []
    for row in rows:
        values = ROW.pack(*row)
        before = zlib.crc32(values, before)
        content += [values, SUM.pack(before)]
    return b"".join(content), before


class Record:
    """The rows of each server, in its order. Equal records are of runs that did the same.

    nbytes: of them on disk.
    """

    def __init__(self, servers: Sequence[Sequence[Row]]):
        self.servers = [list(rows) for rows in servers]

    def __repr__(self) -> str:
        return f"Record({len(self.servers)} servers, {sum(map(len, self.servers)):,} rows, {self.nbytes:,} bytes)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Record) and self.servers == other.servers

    __hash__ = None  # type: ignore[assignment]

    @property
    def nbytes(self) -> int:
        return BYTES * sum(map(len, self.servers))

    @property
    def pushes(self) -> list[int]:
        """The replica of each push, in the order of the first server."""
        return [row.who for row in self.servers[0] if row.kind == Kind.PUSH]

    @property
    def applied(self) -> list[list[tuple[int, int]]]:
        """(replica, number of its push) of what each server's values are made of: what a life has lost is left out."""
        made: list[list[tuple[int, int]]] = [[] for _ in self.servers]
        for pushes, rows in zip(made, self.servers, strict=True):
            for row in rows:
                if row.kind == Kind.BEGIN:
                    del pushes[row.b :]
                elif row.kind == Kind.PUSH:
                    pushes.append((row.who, row.a))
        return made

    def save(self, folder: Path) -> None:
        """Write a file for each server, as servers do themselves when they run in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, rows in enumerate(self.servers):
            path_of(folder, number).write_bytes(packed(rows)[0])

    @staticmethod
    def load(folder: Path, servers: int) -> "Record":
        """ValueError for a file that is not as servers wrote it: FileNotFoundError for one that is not there."""
        return Record([read_rows(path_of(folder, number)) for number in range(servers)])


def path_of(folder: Path, server: int) -> Path:
    return folder / f"arrivals-{server}.bin"


def read_rows(path: Path) -> list[Row]:
    """ValueError where a row does not match its checksum. A last one that was written in part is left out."""
    content = path.read_bytes()
    rows, before = [], 0
    for start in range(0, len(content) - len(content) % BYTES, BYTES):
        row = content[start : start + ROW.size]
        before = zlib.crc32(row, before)
        if SUM.unpack_from(content, start + ROW.size) != (before,):
            raise ValueError(f"{path} is damaged at row {start // BYTES:,}: a replay would be of another run.")
        kind, *numbers = ROW.unpack(row)
        rows.append(Row(Kind(kind), *numbers))
    return rows


class RecordWriter:
    """Adds rows to a server's file, each so that it is there if the process is killed. None of it for `path` None."""

    def __init__(self, path: Path | None):
        """What an earlier life of the server has written stays, but for a row that it did not finish."""
        self.rows: list[Row] = []
        self._file, self._sum = -1, 0
        if path is not None:
            if path.exists():
                self.rows = read_rows(path)
                self._sum = packed(self.rows)[1]
                os.truncate(path, BYTES * len(self.rows))
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __repr__(self) -> str:
        return f"RecordWriter({len(self.rows):,} rows)"

    def add(self, rows: Iterable[Row]) -> None:
        rows = list(rows)
        self.rows += rows
        if self._file >= 0:
            content, self._sum = packed(rows, self._sum)
            os.write(self._file, content)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
