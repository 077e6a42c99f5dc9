"""The exporter on the real network: sizes, presence and padding that no reference case contains."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from taemi.config import variant
from taemi.exportable import ExportSource
from taemi.fusion_graph import fusion_graph
from taemi.model import Taemi
from taemi_export.bundle_writer import write_graph
from taemi_runtime.backends import open_engine
from taemi_runtime.draw import draw_inputs

EVERY_PRESENCE = list(itertools.product((True, False), repeat=3))


@pytest.mark.parametrize(
    ("name", "vision_dim", "hidden", "heads"),
    [("paper", 384, 96, 8), ("released", 1280, 48, 3), ("audio-anchored", 768, 32, 1)],
)
def test_exported_network_equals_pytorch_on_inputs_that_export_never_saw(
    tmp_path: Path, name: str, vision_dim: int, hidden: int, heads: int
) -> None:
    torch.manual_seed(vision_dim)
    config = variant(
        name,
        vision_dim=vision_dim,
        hidden=hidden,
        heads=heads,
        audio_dim=131,
        feed_forward=64,
        head_hidden=40,
    )
    graph = fusion_graph(Taemi(config).eval(), attention=True)
    source = ExportSource("taemi", (graph,), config.to_plain(), {}, trained=False)
    written = write_graph(tmp_path, graph, source, debug=False)
    assert written.weights.folded == ()
    rng = np.random.default_rng(vision_dim)
    lengths = [symbol for symbol in graph.spec.free_symbols if symbol.name != "batch"]
    with open_engine(tmp_path / written.file, graph.spec) as engine:
        for seed in range(8):
            rows = int(rng.integers(1, 9)) if seed else 8
            sizes = {symbol.name: int(rng.integers(1, (symbol.maximum or 9) + 1)) for symbol in lengths}
            present = [EVERY_PRESENCE[(seed + row) % 8] for row in range(rows)]
            inputs = draw_inputs(graph.spec, {"batch": rows, **sizes}, seed=7000 + seed, present=present)
            if seed % 3 == 2:
                # A row without one valid position counts as missing, whatever presence says.
                for item in graph.spec.inputs:
                    if item.role == "mask":
                        inputs[item.name][0] = False
            got = engine.run(inputs)
            wanted = graph.reference({key: torch.from_numpy(value) for key, value in inputs.items()})
            for output in graph.spec.outputs:
                assert np.isfinite(got[output.name]).all()
                np.testing.assert_allclose(
                    got[output.name], wanted[output.name].numpy(), atol=1e-4, err_msg=f"{output.name} {sizes}"
                )
