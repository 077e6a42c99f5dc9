"""Feature files through an engine, as fast as the slower of disk and engine.

Every batch is one piece of work: open its files, read them into a slot, run the engine. A few threads do
such pieces side by side, so that some read while another computes. How many of them run the engine at a
time is limited: on a CPU to one, since a call uses every core; on a GPU to a few, each with a lane and a
stream of its own, so that the copies of one batch go up while another is computed. As a thread holds one
slot, and slots are used again, memory stays within a few batches however large the store is.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import resource
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from taemi_runtime.contract import SCORES
from taemi_runtime.crew import Crew
from taemi_runtime.engine import Engine
from taemi_runtime.errors import EngineError, TaemiError, UsageError
from taemi_runtime.feature_files.done import Done, Scored
from taemi_runtime.feature_files.find import FeatureInput
from taemi_runtime.feature_files.origin import CheckOrigin
from taemi_runtime.feature_files.planning import Indexed, plan_batches
from taemi_runtime.feature_files.reading import FeatureFile, open_features
from taemi_runtime.feature_files.slots import Layout, Slot, common_sizes
from taemi_runtime.feature_files.wanted import WantedInput, wanted_inputs
from taemi_runtime.host import usable_cores
from taemi_runtime.spec import Array
from taemi_runtime.stopwatch import Stopwatch, stopwatch

_log = logging.getLogger(__name__)

CPU_BATCH, GPU_BATCH = 8, 32
"""Clips a call where nobody says: more gain nothing there (docs/feature-stores.md has the figures)."""

# Integer graphs quantise by the range of a whole call, so that clips would change each other's scores.
_INTEGER = "int8"
# Calls of the engine at a time on a GPU: one computes, one copies, one is being filled.
_GPU_CALLS = 3
_CPU_CALLS = 1
# Threads that read while all calls are under way.
_READERS = 2
# Descriptors that are left for everything else.
_SPARE_FILES = 64


@dataclass
class _Row:
    index: int
    item: FeatureInput
    file: FeatureFile | None = None
    lengths: dict[str, int] = field(default_factory=dict)
    read_ms: float = 0.0
    error: Exception | None = None


class FeatureStream:
    """Runs feature files through an engine.

    Args:
        engine: The fusion graph's.
        path: What the user named as engine, for messages.
        batch: Clips a call; chosen by the engine's device when ``None``.
        check: What refuses features of other encoders, given a file's facts.

    Raises:
        BundleError: The graph is no fusion graph.
        UsageError: ``batch`` is more than the engine takes, or than files can be open at a time.
    """

    def __init__(
        self, engine: Engine, path: Path, *, batch: int | None = None, check: CheckOrigin | None = None
    ) -> None:
        self.engine = engine
        self.wanted: tuple[WantedInput, ...] = wanted_inputs(engine.spec, engine.info.limits, path)
        self._check = check
        on_gpu = engine.info.device.startswith("cuda")
        self.batch = self._choose_batch(batch, GPU_BATCH if on_gpu else CPU_BATCH)
        calls = _GPU_CALLS if on_gpu else _CPU_CALLS
        readers = _READERS if not on_gpu else max(_READERS, min(8, usable_cores() - calls))
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_FILES
        if self.batch > files:
            raise UsageError(
                f"cannot score {self.batch} feature files at a time",
                f"this process may open {files + _SPARE_FILES} files",
                "Give a smaller --batch, or raise the limit: ulimit -n",
            )
        self._threads = min(calls + readers, max(1, files // self.batch))
        self.calls = calls
        self._calls = threading.BoundedSemaphore(calls)

    def _choose_batch(self, asked: int | None, usual: int) -> int:
        rows = self.engine.spec.inputs[0].shape[0]
        most = self.engine.info.limits.get(rows) if isinstance(rows, str) else rows
        if self.engine.info.precision == _INTEGER:
            if asked is not None and asked > 1:
                _log.info("%s rounds by the range of a whole call: one clip a call", self.engine.info.path)
            return 1
        if asked is None:
            return usual if most is None else min(usual, most)
        if most is not None and asked > most:
            raise UsageError(
                f"cannot score {asked} clips a call",
                f"{self.engine.info.path} takes at most {most}",
                f"Give --batch {most} or less, or build it for more",
            )
        return asked

    def run(self, inputs: Iterable[FeatureInput]) -> Generator[Done]:
        """Score inputs, each batch as soon as it is done.

        Args:
            inputs: The feature files.

        Returns:
            For every input what became of it, not in order, but each within ``WINDOW_BATCHES`` batches of
            its place.
        """
        plan = plan_batches(enumerate(inputs), self.wanted, self.batch)
        halves = frozenset(name for name, dtype in self.engine.info.inputs.items() if dtype == "float16")
        slots: SimpleQueue[Slot] = SimpleQueue()
        for _ in range(self._threads):
            slots.put(Slot(self.wanted, halves))
        stop = threading.Event()
        with Crew[list[Done]](self._threads, "features") as crew:
            try:
                while True:
                    # One more than there are threads, so that none waits for this one.
                    for part in itertools.islice(plan, self._threads + 1 - crew.pending):
                        crew.give(partial(self._score_batch, part, slots, stop))
                    if not crew.pending:
                        return
                    yield from crew.take()
            finally:
                # Ctrl-C, or a caller that wants no more: what is being computed ends, nothing new begins.
                stop.set()

    def _score_batch(
        self, part: Sequence[Indexed], slots: SimpleQueue[Slot], stop: threading.Event
    ) -> list[Done]:
        slot = slots.get()
        try:
            rows = [_Row(index, item) for index, item in part]
            with contextlib.ExitStack() as stack:
                for row in rows:
                    self._open(row, stack)
                files = [row.file for row in rows if row.file is not None]
                if not files:
                    return [_done(row, {}, 0.0, 0.0) for row in rows]
                layout = slot.lay_out(files, self._sizes(files))
                there = [row for row in rows if row.file is not None]
                for place, row in enumerate(there):
                    if stop.is_set():
                        return []
                    self._read(row, layout, place)
            return self._compute(rows, there, layout, stop)
        finally:
            slots.put(slot)

    def _open(self, row: _Row, stack: contextlib.ExitStack) -> None:
        start = time.perf_counter()
        try:
            if row.item.error:
                raise UsageError(f"cannot read features from {row.item.path}", row.item.error)
            row.file = stack.enter_context(open_features(row.item.path, self.wanted))
            if self._check is not None:
                try:
                    self._check(row.file.facts, row.item)
                except TaemiError:
                    row.file = None
                    raise
        except Exception as error:  # one file, whatever is wrong with it, must not stop the others
            row.error = error
        row.read_ms = (time.perf_counter() - start) * 1e3

    def _sizes(self, files: Sequence[FeatureFile]) -> dict[str, int]:
        """Return the length of each sequence, padded as the engine would do it itself."""
        sizes = common_sizes(files, self.wanted)
        axes = {name: self.engine.spec.input(name).shape[1] for name in sizes}
        lengths = {axis: sizes[name] for name, axis in axes.items() if isinstance(axis, str)}
        rows = self.engine.spec.inputs[0].shape[0]
        if isinstance(rows, str):
            lengths[rows] = len(files)
        try:
            padded = self.engine.padded_lengths(lengths)
        except TaemiError:
            # No profile holds them together; what each clip alone can do is found out by running it.
            padded = lengths
        return {name: padded[axis] if isinstance(axis, str) else sizes[name] for name, axis in axes.items()}

    def _read(self, row: _Row, layout: Layout, place: int) -> None:
        start = time.perf_counter()
        assert row.file is not None
        try:
            row.lengths = layout.fill_row(place, row.file)
        except Exception as error:  # see _open
            layout.clear_row(place)
            row.error = error
        row.read_ms += (time.perf_counter() - start) * 1e3

    def _compute(
        self, rows: Sequence[_Row], there: Sequence[_Row], layout: Layout, stop: threading.Event
    ) -> list[Done]:
        good = {id(row): place for place, row in enumerate(there) if row.error is None}
        outputs: dict[str, Array] = {}
        spent = Stopwatch()
        if good:
            with self._calls:
                if stop.is_set():
                    return []
                with stopwatch() as spent:
                    # Every number was looked at when it was read.
                    try:
                        outputs = self.engine.run(layout.arrays, check_values=False)
                    except Exception as error:  # of all rows, or of one that spoils the call for the others
                        self._compute_alone(there, layout, outputs, error)
        shares_ms = (spent.ms / max(1, len(good)), spent.wall_ms / max(1, len(good)))
        return [
            _done(row, {name: values[good[id(row)]] for name, values in outputs.items()}, *shares_ms)
            if id(row) in good
            else _done(row, {}, 0.0, 0.0)
            for row in rows
        ]

    def _compute_alone(
        self, there: Sequence[_Row], layout: Layout, outputs: dict[str, Array], why: Exception
    ) -> None:
        """Run a batch that failed row by row, so that only those fail that cannot be run."""
        for place, row in enumerate(there):
            if row.error is not None:
                continue
            if len(there) == 1:
                row.error = why
                return
            try:
                found = self.engine.run(layout.row(place), check_values=False)
            except Exception as error:  # see _compute
                row.error = error
                continue
            for name, values in found.items():
                if name not in outputs:
                    outputs[name] = np.zeros((len(there), *values.shape[1:]), values.dtype)
                outputs[name][place] = values[0]


def _done(row: _Row, outputs: dict[str, Array], engine_ms: float, wall_ms: float) -> Done:
    if row.error is not None:
        return Done(row.index, row.item, row.error)
    assert row.file is not None
    scores = outputs[SCORES]
    if not np.isfinite(scores).all():
        error = EngineError(
            f"cannot use the scores of {row.item.path}",
            f"they are not finite: {scores.tolist()}",
            "Check the engine: taemi-export verify BUNDLE",
        )
        return Done(row.index, row.item, error)
    return Done(
        row.index,
        row.item,
        Scored(row.file.facts, row.lengths, outputs, row.read_ms, engine_ms, row.read_ms + wall_ms),
    )
