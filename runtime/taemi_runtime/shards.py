"""JSON lines in shards beside their file until a run is over: what is done survives whatever ends it.

``FILE.parts/`` holds ``part-00000.jsonl`` and so on, whose lines are those of ``FILE`` (see
``taemi_runtime.resume``); each is given to the system before the next is waited for. At the end they become
``FILE`` in the order of the inputs, in one step, and the shards go.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from taemi_runtime.atomic import atomic_file, explain_write
from taemi_runtime.errors import UsageError
from taemi_runtime.resume import Line

_LINES_A_SHARD = 10_000
_PATTERN = "part-*.jsonl"


def shard_folder(out: Path) -> Path:
    """Return where the shards of a file are."""
    return out.with_name(f"{out.name}.parts")


def fold_shards(out: Path) -> int:
    """Add to a file what an interrupted run left in shards, and remove these.

    Args:
        out: The file; it may be missing.

    Returns:
        How many lines were added. A last line that was cut off is dropped. Lines are added twice where this
        was cut off itself, which ``taemi_runtime.resume`` knows how to read.

    Raises:
        UsageError: The shards' folder holds something else.
        WriteError: The disk is full, or the place cannot be written to.
    """
    folder = shard_folder(out)
    added = 0
    if not folder.is_dir():
        return added
    shards = _shards_in(folder)
    with atomic_file(out) as part, part.open("wb") as stream:
        if out.exists():
            stream.write(out.read_bytes())
        for path in shards:
            *whole, _ = path.read_bytes().split(b"\n")
            stream.writelines(line + b"\n" for line in whole)
            added += len(whole)
    shutil.rmtree(folder, ignore_errors=True)
    return added


class Shards:
    """Takes lines, and makes them one file at the end.

    Args:
        out: That file.
        kept: So many of its last lines are of inputs of this run (see ``resume.take_up``), and those before
            them of others, which stay; ``None`` drops what the file holds.

    Raises:
        UsageError: The shards' folder holds something else.
        WriteError: They cannot be written there.
    """

    def __init__(self, out: Path, *, kept: int | None = None) -> None:
        self.out = out
        self.folder = shard_folder(out)
        self._kept = kept
        # Where each input's line is: shard and position, so that lines need not stay in memory.
        self._places: dict[int, tuple[Path, int]] = {}
        self._stream: BinaryIO | None = None
        self._path = self.folder
        self._lines = 0
        with explain_write(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in _shards_in(self.folder):
                path.unlink()

    def add(self, index: int, line: Line) -> None:
        """Write an input's line; of several the last counts.

        Raises:
            WriteError: The disk is full.
        """
        # Names that are no text stand as escapes, as the writers put them.
        text = json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n"
        with explain_write(self.folder):
            stream = self._shard()
            self._places[index] = self._path, stream.tell()
            stream.write(text.encode("utf-8", "backslashreplace"))
            stream.flush()
        self._lines += 1

    def merge(self) -> None:
        """Write the file, and remove the shards.

        Raises:
            WriteError: The disk is full; the shards are still there.
        """
        self.close()
        before: list[bytes] = []
        if self._kept is not None and self.out.exists():
            before = self.out.read_bytes().splitlines(keepends=True)
        with contextlib.ExitStack() as stack:
            part = stack.enter_context(atomic_file(self.out))
            stream = stack.enter_context(part.open("wb"))
            stream.writelines(self._in_order(stack, before))
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Leave the shards as they are."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _shard(self) -> BinaryIO:
        if self._stream is None or self._lines >= _LINES_A_SHARD:
            self.close()
            number = len(list(self.folder.glob(_PATTERN)))
            self._path = self.folder / f"part-{number:05d}.jsonl"
            self._stream = self._path.open("xb")
            self._lines = 0
        return self._stream

    def _in_order(self, stack: contextlib.ExitStack, before: list[bytes]) -> Iterator[bytes]:
        """Yield the lines of other inputs, then those of this run's in their order."""
        others = len(before) - (self._kept or 0)
        yield from before[:others]
        kept = {int(json.loads(line)["index"]): line for line in before[others:]}
        streams: dict[Path, BinaryIO] = {}
        for index in sorted({*kept, *self._places}):
            if index not in self._places:
                yield kept[index]
                continue
            path, start = self._places[index]
            if path not in streams:
                streams[path] = stack.enter_context(path.open("rb"))
            streams[path].seek(start)
            yield streams[path].readline()


def _shards_in(folder: Path) -> list[Path]:
    """Return a folder's shards in order; one that holds anything else is not ours to empty."""
    shards = sorted(folder.glob(_PATTERN))
    strangers = sorted(set(folder.iterdir()) - set(shards))
    if strangers:
        raise UsageError(
            f"cannot keep shards in {folder}",
            f"it holds {strangers[0].name}, which is no shard",
            "Give another --out",
        )
    return shards
