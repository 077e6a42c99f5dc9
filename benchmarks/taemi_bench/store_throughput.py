"""How fast a feature store goes through an engine, beside the engine alone and the reading alone.

Every round takes some clips of the store and times three things over the same clips, in an order that
changes from round to round, so that whatever else the machine does meets all three alike:

* ``engine``: batches that lie in memory already, in the element type that the engine takes;
* ``read``: the whole way without the engine: files are opened, checked and read into batches;
* ``whole``: what the command does, up to the last JSON line.

The share is that of ``whole`` in the slower of the other two. Files are in the system's cache, unless they
are dropped from it before each timing.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from taemi_bench.machine import Machine, Noise, judge_noise, read_activity, read_machine
from taemi_runtime.console import Tick
from taemi_runtime.contract import SCORES
from taemi_runtime.engine import Engine, EngineOptions
from taemi_runtime.errors import DataError, UsageError
from taemi_runtime.feature_files.done import Done
from taemi_runtime.feature_files.find import FeatureInput, Features
from taemi_runtime.feature_files.layout import FeatureFacts
from taemi_runtime.feature_files.planning import plan_batches
from taemi_runtime.feature_files.reading import open_features
from taemi_runtime.feature_files.scorer import FeatureScorer
from taemi_runtime.feature_files.slots import Slot, common_sizes
from taemi_runtime.feature_files.store import FeatureStoreWriter
from taemi_runtime.feature_files.stream import FeatureStream
from taemi_runtime.feature_files.wanted import WantedInput
from taemi_runtime.results import ClipFailure
from taemi_runtime.spec import Array, Arrays
from taemi_runtime.writers import JsonLinesWriter

ROWS = ("engine", "read", "whole")
# Drawn clips have between this share of the longest length and all of it: 2 to 12 s.
_SHORTEST = 2 / 12


@dataclass(frozen=True)
class StoreReport:
    """What was measured.

    Args:
        engine: The engine file.
        backend: What ran it.
        precision: What it ran in.
        device: Where.
        threads: Threads inside a call.
        batch: Clips a call.
        clips: Clips of the store.
        clips_a_round: Clips that every round times.
        bytes_a_clip: Mean size of a file.
        cold: Whether files were dropped from the system's cache before each timing.
        clips_a_second: Every round's rate by row.
        medians: Their medians.
        share: Median over the rounds of ``whole`` by the slower of the other two.
        machine: Where it was measured.
        noise: What else the machine did meanwhile.
    """

    engine: str
    backend: str
    precision: str
    device: str
    threads: int
    batch: int
    clips: int
    clips_a_round: int
    bytes_a_clip: float
    cold: bool
    clips_a_second: dict[str, list[float]] = field(default_factory=dict)
    medians: dict[str, float] = field(default_factory=dict)
    share: float = 0.0
    machine: Machine | None = None
    noise: Noise | None = None


def measure_store(
    scorer: FeatureScorer,
    features: Features,
    *,
    rounds: int,
    clips: int,
    cold: bool = False,
    progress: Tick | None = None,
) -> StoreReport:
    """Measure a store.

    Args:
        scorer: The engine.
        features: The store's clips.
        rounds: How often everything is timed.
        clips: Clips a round.
        cold: Whether files are dropped from the system's cache before each timing; needs a disk.
        progress: Called with (step, done, total).

    Raises:
        DataError: A clip of the store cannot be scored.
    """
    stream = scorer.stream
    info = stream.engine.info
    clips = min(clips, len(features.inputs))
    rates: dict[str, list[float]] = {row: [] for row in ROWS}
    rng = np.random.default_rng(0)
    before = read_activity()
    for number in range(rounds + 1):
        if progress is not None:
            progress("timing rounds", number, rounds + 1)
        chosen = [features.inputs[place] for place in sorted(rng.choice(len(features.inputs), clips, False))]
        batches = list(_assemble(stream, chosen))
        timed: dict[str, Callable[[], None]] = {
            "engine": lambda batches=batches: _run_engine(stream, batches),  # type: ignore[misc]
            "read": lambda chosen=chosen: _read(stream, chosen),  # type: ignore[misc]
            "whole": lambda chosen=chosen: _score(scorer, features, chosen),  # type: ignore[misc]
        }
        for row in ROWS[number % 3 :] + ROWS[: number % 3]:
            if cold and row != "engine":
                _drop(chosen)
            start = time.perf_counter()
            timed[row]()
            # The first round warms up.
            if number:
                rates[row].append(clips / (time.perf_counter() - start))
    noise = judge_noise(before, read_activity(), os.cpu_count() or 1)
    shares = [
        whole / min(engine, read)
        for engine, read, whole in zip(rates["engine"], rates["read"], rates["whole"], strict=True)
    ]
    return StoreReport(
        engine=Path(info.path).name,
        backend=info.backend,
        precision=info.precision,
        device=info.device,
        threads=info.threads,
        batch=stream.batch,
        clips=len(features.inputs),
        clips_a_round=clips,
        bytes_a_clip=statistics.fmean(item.path.stat().st_size for item in features.inputs),
        cold=cold,
        clips_a_second={row: [round(rate, 2) for rate in found] for row, found in rates.items()},
        medians={row: round(statistics.median(found), 2) for row, found in rates.items()},
        share=round(statistics.median(shares), 4),
        machine=read_machine(),
        noise=noise,
    )


def draw_store(
    folder: Path, scorer: FeatureScorer, clips: int, longest: dict[str, int], progress: Tick | None = None
) -> None:
    """Write a store of random features, as wide as an engine takes them.

    A clip has one share of the longest length, drawn evenly from 2/12 to 1, for all of its sequences.

    Args:
        folder: The store.
        scorer: The engine.
        clips: How many.
        longest: The longest sequence by input name; what the engine takes where it is not said.
        progress: Called with (step, done, total).

    Raises:
        UsageError: There is no such sequence.
        DataError: The folder holds something else.
    """
    known = {item.name: item for item in scorer.stream.wanted if item.is_sequence}
    unknown = sorted(set(longest) - set(known))
    if unknown:
        raise UsageError(
            f"cannot draw sequences {', '.join(unknown)}",
            f"the engine takes {', '.join(known)}",
            "Give --longest INPUT=N for one of these",
        )
    rng = np.random.default_rng(0)
    # Drawing takes longer than writing: clips are cut from one long draw at random places.
    noise = rng.standard_normal(1 << 22, dtype=np.float32).astype(np.float16)
    with FeatureStoreWriter(folder, scorer.origin, scorer.preprocessing) as writer:
        for number in range(clips):
            if progress is not None:
                progress("writing clips", number, clips)
            name, digest = f"{number:06}", f"{number:064x}"
            share = rng.uniform(_SHORTEST, 1)
            if writer.find(name, digest) is None:
                arrays = {item.name: _cut(noise, item, longest, share, rng) for item in scorer.stream.wanted}
                writer.add(name, arrays, FeatureFacts(name, 12 * share, digest))


def _cut(
    noise: Array, item: WantedInput, longest: dict[str, int], share: float, rng: np.random.Generator
) -> Array:
    most = longest.get(item.name) or item.fixed or item.most or 1
    rows = max(1, round(share * most)) if item.is_sequence else 1
    start = int(rng.integers(0, noise.size - rows * item.width))
    values = noise[start : start + rows * item.width]
    return values.reshape(rows, item.width) if item.is_sequence else values


def _assemble(stream: FeatureStream, inputs: Sequence[FeatureInput]) -> Iterator[dict[str, Array]]:
    """Read every batch as the stream would, into memory of its own."""
    halves = frozenset(name for name, dtype in stream.engine.info.inputs.items() if dtype == "float16")
    for part in plan_batches(enumerate(inputs), stream.wanted, stream.batch):
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open_features(item.path, stream.wanted)) for _, item in part]
            layout = Slot(stream.wanted, halves).lay_out(files, common_sizes(files, stream.wanted))
            for row, file in enumerate(files):
                layout.fill_row(row, file)
            yield layout.arrays


def _run_engine(stream: FeatureStream, batches: Sequence[Arrays]) -> None:
    """Run batches that are there, as many at a time as the stream has under way."""
    with ThreadPoolExecutor(stream.calls) as executor:
        for _ in executor.map(lambda batch: stream.engine.run(batch, check_values=False), batches):
            pass


class _NoEngine:
    """An engine that gives zeros at once."""

    def __init__(self, engine: Engine) -> None:
        self.spec = engine.spec
        self.info = engine.info
        self.padded_lengths = engine.padded_lengths
        self._width = next(item.shape[-1] for item in engine.spec.outputs if item.name == SCORES)

    def run(self, inputs: Arrays, *, check_values: bool = True) -> dict[str, Array]:
        del check_values
        rows = len(next(iter(inputs.values())))
        return {SCORES: np.zeros((rows, int(self._width)), np.float32)}


def _read(stream: FeatureStream, inputs: Sequence[FeatureInput]) -> None:
    without = FeatureStream(cast(Engine, _NoEngine(stream.engine)), Path(), batch=stream.batch)
    for done in without.run(inputs):
        _require(done)


def _require(done: Done) -> None:
    if isinstance(done.scored, Exception):
        raise DataError("cannot measure the store", str(done.scored)) from done.scored


def _score(scorer: FeatureScorer, features: Features, inputs: Sequence[FeatureInput]) -> None:
    with Path(os.devnull).open("w") as stream:
        writer = JsonLinesWriter(stream, scorer.labels, len(inputs))
        for index, outcome in scorer.score_found(Features(list(inputs), features.stores)):
            if isinstance(outcome, ClipFailure):
                raise DataError("cannot measure the store", outcome.message)
            writer.add(index, outcome)


def _drop(inputs: Sequence[FeatureInput]) -> None:
    """Ask the system to forget files that it has written to disk already."""
    for item in inputs:
        with item.path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def open_scorer(bundle: Path, device: str, threads: int, batch: int | None) -> FeatureScorer:
    """Open what is measured; see ``FeatureScorer``."""
    return FeatureScorer(bundle, options=EngineOptions(device=device, threads=threads), batch=batch)
