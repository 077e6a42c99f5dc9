"""One engine against every reference case: outputs, padding, the largest batch, overflow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from taemi_export.compare import Difference, compare_output
from taemi_export.method import Evaluator, is_plan
from taemi_export.padding import cut_rows, padding_difference
from taemi_export.reference import GraphReference, Reference, checked_inputs
from taemi_export.report import OutputResult, overflow_error, padding_error, parity_error, worst_of
from taemi_export.sizes import Case
from taemi_runtime.bundle import Bundle
from taemi_runtime.console import Tick
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import BundleError, InputError, TaemiError
from taemi_runtime.spec import Array, Arrays, Gate, GraphSpec

OVERFLOW_CASES = ("typical", "ragged")
"""Where a large half-precision graph is searched for overflow: the most work that one call usually is."""


@dataclass(frozen=True)
class Job:
    """One verification.

    Args:
        bundle: The bundle.
        reference: What PyTorch computed.
        options: Where engines run.
        tick: Called with (step, done, total).
        specs: The graphs with the gates that hold for this verification.
    """

    bundle: Bundle
    reference: Reference
    options: EngineOptions
    tick: Tick
    specs: dict[str, GraphSpec]


@dataclass(frozen=True)
class Target:
    """One engine file to verify.

    Args:
        name: What to call it: its path in the bundle, or as given.
        path: The file.
        graph: The graph that it holds.
        precision: As built.
        listed: Whether the bundle's manifest lists it.
    """

    name: str
    path: Path
    graph: str
    precision: str
    listed: bool


class Comparison:
    """One engine against every reference case.

    Args:
        job: The verification.
        spec: The graph.
        gate: What is allowed.
        known: The graph's reference.
        target: The engine file.
        evaluator: What computes its outputs.
    """

    def __init__(
        self,
        job: Job,
        spec: GraphSpec,
        gate: Gate,
        known: GraphReference,
        target: Target,
        evaluator: Evaluator,
    ) -> None:
        self.job = job
        self.spec = spec
        self.gate = gate
        self.known = known
        self.target = target
        self.evaluator = evaluator
        self.differences: dict[str, list[Difference]] = {item.name: [] for item in spec.outputs}
        self.padding: dict[str, float] = {}
        self.refused: list[str] = []
        self.errors: list[TaemiError] = []
        self.cases = 0

    def run(self) -> list[OutputResult]:
        """Compare, and return the outputs in the spec's order."""
        spec, target = self.spec, self.target
        total = len(self.known.cases)
        most: tuple[Case, Arrays, dict[str, Array]] | None = None
        for number, case in enumerate(self.known.cases):
            self.job.tick(f"verify {target.name}", number, total)
            inputs = checked_inputs(spec, case, self.job.reference.index.tools)
            expected = self.job.reference.outputs(spec, case)
            got = self._compare(case, inputs, expected)
            if got is None:
                continue
            if case.ragged and not self.padding:
                self._compare_padding(inputs, got)
            if most is None or _rows(spec, inputs) > _rows(spec, most[1]):
                most = case, inputs, expected
        if most is not None:
            self._compare_most_rows(*most)
        self._search_overflow()
        self.job.tick(f"verify {target.name}", total, total)
        if not self.cases:
            self.errors.append(
                BundleError(
                    f"cannot verify {target.name}",
                    f"all {total} reference cases lie outside the lengths that it was built for",
                    "Build it with wider profiles: taemi-export tensorrt BUNDLE --shapes ...",
                )
            )
            return []
        results = [
            worst_of(item.name, self.differences[item.name], self.gate, self.padding.get(item.name))
            for item in spec.outputs
        ]
        self._judge(results)
        return results

    def _compare(self, case: Case, inputs: Arrays, expected: dict[str, Array]) -> dict[str, Array] | None:
        """Compare one case; ``None`` where it lies outside a plan's profiles."""
        try:
            got = self.evaluator.run(inputs)
        except InputError:
            if not is_plan(self.target.path):
                raise
            self.refused.append(case.name)
            return None
        self.cases += 1
        for item in self.spec.outputs:
            self.differences[item.name].append(
                compare_output(self.spec, item, case, inputs, got[item.name], expected[item.name])
            )
        return got

    def _compare_padding(self, inputs: Arrays, got: dict[str, Array]) -> None:
        for cut in cut_rows(self.spec, inputs):
            try:
                alone = self.evaluator.run(cut.inputs)
            except InputError:
                if not is_plan(self.target.path):
                    raise
                continue
            for item in self.spec.outputs:
                found = padding_difference(self.spec, item, cut, got, alone)
                self.padding[item.name] = max(found, self.padding.get(item.name, 0.0))

    def _compare_most_rows(self, case: Case, inputs: Arrays, expected: dict[str, Array]) -> None:
        """Repeat rows up to the largest batch: each row's result is its own, whatever stands beside it."""
        axis = self.spec.inputs[0].shape[0]
        limit = self.evaluator.limits.get(axis, 0) if isinstance(axis, str) else 0
        if limit <= _rows(self.spec, inputs):
            return
        order = np.arange(limit) % _rows(self.spec, inputs)
        case = replace(case, name=f"{case.name}, {limit} rows", sizes={**case.sizes, str(axis): limit})
        self._compare(
            case,
            {name: array[order] for name, array in inputs.items()},
            {name: array[order] for name, array in expected.items()},
        )

    def _search_overflow(self) -> None:
        if self.evaluator.overflows is None:
            return
        for case in self.known.cases:
            if case.name in OVERFLOW_CASES:
                inputs = checked_inputs(self.spec, case, self.job.reference.index.tools)
                tensors = self.evaluator.overflows(inputs)
                if tensors:
                    self.errors.append(overflow_error(self.target.name, case.name, tensors))
                    return

    def _judge(self, results: list[OutputResult]) -> None:
        precision = self.target.precision
        for item in results:
            if not item.passed:
                self.errors.append(parity_error(self.target.name, self.spec, precision, self.gate, item))
            if item.padding is None or self.gate.max_abs is None:
                continue
            allowed = self.gate.max_abs * (item.worst.scale if self.gate.relative else 1.0)
            if not item.padding <= allowed:
                self.errors.append(
                    padding_error(self.target.name, self.spec, precision, item.output, item.padding, allowed)
                )


def _rows(spec: GraphSpec, inputs: Arrays) -> int:
    return int(inputs[spec.inputs[0].name].shape[0])
