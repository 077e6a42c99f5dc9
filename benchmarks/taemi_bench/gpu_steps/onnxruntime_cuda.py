"""ONNX Runtime's CUDA provider against PyTorch on the same GPU. Not yet run on a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from taemi_bench.gpu_steps.contract import Context, NotRunError, require_cuda
from taemi_bench.gpu_steps.machine_facts import gpu_state
from taemi_bench.gpu_steps.measure import SHORT
from taemi_runtime.errors import EngineError

BACKEND = "onnxruntime-cuda"
# A graph is not begun with less time left.
GRAPH_SECONDS = 20.0


def measure_onnxruntime(context: Context) -> None:
    """Measure the bundle on the GPU as ``taemi-bench run --device cuda`` does."""
    require_cuda()
    from taemi_bench.checkpoint import open_checkpoint
    from taemi_bench.run import run_bundle
    from taemi_runtime.backends import backend
    from taemi_runtime.bundle import Bundle
    from taemi_runtime.strict import to_plain

    probe = backend(BACKEND).probe()
    if not probe.usable:
        raise NotRunError(probe.detail)
    context.record(backend=probe.detail)
    bundle = Bundle.open(context.bundle(whole=True))
    try:
        checkpoint = context.checkpoint
    except NotRunError:
        checkpoint = None
    source, why = open_checkpoint(bundle.folder, bundle.manifest, checkpoint)
    # One graph after the other, so that each is on disk before the next one starts.
    reports: dict[str, Any] = {}
    for name in bundle.manifest.graphs:
        if not bundle.engine_files(name):
            continue
        if late := context.too_late(GRAPH_SECONDS):
            reports[name] = {"why": late}
            context.record(graphs=reports)
            continue
        report = run_bundle(
            bundle,
            source,
            source_note=why,
            graphs=[name],
            schedule=replace(SHORT, max_seconds=15.0),
            device="cuda",
        )
        reports[name] = {"rows": to_plain(report.rows), "scope": to_plain(report.scopes[0])}
        context.record(graphs=reports)
        if report.failures:
            wrong = "; ".join(f"{row.name}: {row.why}" for row in report.failures)
            raise EngineError(f"graph {name} failed or is beyond its gate", wrong)
    measured = sum("rows" in report for report in reports.values())
    context.record(gpus_after=gpu_state())
    context.record(summary=f"{measured} of {len(reports)} graphs timed beside PyTorch, each within its gate")
