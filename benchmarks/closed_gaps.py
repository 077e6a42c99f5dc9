"""Before and after of what was closed between the engines on a CPU and its floor (docs/benchmarks.md).

    python benchmarks/closed_gaps.py BUNDLE [--before BUNDLE] [--rounds N] [--json FILE]

Every change is undone for one of two rows that are timed in turn: attention as it was exported before (the
graphs of ``--before``, a bundle of the same checkpoint that an earlier version wrote), 16 frames in a call
instead of 4, and threads of the fusion graph that sleep between operators.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clip_ways import report
from taemi_bench.machine import judge_noise, read_activity, read_machine
from taemi_bench.rows import Row
from taemi_bench.schedule import default_schedule
from taemi_bench.stats import ratio_per_round
from taemi_bench.timer import interleave
from taemi_runtime.backends import onnxruntime_cpu
from taemi_runtime.contract import FUSION
from taemi_runtime.draw import draw_inputs
from taemi_runtime.encoding import FRAMES_A_CALL
from taemi_runtime.engine import Engine, EngineOptions
from taemi_runtime.host import usable_cores
from taemi_runtime.loading import open_model
from taemi_runtime.spec import Array, Arrays

AWAKE_US = onnxruntime_cpu.SPIN_US
FRAMES, FRAMES_BEFORE = FRAMES_A_CALL["cpu"], 16
PRECISIONS = {"fp32": "", "int8": ".int8"}
Call = Callable[[], dict[str, Array]]


@dataclass(frozen=True)
class _Gap:
    """What is compared.

    Args:
        name: What was changed.
        graph: In which graph.
        precision: Of which precision.
        before: A call without the change.
        after: A call with it.
    """

    name: str
    graph: str
    precision: str
    before: Call
    after: Call


def measure(bundle: Path, before: Path | None, rounds: int | None) -> dict[str, Any]:
    """Time every gap before and after.

    Args:
        bundle: The bundle.
        before: One of the same checkpoint from before attention was rewritten; without it that is left out.
        rounds: Fewest rounds of each comparison.
    """
    activity = read_activity()
    found = []
    for gap in _gaps(bundle, before):
        difference = max(
            float(np.abs(value - new).max())
            for value, new in zip(_values(gap.before), _values(gap.after), strict=True)
        )
        timing = interleave(
            [_row(gap, "before", gap.before), _row(gap, "after", gap.after)], default_schedule(rounds=rounds)
        )
        old, new = timing.rows
        ratio = ratio_per_round(old.round_medians_ms, new.round_medians_ms)
        found.append(
            {
                "gap": gap.name,
                "graph": gap.graph,
                "precision": gap.precision,
                "times_faster": asdict(ratio) if ratio else None,
                "largest_difference_of_outputs": difference,
                "before_ms": old.values_ms,
                "after_ms": new.values_ms,
            }
        )
    return {
        "machine": asdict(read_machine()),
        "noise": asdict(judge_noise(activity, read_activity(), usable_cores())),
        "bundle": bundle.name,
        "gaps": found,
    }


def _row(gap: _Gap, name: str, call: Call) -> Row:
    return Row(name, "onnxruntime-cpu", gap.precision, gap.graph, "cpu", run=call)


def _values(call: Call) -> list[Array]:
    return list(call().values())


def _gaps(bundle: Path, before: Path | None) -> Iterator[_Gap]:
    for precision in PRECISIONS:
        if before is not None:
            with _engine(before, "vision", precision) as old, _engine(bundle, "vision", precision) as new:
                pixels = draw_inputs(new.spec, {"frames": FRAMES})
                yield _Gap("attention", "vision", precision, _call(old, [pixels]), _call(new, [pixels]))
        with _engine(bundle, "vision", precision) as engine:
            frames = draw_inputs(engine.spec, {"frames": FRAMES_BEFORE})
            parts = [
                {name: array[start : start + FRAMES] for name, array in frames.items()}
                for start in range(0, FRAMES_BEFORE, FRAMES)
            ]
            yield _Gap(
                f"{FRAMES} frames a call instead of {FRAMES_BEFORE}",
                "vision",
                precision,
                _call(engine, [frames]),
                _call(engine, parts),
            )
        with (
            _engine(bundle, FUSION, precision, awake_us=0) as asleep,
            _engine(bundle, FUSION, precision) as awake,
        ):
            inputs = draw_inputs(awake.spec)
            yield _Gap(
                "threads stay awake", FUSION, precision, _call(asleep, [inputs]), _call(awake, [inputs])
            )


def _call(engine: Engine, parts: Sequence[Arrays]) -> Call:
    def call() -> dict[str, Array]:
        outputs = [engine.run(part) for part in parts]
        return {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}

    return call


@contextlib.contextmanager
def _engine(bundle: Path, graph: str, precision: str, *, awake_us: int = AWAKE_US) -> Iterator[Engine]:
    file = bundle / f"{FUSION}{PRECISIONS[precision]}.onnx"
    with open_model(file, options=EngineOptions(device="cpu", threads=usable_cores())) as model:
        onnxruntime_cpu.SPIN_US = awake_us
        try:
            engine = model.engine(graph)
        finally:
            onnxruntime_cpu.SPIN_US = AWAKE_US
        yield engine


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the result as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    report(measure(given.bundle, given.before, given.rounds), given.json)


if __name__ == "__main__":
    main()
