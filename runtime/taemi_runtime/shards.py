"""JSON lines in shards beside their file until a run is over: what is done survives whatever ends it.

``FILE.parts/`` holds ``part-00000.jsonl`` and so on. Each line stands for itself, says its input's position
and its key (see ``taemi_runtime.resume``), and is on its way to the disk before the next is waited for. At the
end the lines become ``FILE`` in the order of the inputs, in one step, and the shards go.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from taemi_runtime.atomic import atomic_file, explain_write
from taemi_runtime.errors import UsageError
from taemi_runtime.resume import Done, Line, Settings, read_done

_LINES_A_SHARD = 10_000
_PATTERN = "part-*.jsonl"


def shard_folder(out: Path) -> Path:
    """Return where the shards of a file are."""
    return out.with_name(f"{out.name}.parts")


class Shards:
    """Takes lines, and makes them one file at the end.

    Args:
        out: That file.
        resume: Whether shards of an earlier run are kept; they are removed otherwise.

    Raises:
        UsageError: The shards' folder holds something else.
        WriteError: They cannot be written there.
    """

    def __init__(self, out: Path, *, resume: bool) -> None:
        self.out = out
        self.folder = shard_folder(out)
        # Where each input's line is: shard and position, so that lines need not stay in memory.
        self._places: dict[int, tuple[Path, int]] = {}
        self._stream: BinaryIO | None = None
        self._path = self.folder
        self._lines = 0
        with explain_write(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            strangers = sorted(set(self.folder.iterdir()) - set(self.folder.glob(_PATTERN)))
            if strangers:
                raise UsageError(
                    f"cannot keep shards in {self.folder}",
                    f"it holds {strangers[0].name}, which is no shard",
                    "Give another --out",
                )
            if not resume:
                for path in self.folder.glob(_PATTERN):
                    path.unlink()

    def done(self, settings: Settings) -> Done:
        """Return what earlier runs did: the lines of their file and of its shards, each clip's once.

        Raises:
            UsageError: They hold something else, or lines with other settings.
        """
        found = [read_done(path, settings) for path in (self.out, *sorted(self.folder.glob(_PATTERN)))]
        return Done([line for done in found for line in done.lines], any(done.torn for done in found))

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
        with atomic_file(self.out) as part, part.open("wb") as stream:
            for line in self._in_order():
                stream.write(line)
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Leave the shards as they are; an earlier run's are then still there, too."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        elif not self._places and self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _shard(self) -> BinaryIO:
        if self._stream is None or self._lines >= _LINES_A_SHARD:
            if self._stream is not None:
                self._stream.close()
            taken = sorted(self.folder.glob(_PATTERN))
            number = int(taken[-1].stem.removeprefix("part-")) + 1 if taken else 0
            self._path = self.folder / f"part-{number:05d}.jsonl"
            self._stream = self._path.open("xb")
            self._lines = 0
        return self._stream

    def _in_order(self) -> Iterator[bytes]:
        streams: dict[Path, BinaryIO] = {}
        try:
            for index in sorted(self._places):
                path, start = self._places[index]
                if path not in streams:
                    streams[path] = path.open("rb")
                streams[path].seek(start)
                yield streams[path].readline()
        finally:
            for stream in streams.values():
                stream.close()
