"""The roofline's facts: what a graph must do, and what the machine can do at most.

S. Williams, A. Waterman and D. Patterson, "Roofline: an insightful visual performance model for multicore
architectures", Communications of the ACM 52 (2009).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class OperatorCost:
    """What all nodes of one operator type do in one call.

    Args:
        operator: E.g. ``MatMul``.
        nodes: How many there are.
        multiply_adds: Multiplications with an addition each; 0 for what has none.
        other_operations: Elementwise and reducing operations.
        bytes_read: Inputs and weights, each node by itself.
        bytes_written: Outputs.
    """

    operator: str
    nodes: int
    multiply_adds: int
    other_operations: int
    bytes_read: int
    bytes_written: int


@dataclass(frozen=True)
class GraphCost:
    """Operations and bytes of one call, counted from the ONNX graph at the measured lengths.

    Args:
        file: The graph that was counted.
        multiply_adds: Sum over the operators.
        other_operations: Likewise.
        weight_bytes: Weights, each once, tables of which a call reads a few rows included.
        moved_bytes: What operators read and write, each by itself: nothing fused.
        least_bytes: Weights that are read, inputs and outputs, each once: everything fused.
        operators: By type, the costliest first.
        note: What could not be counted.
    """

    file: str
    multiply_adds: int
    other_operations: int
    weight_bytes: int
    moved_bytes: int
    least_bytes: int
    operators: tuple[OperatorCost, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Ceilings:
    """What the machine reached in this run.

    Args:
        device: ``cpu`` or ``cuda:N``.
        threads: Threads that measured it.
        multiply_adds_per_second: By precision, e.g. ``{"fp32": 1.2e11}``.
        bytes_per_second: Memory traffic, read and written.
        how: How each was measured, by name.
        cached_bytes_per_second: The same where everything lies in the caches; ``None`` where unknown.
        cache_bytes: Size of the last-level cache; 0 where unknown.
    """

    device: str
    threads: int
    multiply_adds_per_second: dict[str, float]
    bytes_per_second: float
    how: dict[str, str] = field(default_factory=dict)
    cached_bytes_per_second: float | None = None
    cache_bytes: int = 0

    def product_rate(self, precision: str) -> float:
        """Return the multiply-adds a second of products at a precision, or at float32 where that is higher.

        An engine may compute in float32 what is stored in less. 0 where neither was measured.
        """
        rates = self.multiply_adds_per_second
        return max(rates.get(precision, 0.0), rates.get("fp32", 0.0))
