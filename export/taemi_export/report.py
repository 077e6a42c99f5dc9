"""What a verification found, engine by engine and output by output."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from taemi_export.chain import chain_failures
from taemi_export.compare import Difference
from taemi_export.gates import describe_gate
from taemi_runtime.errors import ParityError, TaemiError
from taemi_runtime.manifest import ChainParity, Method, OutputParity, Parity
from taemi_runtime.spec import Gate, GraphSpec


@dataclass(frozen=True)
class OutputResult:
    """One output of one engine over all cases: the worst of each measure.

    Args:
        output: The output's name.
        worst: The case that is furthest from passing, or has the largest difference.
        max_abs: Largest absolute difference.
        mean_abs: Largest mean absolute difference of a case.
        min_cosine: Smallest cosine similarity of a case.
        min_rho: Smallest correlation of a case; ``None`` where the reference never varies.
        nans: Compared values that are not finite, in all cases together.
        passed: Whether every case stayed within the gate.
        padding: Largest difference between a padded row and the same row alone; ``None``: not compared.
    """

    output: str
    worst: Difference
    max_abs: float
    mean_abs: float
    min_cosine: float
    min_rho: float | None
    nans: int
    passed: bool
    padding: float | None = None

    def parity(self) -> OutputParity:
        """Return the manifest's summary."""
        return OutputParity(
            finite(self.max_abs),
            finite(self.mean_abs),
            self.min_cosine,
            self.min_rho,
            self.nans,
            self.worst.scale,
            self.worst.case.name,
            None if self.padding is None else finite(self.padding),
        )


@dataclass(frozen=True)
class EngineResult:
    """What verification found for one engine file.

    Args:
        file: Its path inside the bundle, or as given.
        graph: The graph that it holds.
        precision: As built.
        gate: What was allowed.
        trained: ``False`` where its weights are random.
        method: How it was evaluated.
        backend: What ran it, with its version; empty when it was not run.
        device: Where it ran.
        cases: How many cases were compared.
        refused: Cases outside the lengths that the engine was built for.
        outputs: The outputs in the spec's order.
        weights: How many constant tensors were compared by digest.
        errors: What is wrong; empty when everything holds.
    """

    file: str
    graph: str
    precision: str
    gate: Gate | None
    trained: bool = True
    method: Method = "executed"
    backend: str = ""
    device: str = ""
    cases: int = 0
    refused: tuple[str, ...] = ()
    outputs: tuple[OutputResult, ...] = ()
    weights: int = 0
    errors: tuple[TaemiError, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether bytes, weights and outputs are what they should be, as far as they were looked at."""
        return not self.errors

    def parity(self, chain: ChainResult | None = None) -> Parity:
        """Return the manifest's summary.

        Args:
            chain: What the chain of this precision gave, where it is judged by one.
        """
        worst = max(self.outputs, key=lambda item: item.max_abs, default=None)
        return Parity(
            output=worst.output if worst else "",
            max_abs=finite(worst.max_abs) if worst else 0.0,
            mean_abs=finite(worst.mean_abs) if worst else 0.0,
            min_cosine=min((item.min_cosine for item in self.outputs), default=0.0),
            cases=self.cases,
            backend=self.backend,
            passed=self.passed and bool(self.outputs) and (chain is None or chain.passed),
            method=self.method if self.outputs else "not run",
            device=self.device,
            trained=self.trained,
            gate=self.gate,
            outputs={item.output: item.parity() for item in self.outputs},
            chain=chain.combinations if chain else (),
        )


@dataclass(frozen=True)
class ChainResult:
    """What the whole chain of one precision gave.

    Args:
        precision: The precision.
        files: The engine files in it.
        gate: What was allowed.
        combinations: What was found within each combination of presence flags.
        sizes: At which lengths, graph by graph.
        trained: ``False`` where some weights are random.
        errors: What is wrong; empty when everything holds.
    """

    precision: str
    files: tuple[str, ...]
    gate: Gate
    combinations: tuple[ChainParity, ...]
    sizes: dict[str, dict[str, int]]
    trained: bool
    errors: tuple[TaemiError, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every combination stayed within the gate."""
        return not self.errors

    @property
    def worst(self) -> ChainParity:
        """The combination with the largest mean difference."""
        return max(self.combinations, key=lambda item: item.mean_abs)


@dataclass(frozen=True)
class VerifyReport:
    """The result of a verification.

    Args:
        bundle: The bundle.
        tools: Versions of what computed the reference.
        engines: One result for each engine file.
        errors: Files beside the engines that are damaged.
        chains: One result for each precision that is judged by the whole chain.
    """

    bundle: Path
    tools: dict[str, str]
    engines: tuple[EngineResult, ...]
    errors: tuple[TaemiError, ...] = field(default=())
    chains: tuple[ChainResult, ...] = ()

    @property
    def all_errors(self) -> tuple[TaemiError, ...]:
        """Everything that is wrong, in the order in which it was found."""
        engines = (error for engine in self.engines for error in engine.errors)
        return (*self.errors, *engines, *(error for chain in self.chains for error in chain.errors))

    @property
    def passed(self) -> bool:
        """Whether everything holds that was looked at; see ``unrun`` for what was not."""
        return not self.all_errors

    @property
    def unrun(self) -> tuple[EngineResult, ...]:
        """The engines that nothing here can run."""
        return tuple(engine for engine in self.engines if not engine.errors and not engine.outputs)

    def chain(self, precision: str) -> ChainResult | None:
        """Return what the chain of a precision gave, if it was run."""
        return next((item for item in self.chains if item.precision == precision), None)

    def parities(self) -> dict[str, Parity]:
        """Return the manifest's summaries by file."""
        return {engine.file: engine.parity(self.chain(engine.precision)) for engine in self.engines}

    def require(self) -> None:
        """Raise the first error, if there is any.

        Raises:
            ParityError: An engine's outputs are beyond their gate.
            BundleError: A file or a weight is not what was exported.
        """
        for error in self.all_errors:
            raise error


def finite(value: float) -> float:
    """Return a number that JSON can hold: infinity becomes the largest float."""
    return min(value, sys.float_info.max)


def worst_of(
    name: str, differences: list[Difference], gate: Gate, padding: float | None = None
) -> OutputResult:
    """Sum up one output over all cases.

    Args:
        name: The output.
        differences: One for each case.
        gate: What is allowed.
        padding: Largest difference between a padded row and the same row alone.
    """
    failed = [item for item in differences if not item.passes(gate)]
    known = [item.rho for item in differences if item.rho is not None]
    return OutputResult(
        name,
        max(failed or differences, key=lambda item: item.max_abs),
        max(item.max_abs for item in differences),
        max(item.mean_abs for item in differences),
        min(item.cosine for item in differences),
        min(known, default=None),
        sum(item.nans for item in differences),
        not failed,
        padding,
    )


def parity_error(file: str, spec: GraphSpec, precision: str, gate: Gate, item: OutputResult) -> ParityError:
    """Say which output of which graph differs, where, by how much, and what was allowed."""
    worst = item.worst
    sizes = ", ".join(f"{name} {length}" for name, length in spec.sizes(worst.case.sizes).items())
    at = f" at {list(worst.place)}: got {worst.got:.6g}, expected {worst.expected:.6g}" if worst.place else ""
    scale = (
        f" times {worst.scale:.3g}, the reference's deviation" if gate.relative and worst.scale > 1 else ""
    )
    return ParityError(
        f"{file} differs from PyTorch in output {spec.name}.{item.output}",
        f"case {worst.case.name} ({sizes}): max |difference| {worst.max_abs:.3g}{at}; "
        f"mean {worst.mean_abs:.3g}, cosine {worst.cosine:.6f}, {worst.nans} values not finite; "
        f"allowed in {precision} are {describe_gate(gate)}{scale}",
        _fix(precision),
    )


def padding_error(
    file: str, spec: GraphSpec, precision: str, output: str, found: float, allowed: float
) -> ParityError:
    """Say that padding changed an output."""
    return ParityError(
        f"{file} lets padding change output {spec.name}.{output}",
        f"a padded row and the same row alone differ by {found:.3g}, allowed in {precision} is {allowed:.3g}",
        "The graph reads what its mask declares empty: correct the export module, and export again",
    )


def overflow_error(file: str, case: str, tensors: list[str]) -> ParityError:
    """Say which half tensors are not finite."""
    more = f", and {len(tensors) - 1} more" if len(tensors) > 1 else ""
    return ParityError(
        f"{file} overflows half precision",
        f"case {case}: {tensors[0]}{more}",
        "Keep that node in float32: taemi-export onnx CKPT --force converts again and finds it by bisection",
    )


def chain_error(chain: ChainResult) -> ParityError | None:
    """Say which combinations are beyond the gate; ``None`` when none is."""
    failures = chain_failures(chain.gate, chain.combinations)
    if not failures:
        return None
    return ParityError(
        f"{', '.join(chain.files)}: the scores of the whole chain differ from the float32 chain's",
        f"{'; '.join(failures)}",
        _fix(chain.precision),
    )


def _fix(precision: str) -> str:
    again = "Export the bundle again: taemi-export onnx CKPT --force"
    return again if precision == "fp32" else f"{again}; without that precision, run the fp32 graph"
