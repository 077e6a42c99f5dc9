"""What became worse of a row besides its time: its numbers and what it costs."""

from __future__ import annotations

from collections.abc import Iterator

from taemi_bench.row_report import Memory, RowReport
from taemi_runtime.console import format_size

# Up to twice the mean difference is another rounding of the same arithmetic, and so are eight
# roundings of a float32 near one.
GROWN, LEAST_DIFFERENCE = 2.0, 8 * 2.0**-23
LEAST_RHO_DROP = 0.005
# Pages that an allocator keeps or gives back are no change of the program.
LEAST_MEMORY = 16 << 20


def find_worse(before: RowReport, after: RowReport, *, same_inputs: bool, threshold: float) -> Iterator[str]:
    """Yield what became worse, a phrase each.

    Args:
        before: The row in the first report.
        after: And in the second.
        same_inputs: Whether both were computed on the same inputs; others have other differences.
        threshold: Memory that grew by less than this share is not looked at.
    """
    if after.state == "failed" and before.state != "failed":
        yield f"failed now: {after.why}"
    if same_inputs:
        old, new = before.mean_abs, after.mean_abs
        if old is not None and new is not None and new > max(GROWN * old, LEAST_DIFFERENCE):
            yield f"mean difference {old:.1e}, now {new:.1e}"
        if before.rho is not None and after.rho is not None and after.rho < before.rho - LEAST_RHO_DROP:
            yield f"rho {before.rho:.4f}, now {after.rho:.4f}"
    yield from _larger(before.memory, after.memory, threshold)


def _larger(before: Memory | None, after: Memory | None, threshold: float) -> Iterator[str]:
    if before is None or after is None:
        return
    for what, old, new in (
        ("host memory", before.host_bytes, after.host_bytes),
        ("device memory", before.device_bytes, after.device_bytes),
        ("engine file", before.engine_bytes, after.engine_bytes),
    ):
        if old is not None and new is not None and new > old * (1 + threshold) and new - old > LEAST_MEMORY:
            yield f"{what} {format_size(old)}, now {format_size(new)}"
