"""Rows: the same scope, on the same inputs, run by different engines; and which of them are measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from taemi_bench.timer import describe_failure
from taemi_runtime.errors import DeviceError, MissingExtraError, UsageError
from taemi_runtime.spec import Array, Arrays
from taemi_runtime.stopwatch import SplitMs

PYTORCH = "pytorch"


@dataclass
class Row:
    """One way to run one scope, opened.

    Args:
        name: What it is called in tables, e.g. ``ONNX Runtime CPU fp32``.
        backend: ``pytorch``, ``openvino`` or a registered backend's name.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        scope: The scope that one call computes, e.g. the graph's name.
        device: ``cpu`` or ``cuda:N``.
        run: One call on fixed inputs; ``None`` when the row cannot run here.
        to_arrays: Turns what ``run`` returned into arrays by output name.
        synchronise: Waits for work that ``run`` only queued.
        threads: Threads inside one call; 0 where that means nothing.
        file: The engine file; empty for PyTorch.
        versions: Versions of the libraries underneath.
        why: Why it cannot run here.
        failed: Whether ``why`` is a failure of something that should have run, and not a package or
            device that is not there.
        close: Frees what the row holds.
        load_ms: How long it took to open: reading, optimising, compiling ahead of the first call.
        tf32: Whether float32 products may round to TF32; ``None`` where the device has none.
        splits: Where each call so far spent its time, of rows that can tell: ``run`` adds to it.
        weight_bytes: Weights that the row uses where they lay before it was opened.
        bind: Returns one call on other inputs, without opening anything again; ``None`` where the row is for
            its inputs alone.
        bind_resident: Likewise with inputs that lie on the device and outputs that stay there; ``None`` on a
            CPU.
    """

    name: str
    backend: str
    precision: str
    scope: str
    device: str
    run: Callable[[], Any] | None = None
    to_arrays: Callable[[Any], dict[str, Array]] = field(default=dict)
    synchronise: Callable[[], None] | None = None
    threads: int = 0
    file: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    why: str = ""
    failed: bool = False
    close: Callable[[], None] = field(default=lambda: None)
    load_ms: float | None = None
    tf32: bool | None = None
    splits: list[SplitMs] = field(default_factory=list)
    weight_bytes: int = 0
    bind: Callable[[Arrays], Callable[[], Any]] | None = None
    bind_resident: Callable[[Arrays], Callable[[], Any]] | None = None


@dataclass(frozen=True)
class Way:
    """A row that nobody has opened yet.

    Args:
        row: What is known of it before; ``why`` where it cannot run here.
        open: Fills the row in: at least ``run``, or ``why``. What it raises becomes ``why``.
        slow: Why it is left out unless somebody asks for it; empty for a row that is not.
    """

    row: Row
    open: Callable[[Row], None] | None = None
    slow: str = ""

    @property
    def name(self) -> str:
        """What the row is called."""
        return self.row.name

    def renamed(self, name: str) -> Way:
        """Return the same way under another name."""
        return replace(self, row=replace(self.row, name=name))


@dataclass(frozen=True)
class RowChoice:
    """Which rows are measured, by words in their names (capital or small letters).

    Args:
        rows: Only rows with one of these words, slow ones too; all that are not slow when empty.
        without: No row with one of these.
        also: Slow rows with one of these, too.
    """

    rows: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    def why_not(self, way: Way) -> str:
        """Return why a row is left out; empty when it is measured."""
        if self.without and _has(way.name, self.without):
            return "left out by --without"
        if self.rows:
            return "" if _has(way.name, self.rows) else "left out by --rows"
        # What cannot run here at all says that, and not that nobody asked for it.
        return "" if not way.slow or way.row.why or _has(way.name, self.also) else way.slow

    def check(self, names: Sequence[str]) -> None:
        """Refuse words that stand in no row's name.

        Raises:
            UsageError: Names the word and the rows.
        """
        for option, words in (("rows", self.rows), ("without", self.without), ("with", self.also)):
            for word in words:
                if not any(_has(name, (word,)) for name in names):
                    raise UsageError(
                        f"cannot use --{option} {word}",
                        "no row has that in its name",
                        f"The rows are: {', '.join(dict.fromkeys(names))}",
                    )


def open_rows(
    ways: Sequence[Way], choice: RowChoice, progress: Callable[[str, int, int], None] | None = None
) -> list[Row]:
    """Open what is to be measured; a row that is left out or cannot run here says why.

    Args:
        ways: Every row that there may be.
        choice: Which of them are measured.
        progress: Called before a row that takes long with its name, the rows done and all rows.
    """
    rows: list[Row] = []
    try:
        for way in ways:
            why = choice.why_not(way)
            if progress is not None and way.slow and not (why or way.row.why):
                progress(way.name, len(rows), len(ways))
            rows.append(open_row(way, why))
    except KeyboardInterrupt:
        for row in rows:
            row.close()
        raise
    return rows


def open_row(way: Way, why: str = "") -> Row:
    """Open one row.

    Args:
        way: The row.
        why: Why it is left out, where it is.
    """
    row = replace(way.row)
    row.why = why or row.why
    if row.why or way.open is None:
        return row
    try:
        way.open(row)
    # A benchmark of many engines is not lost because one of them does not open: the row says what broke.
    except Exception as error:
        row.run, row.why = None, describe_failure(error)
        row.failed = not isinstance(error, MissingExtraError | DeviceError)
    return row


def distinct(ways: Sequence[Way]) -> list[Way]:
    """Tell rows of one name apart by their files."""
    names = [way.name for way in ways]
    return [way.renamed(f"{way.name}, {way.row.file}") if names.count(way.name) > 1 else way for way in ways]


def _has(name: str, words: Sequence[str]) -> bool:
    return any(word.lower() in name.lower() for word in words)
