"""PyTorch's traces: what each operator of a call took, of eager rows and of compiled ones.

What ``torch.compile`` fuses on a CPU has no operator's name and would count as the compiled graph's own time;
with the compiler's option for profiling, every kernel that it makes is called by the operators in it. The
call of the compiled graph and the compiler's guards stand in the table as they are.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from taemi_bench.profiles import Profile, ProfiledNode
from taemi_bench.roofline import Ceilings
from taemi_bench.rows import Row, Way, open_row
from taemi_bench.traced_calls import call_often, warm_up
from taemi_runtime.errors import EngineError
from taemi_runtime.host import parse_device

# Operators of which torch counts the operations; of elementwise ones it counts the elements only.
_PRODUCTS = ("aten::addmm", "aten::baddbmm", "aten::bmm", "aten::mm")
# E.g. "## Call CompiledFxGraph f7kq ##", where the last word is a digest.
_GRAPH_CALL = re.compile(r"## Call (\w+) \w+ ##")


def trace_pytorch(way: Way, ceilings: Ceilings | None, path: Path) -> Profile:
    """Open a row anew, trace it, and sum the trace up: of every operator the mean over its calls.

    Args:
        way: The row.
        ceilings: What its device can do; without them no operator has a floor.
        path: Where the trace is written (Chrome's format, JSON).

    Returns:
        The profile; matrix products alone have a floor, by their arithmetic.

    Raises:
        EngineError: It does not open.
    """
    # Rows that are slow to open are those that compile.
    with _named_kernels() if way.slow else contextlib.nullcontext():
        row = open_row(way)
    if row.run is None:
        raise EngineError(f"cannot trace {row.name}", row.why)
    try:
        return _trace(row, row.run, ceilings, path)
    finally:
        row.close()


def _trace(row: Row, call: Callable[[], object], ceilings: Ceilings | None, path: Path) -> Profile:
    from torch.profiler import ProfilerActivity, profile

    on_gpu = parse_device(row.device)[0] == "cuda"
    warm_up(call)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities, with_flops=True) as trace:
        calls, call_ms = call_often(call)
    trace.export_chrome_trace(str(path))
    spent = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    rate = ceilings.product_rate(row.precision) if ceilings else 0.0
    events = [event for event in trace.key_averages() if getattr(event, spent) > 0]
    total = sum(getattr(event, spent) for event in events)
    nodes = []
    for event in sorted(events, key=lambda event: -getattr(event, spent)):
        name = _GRAPH_CALL.sub(r"\1", event.key)
        us = getattr(event, spent)
        # torch counts a multiplication and an addition as two.
        floor = event.flops / 2 / calls / rate * 1e3 if event.key in _PRODUCTS and rate else None
        nodes.append(
            ProfiledNode(
                name, name.removeprefix("aten::"), event.count // calls, us / calls / 1e3, us / total, floor
            )
        )
    return Profile("", "", "", calls, call_ms, tuple(nodes))


@contextlib.contextmanager
def _named_kernels() -> Iterator[None]:
    from torch._inductor import config

    with config.patch({"cpp.enable_kernel_profile": True}):
        yield
