"""A second model family, unlike the first in every way that tools might have taken for granted.

Graph ``tagger``: token ids and float frames, both with masks, a presence flag of two columns, eight
named outputs for every frame. Graph ``front``: a strided convolution over a signal, whose frame mask
has a length that follows from the signal's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taemi.exportable import ExportGraph, ExportSource
from taemi_runtime.spec import Draw, Gate, GraphSpec, InputSpec, OutputSpec, Symbol

LABELS = tuple(f"tag_{index}" for index in range(8))
CONVS = ((10, 5), (3, 2))
VOCABULARY = 64
USED_IDS = 48
"""Drawn ids stay below this: the embedding's last rows are never read by any reference input."""
GATE = Gate(max_abs=1e-4, mean_abs=1e-5, min_cosine=0.99999)


class Tagger(nn.Module):
    """Frames attend to tokens; eight scores for each frame."""

    def __init__(self, width: int = 16, frame_dim: int = 6) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.frame_in = nn.Linear(frame_dim, width)
        self.no_tokens = nn.Parameter(torch.randn(width))
        self.no_frames = nn.Parameter(torch.randn(width))
        self.query = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(2 * width, len(LABELS))
        self.spare = nn.Parameter(torch.randn(3))

    def forward(
        self, ids: Tensor, ids_mask: Tensor, frames: Tensor, frames_mask: Tensor, given: Tensor
    ) -> Tensor:
        has_tokens = given[:, :1] & ids_mask.any(1, keepdim=True)
        has_frames = given[:, 1:] & frames_mask.any(1, keepdim=True)
        first = torch.arange(ids.shape[1], device=ids.device)[None, :] == 0
        keys_valid = (ids_mask & has_tokens) | (first & ~has_tokens)
        clean = torch.where((frames_mask & has_frames)[:, :, None], frames, 0.0)
        frame = torch.where(has_frames[:, :, None], self.frame_in(clean), self.no_frames)
        tokens = torch.where(has_tokens[:, :, None], self.embedding(ids), self.no_tokens)
        context = F.scaled_dot_product_attention(
            self.query(frame)[:, None], tokens[:, None], tokens[:, None], attn_mask=keys_valid[:, None, None]
        )[:, 0]
        return self.head(torch.cat([frame, self.norm(context)], dim=-1))


class Front(nn.Module):
    """Two strided convolutions and a mask at frame rate."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        (first, first_stride), (second, second_stride) = CONVS
        self.first = nn.Conv1d(1, width, first, first_stride)
        self.second = nn.Conv1d(width, width, second, second_stride)
        self.out = nn.Linear(width, width)

    def forward(self, signal: Tensor, signal_mask: Tensor) -> Tensor:
        hidden = F.gelu(self.second(F.gelu(self.first(signal[:, None])))).transpose(1, 2)
        hidden = torch.where(signal_mask[:, :, None], hidden, 0.0)
        weight = signal_mask.to(hidden.dtype)[:, :, None]
        mean = (hidden * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1.0)
        return self.out(hidden - mean)


def tagger_spec(gate: Gate = GATE, frame_dim: int = 6) -> GraphSpec:
    return GraphSpec(
        name="tagger",
        symbols=(
            Symbol("batch", typical=2, maximum=64),
            Symbol("tokens", typical=9, maximum=40),
            Symbol("steps", typical=12, maximum=60),
        ),
        inputs=(
            InputSpec("ids", "int64", ("batch", "tokens"), draw=Draw("integers", 1, USED_IDS)),
            InputSpec("ids_mask", "bool", ("batch", "tokens"), role="mask", masks="ids"),
            InputSpec("frames", "float32", ("batch", "steps", frame_dim), half=True),
            InputSpec("frames_mask", "bool", ("batch", "steps"), role="mask", masks="frames"),
            InputSpec("given", "bool", ("batch", 2), role="presence", governs=(("ids",), ("frames",))),
        ),
        outputs=(
            OutputSpec("tags", "float32", ("batch", "steps", len(LABELS)), labels=LABELS, mask="frames_mask"),
        ),
        gates={"fp32": gate},
    )


def front_spec() -> GraphSpec:
    return GraphSpec(
        name="front",
        symbols=(
            Symbol("batch", typical=1, maximum=16),
            Symbol("samples", minimum=20, typical=150, maximum=600),
            Symbol("hops", typical=14, maximum=59, source="samples", convs=CONVS),
        ),
        inputs=(
            InputSpec("signal", "float32", ("batch", "samples"), padding="zero"),
            InputSpec("signal_mask", "bool", ("batch", "hops"), role="mask", masks="signal"),
        ),
        outputs=(OutputSpec("features", "float32", ("batch", "hops", 12), mask="signal_mask"),),
        gates={"fp32": GATE},
    )


def graph_of(spec: GraphSpec, module: nn.Module) -> ExportGraph:
    """Wrap a module whose reference is itself."""
    module = module.eval()

    def reference(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.inference_mode():
            found = module(**inputs)
        values = found if isinstance(found, tuple) else (found,)
        return {item.name: value for item, value in zip(spec.outputs, values, strict=True)}

    return ExportGraph(spec, module, reference, dict(module.state_dict()))


def toy_source(*, seed: int = 7, gate: Gate = GATE) -> ExportSource:
    torch.manual_seed(seed)
    return ExportSource(
        family="toy",
        graphs=(graph_of(tagger_spec(gate), Tagger()), graph_of(front_spec(), Front())),
        model={"width": 16},
        preprocessing={"rate": 100},
        trained=False,
        files={"words.json": b'{"a": 1}'},
    )


def save_toy(path: Path, *, seed: int = 7) -> Path:
    """Write a checkpoint of this family."""
    torch.manual_seed(seed)
    data = {"family": "toy", "tagger": Tagger().state_dict(), "front": Front().state_dict()}
    torch.save(data, path)
    return path


class ToyFamily:
    """What the entry point names."""

    def open(self, checkpoint: Mapping[str, Any], path: Path) -> ExportSource:
        tagger, front = Tagger(), Front()
        tagger.load_state_dict(checkpoint["tagger"])
        front.load_state_dict(checkpoint["front"])
        graphs = (graph_of(tagger_spec(), tagger), graph_of(front_spec(), front))
        return ExportSource(
            family="toy",
            graphs=graphs,
            model={"width": 16},
            preprocessing={"rate": 100},
            trained=False,
            files={"words.json": b"{}"},
            checkpoint=path,
        )
