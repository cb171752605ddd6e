"""Published tables, measured again: one module a paper, with the table that it measured beside it as Markdown."""

from dlkit.papers.reproduction import NAMES, measured, measured_table, run

__all__ = ["NAMES", "measured", "measured_table", "run"]
