"""What a verification found, engine by engine and output by output."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from taemi_export.compare import Difference
from taemi_runtime.errors import ParityError, TaemiError
from taemi_runtime.manifest import Parity
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
        passed: Whether every case stayed within the gate.
    """

    output: str
    worst: Difference
    max_abs: float
    mean_abs: float
    min_cosine: float
    passed: bool


@dataclass(frozen=True)
class EngineResult:
    """What verification found for one engine file.

    Args:
        file: Its path inside the bundle, or as given.
        graph: The graph that it holds.
        precision: As built.
        gate: What was allowed.
        backend: What ran it, with its version; empty when it was not run.
        device: Where it ran.
        cases: How many cases were compared.
        outputs: The outputs in the spec's order.
        weights: How many constant tensors were compared by digest.
        errors: What is wrong; empty when everything holds.
    """

    file: str
    graph: str
    precision: str
    gate: Gate | None
    backend: str = ""
    device: str = ""
    cases: int = 0
    outputs: tuple[OutputResult, ...] = ()
    weights: int = 0
    errors: tuple[TaemiError, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether bytes, weights and outputs are what they should be."""
        return not self.errors

    def parity(self) -> Parity:
        """Return the manifest's summary."""
        worst = max(self.outputs, key=lambda item: item.max_abs)
        return Parity(
            output=worst.output,
            max_abs=worst.max_abs,
            mean_abs=worst.mean_abs,
            min_cosine=min(item.min_cosine for item in self.outputs),
            cases=self.cases,
            backend=self.backend,
            passed=self.passed,
        )


@dataclass(frozen=True)
class VerifyReport:
    """The result of a verification.

    Args:
        bundle: The bundle.
        tools: Versions of what computed the reference.
        engines: One result for each engine file.
        errors: Files beside the engines that are damaged.
    """

    bundle: Path
    tools: dict[str, str]
    engines: tuple[EngineResult, ...]
    errors: tuple[TaemiError, ...] = field(default=())

    @property
    def all_errors(self) -> tuple[TaemiError, ...]:
        """Everything that is wrong, in the order in which it was found."""
        return (*self.errors, *(error for engine in self.engines for error in engine.errors))

    @property
    def passed(self) -> bool:
        """Whether everything holds."""
        return not self.all_errors

    def require(self) -> None:
        """Raise the first error, if there is any.

        Raises:
            ParityError: An engine's outputs are beyond their gate.
            BundleError: A file or a weight is not what was exported.
        """
        for error in self.all_errors:
            raise error


def worst_of(name: str, differences: list[Difference], gate: Gate) -> OutputResult:
    """Sum up one output over all cases."""
    failed = [item for item in differences if not item.passes(gate)]
    return OutputResult(
        name,
        max(failed or differences, key=lambda item: item.max_abs),
        max(item.max_abs for item in differences),
        max(item.mean_abs for item in differences),
        min(item.cosine for item in differences),
        not failed,
    )


def parity_error(file: str, spec: GraphSpec, precision: str, gate: Gate, item: OutputResult) -> ParityError:
    """Say which output of which graph differs, where, by how much, and what was allowed."""
    worst = item.worst
    sizes = ", ".join(f"{name} {length}" for name, length in spec.sizes(worst.case.sizes).items())
    at = f" at {list(worst.place)}: got {worst.got:.6g}, expected {worst.expected:.6g}" if worst.place else ""
    return ParityError(
        f"{file} differs from PyTorch in output {spec.name}.{item.output}",
        f"case {worst.case.name} ({sizes}): max |difference| {worst.max_abs:.3g}{at}; "
        f"mean {worst.mean_abs:.3g}, cosine {worst.cosine:.6f}; allowed in {precision} are "
        f"max {gate.max_abs:g}, mean {gate.mean_abs:g}, cosine {gate.min_cosine:g}",
        "Export the bundle again: taemi-export onnx CKPT --force",
    )
