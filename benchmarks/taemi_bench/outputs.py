"""The files that a run leaves: refused before anything is measured, each written whatever befalls another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from taemi_bench.report import Report, write_report
from taemi_runtime.errors import MissingExtraError, TaemiError, UsageError
from taemi_runtime.output import require_writable


@dataclass(frozen=True)
class Outputs:
    """Which files are written.

    Args:
        json: Everything, every sample included.
        markdown: The tables and notes.
        csv: One line for each row, and for each row at each point of a sweep.
        html: A self-contained page with pictures.
    """

    json: Path | None = None
    markdown: Path | None = None
    csv: Path | None = None
    html: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Every file, in the order of writing: the one that the others can be made from comes first."""
        return tuple(path for path in (self.json, self.markdown, self.csv, self.html) if path is not None)

    def check(self) -> None:
        """Refuse now what could not be written after the measurement.

        Raises:
            UsageError: A file cannot be written, or two options name the same one.
            MissingExtraError: The page's pictures need a package that is not installed.
        """
        for path in self.paths:
            if [other.absolute() for other in self.paths].count(path.absolute()) > 1:
                raise UsageError(f"cannot write {path}", "two options name it", "Name a file for each")
            require_writable(path)
        if self.html is not None:
            from taemi.pictures import pictures_fault

            if pictures_fault():
                raise MissingExtraError(
                    f"cannot write {self.html}",
                    "its pictures are drawn by matplotlib, which is not installed",
                    'pip install "taemi[bench]", or leave --html out',
                )

    def write(self, report: Report) -> tuple[Path, ...]:
        """Write every file and return them.

        Raises:
            TaemiError: One could not be written; the others are there.
        """
        from taemi_bench.flat_csv import write_csv
        from taemi_bench.page import write_page
        from taemi_bench.tables import write_markdown

        writers: list[tuple[Path | None, Callable[[Path, Report], None]]] = [
            (self.json, write_report),
            (self.markdown, write_markdown),
            (self.csv, write_csv),
            (self.html, write_page),
        ]
        failed: TaemiError | None = None
        for path, write in writers:
            if path is None:
                continue
            try:
                write(path, report)
            except TaemiError as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return self.paths
