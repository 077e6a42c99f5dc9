"""What rows cost in memory: each is opened alone in a process of its own, which makes one call.

One process per run reads the checkpoint and imports the libraries once (``memory_child``); a fork of it opens
one row. So libraries are paid for once, and no row is charged with them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from taemi_bench.row_report import Memory
from taemi_runtime.spec import GraphSpec

ROW_SECONDS = 60.0


@dataclass(frozen=True)
class MemoryJob:
    """What a process needs to know to open the rows of a bundle.

    Args:
        bundle: The bundle's folder.
        checkpoint: The checkpoint that it was made from; empty where there is none.
        attention: Whether the checkpoint is opened with its attention.
        threads: Threads of every row on the CPU.
        devices: The devices that have rows.
        sizes: Length of the free axes by graph.
    """

    bundle: str
    checkpoint: str
    attention: bool
    threads: int
    devices: tuple[str, ...]
    sizes: dict[str, dict[str, int]]


class MemoryMeter:
    """Measures rows one after the other; a context, whose process ends with it.

    Args:
        job: The bundle and how its rows are opened.
        seconds: How long all rows together may take; what is not measured by then is not.
    """

    def __init__(self, job: MemoryJob, seconds: float = 120.0) -> None:
        self._job = job
        self._left = seconds
        self._seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._why = "" if sys.platform == "linux" else "it is read from /proc, which only Linux has"

    def measure(self, graph: str, row: str) -> Memory:
        """Open a row of a graph in a process of its own and make one call.

        Args:
            graph: The graph.
            row: The row's name.

        Returns:
            What it took; ``note`` where it could not be measured.
        """
        if self._why:
            return Memory(note=self._why)
        start = time.monotonic()
        try:
            found = self._ask(graph, row)
        except (OSError, ValueError) as error:
            self._why = f"the process that measures memory ended ({error or type(error).__name__})"
            return Memory(note=self._why)
        finally:
            self._left -= time.monotonic() - start
        if self._left <= 0:
            self._why = f"the {self._seconds:g} s for all rows' memory were spent"
            self.close()
        return Memory(found.get("host_bytes"), found.get("device_bytes"), None, str(found.get("note", "")))

    def _ask(self, graph: str, row: str) -> dict[str, Any]:
        if self._process is None:
            self._process = self._start()
        requests, answers = self._pipes(self._process)
        seconds = min(ROW_SECONDS, self._left)
        requests.write(json.dumps({"graph": graph, "row": row, "seconds": seconds}) + "\n")
        requests.flush()
        answer = answers.readline()
        if not answer:
            raise OSError("it gave no answer")
        return dict(json.loads(answer))

    def _start(self) -> subprocess.Popen[str]:
        # One thread until the fork: threads of a pool do not survive it, and what waits for them hangs.
        settings = {
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "taemi_bench.memory_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | settings | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        requests, _ = self._pipes(process)
        requests.write(json.dumps(self._job.__dict__) + "\n")
        return process

    @staticmethod
    def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
        if process.stdin is None or process.stdout is None:
            raise OSError("it has no pipes")
        return process.stdin, process.stdout

    def close(self) -> None:
        """End the process; closing twice does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        with process:
            process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def engine_bytes(folder: Path, file: str) -> int | None:
    """Return the size of an engine file with its external data; ``None`` where there is no file.

    Args:
        folder: The bundle.
        file: The engine file's name.
    """
    path = folder / file
    if not file or not path.is_file():
        return None
    # ``NAME.onnx.data`` and ``NAME.onnx_data`` are what PyTorch's exporter and onnx call it.
    return sum(part.stat().st_size for part in (path, *path.parent.glob(f"{path.name}?data")))


def job_for(
    folder: Path,
    graphs: Mapping[str, GraphSpec],
    checkpoint: Path | None,
    sizes: Mapping[str, Mapping[str, int]],
    threads: int,
    devices: Sequence[str],
) -> MemoryJob:
    """Describe a run for the process that measures memory.

    Args:
        folder: The bundle.
        graphs: Its graphs.
        checkpoint: Where the checkpoint lies.
        sizes: Lengths of the free axes by graph.
        threads: Threads of every row on the CPU.
        devices: The devices that have rows.
    """
    from taemi.exportable import has_attention

    return MemoryJob(
        bundle=str(folder.resolve()),
        checkpoint=str(checkpoint.resolve()) if checkpoint else "",
        attention=any(map(has_attention, graphs.values())),
        threads=threads,
        devices=tuple(devices),
        sizes={name: dict(lengths) for name, lengths in sizes.items()},
    )
