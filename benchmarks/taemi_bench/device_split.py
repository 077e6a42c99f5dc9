"""Where calls on a GPU spend their time, and what makes such figures doubtful.

The four parts and the warnings are those of NVIDIA's trtexec (TensorRT, samples/common/sampleReporting.cpp).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from taemi_bench.row_report import DeviceSplit
from taemi_bench.stats import Latency
from taemi_runtime.stopwatch import SplitMs

ENQUEUE_SHARE = 0.8
VARIATION = 0.025
BY_CLOCK = (
    "copies and computing are told apart by the host's clock, as the library waits within each: queueing is "
    "part of computing"
)


def summarise_splits(splits: Sequence[SplitMs], streams: int = 1) -> DeviceSplit | None:
    """Summarise where calls spent their time; ``None`` when there are none.

    Args:
        splits: One entry a call.
        streams: How many streams were under way at a time.
    """
    enqueue = Latency.from_values([split.enqueue for split in splits if split.enqueue is not None])
    up = Latency.from_values([split.host_to_device for split in splits])
    compute = Latency.from_values([split.compute for split in splits])
    down = Latency.from_values([split.device_to_host for split in splits])
    if up is None or compute is None or down is None:
        return None
    return DeviceSplit(enqueue, up, compute, down, tuple(_warnings(enqueue, up, compute, down, streams)))


def _warnings(
    enqueue: Latency | None, up: Latency, compute: Latency, down: Latency, streams: int
) -> list[str]:
    sent, computed, fetched = (statistics.median(part.values) for part in (up, compute, down))
    found = []
    if enqueue is None:
        found.append(BY_CLOCK)
    elif (queued := statistics.median(enqueue.values)) > ENQUEUE_SHARE * computed:
        found.append(
            f"queueing takes {queued:.3f} ms, computing {computed:.3f} ms: the host may set the pace, "
            "and a CUDA graph may help"
        )
    for what, took in (("to", sent), ("from", fetched)):
        if took >= computed:
            found.append(f"copies {what} the device take {took:.3f} ms, computing {computed:.3f} ms")
    if compute.stdev is not None and compute.mean and compute.stdev / compute.mean > VARIATION:
        share = compute.stdev / compute.mean
        found.append(f"computing varies by {share:.1%} (coefficient of variation): the clocks may have moved")
    if streams > 1:
        found.append(f"{streams} streams ran at a time: these are no latencies")
    return found
