"""What is measured beside the graphs from host to host: further scopes, then sweeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from taemi_bench.callers import AXIS as CALLERS
from taemi_bench.callers import callers_sweep
from taemi_bench.chain_sweeps import (
    RATE,
    SpokenClip,
    feature_presence,
    file_presence,
    labelled_rates,
    rate_sweep,
)
from taemi_bench.chains import Chain, open_chains, reference_of, running
from taemi_bench.clip_scope import ClipCalls, clip_schedule, clip_scope, file_name, no_clip_scope, with_rho
from taemi_bench.device_scope import device_scope
from taemi_bench.feature_scope import feature_scope
from taemi_bench.graph_sweeps import PRESENCE, axes_of, items_of, length_sweep, presence_sweep
from taemi_bench.measured import Judge, Tick
from taemi_bench.row_report import RowReport
from taemi_bench.rows import Row
from taemi_bench.schedule import Schedule
from taemi_bench.scope_report import ScopeReport, SweepReport
from taemi_bench.scopes import Scope, measure_scope
from taemi_bench.setting import SEED, Setting
from taemi_bench.sweep import INTERRUPTED, Sweep, measure_sweep
from taemi_bench.timer import describe_failure
from taemi_runtime.bundle import Bundle
from taemi_runtime.draw import draw_inputs
from taemi_runtime.errors import TaemiError, UsageError
from taemi_runtime.spec import Arrays
from taemi_runtime.whole_way import WholeModel, words_beside

ALL, NONE = "all", "none"
BuildRows = Callable[[str, Arrays, Sequence[str]], list[Row]]
"""Opens the rows of a graph on devices: PyTorch eager float32, and the bundle's engines."""
MakeJudge = Callable[[str, Arrays], Judge | None]
"""Returns what compares a graph's rows with PyTorch on certain inputs."""


@dataclass(frozen=True)
class Further:
    """What else is measured.

    Args:
        clips: Clips, from file to scores.
        sweeps: Axes, as ``SYMBOL``, ``GRAPH.SYMBOL``, ``presence``, ``callers`` or ``max_fps``; or ``all``,
            or ``none``.
        data: Labelled clips, for the correlation beside ``max_fps``.
    """

    clips: tuple[Path, ...] = ()
    sweeps: tuple[str, ...] = (NONE,)
    data: Path | None = None

    def wants(self, axis: str, graph: str = "") -> bool:
        """Return whether an axis is to be swept."""
        return any(name in (ALL, axis, f"{graph}.{axis}") for name in self.sweeps)


@dataclass
class Found:
    """What was measured so far.

    Args:
        scopes: What the rows of each scope have in common.
        rows: Every row.
        sweeps: The sweeps.
        cut: Whether Ctrl-C ended it.
    """

    scopes: list[ScopeReport] = field(default_factory=list)
    rows: list[RowReport] = field(default_factory=list)
    sweeps: list[SweepReport] = field(default_factory=list)
    cut: bool = False


def check_further(further: Further, bundle: Bundle, graphs: Sequence[str]) -> None:
    """Refuse what does not exist before anything is measured.

    Args:
        further: What was asked for.
        bundle: The bundle.
        graphs: The graphs that are measured.

    Raises:
        UsageError: No graph has such an axis, or there is no such clip or folder.
        MediaError: What lies beside a clip as its words is no text.
    """
    axes = {name: axes_of(bundle.manifest.graphs[name]) for name in graphs}
    known = [ALL, NONE, *(axis for some in axes.values() for axis in some), CALLERS, RATE]
    known += [f"{name}.{axis}" for name, some in axes.items() for axis in some]
    for name in further.sweeps:
        if name not in known:
            listed = ", ".join(dict.fromkeys(known))
            raise UsageError(f"cannot sweep {name}", "nothing has such an axis", f"Choose from: {listed}")
    for path in further.clips:
        if not path.is_file():
            raise UsageError(f"cannot measure clip {path}", "there is no such file", "Name a clip's file")
        words_beside(path)
    if further.data is not None and not further.data.is_dir():
        raise UsageError(
            f"cannot read labelled clips in {further.data}", "there is no such folder", "Name a corpus"
        )


@dataclass
class FurtherRun:
    """Measures what was asked for, one thing after the other.

    Args:
        setting: The bundle, its checkpoint, and where both run.
        further: What is measured.
        sizes: For each graph that is measured the chosen lengths of its free symbols; whole models are
            measured where the first graph is among them.
        schedule: How long each scope is measured.
        build: Opens the rows of a graph.
        judge: Returns what compares them.
        measured: The graphs' rows as they were measured, which say what a sweep will take.
        progress: Called with (what is measured, rounds done, rounds expected).
    """

    setting: Setting
    further: Further
    sizes: Mapping[str, Mapping[str, int]]
    schedule: Schedule
    build: BuildRows
    judge: MakeJudge
    measured: Sequence[RowReport] = ()
    progress: Tick | None = None
    found: Found = field(default_factory=Found)

    def run(self) -> Found:
        """Measure; after Ctrl-C what is finished is returned."""
        try:
            if self.setting.first.name in self.sizes:
                self._on_the_device()
                self._features()
                self._files()
            for name in self.sizes:
                self._graph_sweeps(name)
        except KeyboardInterrupt:
            self.found.cut = True
        return self.found

    def _on_the_device(self) -> None:
        devices = [device for device in self.setting.devices if device != "cpu"]
        if not devices:
            return
        spec = self.setting.first
        inputs = self._draw(spec.name)
        rows = self.build(spec.name, inputs, devices)
        sizes = spec.sizes(self.sizes[spec.name])
        self._measure(device_scope(spec, sizes, inputs, rows, self.judge(spec.name, inputs)), self.schedule)

    def _features(self) -> None:
        spec = self.setting.first
        chosen = self.sizes[spec.name]
        with open_chains(self.setting, WholeModel.open_first) as chains:
            self._measure(feature_scope(self.setting, chains, chosen), self.schedule)
            if self._sweeps_presence() and (some := running(chains)):
                self._sweep(feature_presence(spec, some, chosen))

    def _files(self) -> None:
        further = self.further
        rates = further.wants(RATE)
        if not further.clips:
            self._measure(no_clip_scope(self.setting), self.schedule)
        if not further.clips and not (rates and further.data):
            if rates:
                self.found.sweeps.append(
                    SweepReport(file_name(), RATE, why="no --clip and no --data was given")
                )
            return
        with open_chains(self.setting, WholeModel.open_all) as chains:
            self._clips(chains)
            some = running(chains)
            if not some:
                return
            if further.clips and self._sweeps_presence():
                clip = _spoken(further.clips[0])
                self._sweep(file_presence(self.setting.first, some, clip, self.found.rows))
            if rates:
                self._rates(some)

    def _clips(self, chains: Sequence[Chain]) -> None:
        clips = [ClipCalls(path) for path in self.further.clips]
        before = len(self.found.rows)
        try:
            for calls in clips:
                self._measure(clip_scope(self.setting, chains, calls), clip_schedule(self.schedule))
        finally:
            reference = reference_of(chains)
            if reference is not None:
                self.found.rows[before:] = with_rho(self.found.rows[before:], clips, reference.row.name)

    def _rates(self, chains: Sequence[Chain]) -> None:
        from taemi.evaluate.rates import RATES

        data, clips = self.further.data, self.further.clips
        try:
            labelled = labelled_rates(chains, RATES, data, self.progress) if data is not None else None
        except TaemiError as error:
            self.found.sweeps.append(SweepReport(file_name(), RATE, why=describe_failure(error)))
            return
        if clips:
            clip = _spoken(clips[0])
        elif labelled is not None:
            clip = SpokenClip(labelled.clip, labelled.words, file_name(labelled.clip))
        else:
            return
        self._sweep(rate_sweep(chains, clip, RATES, labelled))

    def _graph_sweeps(self, name: str) -> None:
        spec, chosen = self.setting.bundle.manifest.graphs[name], self.sizes[name]
        axes = [axis for axis in axes_of(spec) if self.further.wants(axis, name)]
        callers = name == self.setting.first.name and self.further.wants(CALLERS)
        if not axes and not callers:
            return
        # Rows that cannot run here have said so in their scope: they are in no sweep.
        inputs = self._draw(name)
        rows = self.build(name, inputs, self.setting.devices)
        some = [row for row in rows if row.run is not None]
        if not some:
            self.found.sweeps += [SweepReport(name, axis, why="none of its rows runs here") for axis in axes]
        ran = {row.name for row in some}
        call_seconds = sum(
            row.latency_ms.mean / 1e3
            for row in self.measured
            if row.scope == name and row.name in ran and row.latency_ms is not None
        )
        try:
            for axis in axes if some else ():
                if axis == PRESENCE:
                    self._sweep(presence_sweep(spec, chosen, some))
                else:
                    self._sweep(length_sweep(spec, chosen, spec.symbol(axis), some, call_seconds))
            if callers and some:
                full = spec.sizes(chosen)
                self._sweep(callers_sweep(name, full, some, items_of(spec, full), inputs))
        finally:
            for row in rows:
                row.close()

    def _sweeps_presence(self) -> bool:
        return self.setting.first.presence is not None and self.further.wants(
            PRESENCE, self.setting.first.name
        )

    def _draw(self, name: str) -> Arrays:
        spec = self.setting.bundle.manifest.graphs[name]
        return draw_inputs(spec, self.sizes[name], seed=SEED, ragged=False, poison=False)

    def _sweep(self, sweep: Sweep) -> None:
        report = measure_sweep(sweep, self.progress)
        self.found.sweeps.append(report)
        if INTERRUPTED in report.notes:
            raise KeyboardInterrupt

    def _measure(self, scope: Scope, schedule: Schedule) -> None:
        report, rows = measure_scope(scope, schedule, self.progress)
        self.found.scopes.append(report)
        self.found.rows += rows
        if report.stopped == INTERRUPTED:
            raise KeyboardInterrupt


def _spoken(path: Path) -> SpokenClip:
    return SpokenClip(path, words_beside(path), file_name(path))
