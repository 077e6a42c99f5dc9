"""Widths, heads, feature sizes and anchors that nobody tuned for: exported, converted, verified."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from taemi.config import variant
from taemi.exportable import ExportSource
from taemi.fusion_graph import fusion_graph
from taemi.model import Taemi
from taemi_export import export_onnx, verify_bundle
from taemi_export.precision import add_half
from taemi_runtime.engine import EngineOptions
from taemi_runtime.manifest import read_manifest

SMALL = {"audio_dim": 37, "text_dim": 33, "feed_forward": 40, "head_hidden": 24}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("paper", {"vision_dim": 51, "hidden": 40, "heads": 5}),
        pytest.param("paper", {"vision_dim": 1280, "hidden": 24, "heads": 1}, marks=pytest.mark.slow),
        ("released", {"vision_dim": 7, "hidden": 36, "heads": 12}),
        ("concat", {"vision_dim": 23, "hidden": 20, "heads": 2}),
        ("self-attention", {"vision_dim": 11, "hidden": 30, "heads": 3}),
        pytest.param(
            "no-missing-tokens", {"vision_dim": 29, "hidden": 28, "heads": 7}, marks=pytest.mark.slow
        ),
        pytest.param("audio-anchored", {"vision_dim": 130, "hidden": 42, "heads": 7}, marks=pytest.mark.slow),
        ("vision-anchored", {"vision_dim": 19, "hidden": 16, "heads": 2}),
    ],
)
def test_unusual_networks_hold_the_gates_in_both_precisions(
    tmp_path: Path, name: str, sizes: dict[str, Any]
) -> None:
    torch.manual_seed(sum(sizes.values()))
    config = variant(name, **{**SMALL, **sizes})
    graph = fusion_graph(Taemi(config).eval(), attention=True)
    out = export_onnx(
        ExportSource("taemi", (graph,), config.to_plain(), {}, trained=False), tmp_path / "v.taemi"
    )
    if "fusion.fp16.onnx" not in read_manifest(out).files:
        add_half(out, "fusion")
    report = verify_bundle(out, options=EngineOptions("cpu"))
    assert report.passed, [str(error) for error in report.all_errors]
    single, half = report.engines
    assert (single.precision, half.precision) == ("fp32", "fp16")
    for engine in (single, half):
        scores = engine.outputs[0]
        assert engine.cases >= 10
        assert scores.nans == 0
        assert scores.padding is not None
        assert scores.max_abs <= (1e-4 if engine is single else 2e-2)
    assert half.outputs[0].max_abs > single.outputs[0].max_abs
