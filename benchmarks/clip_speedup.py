"""How much faster a bundle scores a clip, file to scores, than the same steps in PyTorch.

    python benchmarks/clip_speedup.py FOLDER --engine BUNDLE --checkpoint CKPT [--clips N] [--rounds N]

Every round takes the same clips in every way, in turn, so that what disturbs the machine disturbs all of
them; ratios are medians over the rounds. PyTorch decodes a clip, then encodes it, then fuses it, as its user
would write it down; its modes are float32 as the modules are, float32 compiled, bfloat16 by autocast, and
int8 weights by dynamic quantisation of the linear layers. The bundle's ways are the command's own. How many
frames PyTorch encodes in a call moves its speed, in int8 most: by default as many as the bundle's ways, with
``--torch-frames`` others, and with 0 all frames of a clip.
"""

from __future__ import annotations

import copy
import functools
import operator
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clip_ways import find_clips, parser_of, report
from taemi_bench.machine import judge_noise, read_activity, read_machine
from taemi_bench.pytorch_rows import compile_module
from taemi_runtime.asr.listener import Listener
from taemi_runtime.contract import FUSION
from taemi_runtime.engine import Engine, EngineInfo, EngineOptions
from taemi_runtime.host import usable_cores
from taemi_runtime.loading import LoadedModel, open_model
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.results import ClipFailure, ClipResult
from taemi_runtime.spec import Array, Arrays
from taemi_runtime.transcripts import Transcript
from taemi_runtime.whole_way import score_in_turn

if TYPE_CHECKING:
    from taemi.exportable import ExportGraph

EAGER = "PyTorch eager fp32"
Way = Callable[[Path], ClipResult | ClipFailure]
Call = Callable[[tuple[Any, ...]], Any]


class _TorchEngine(Engine):
    """A graph's module in one of PyTorch's modes."""

    def __init__(self, graph: ExportGraph, call: Call, mode: str) -> None:
        super().__init__(graph.spec, EngineInfo(mode, "pytorch", "fp32", "cpu"))
        self._call = call

    def _run(self, inputs: Arrays) -> dict[str, Array]:
        import torch

        tensors = tuple(torch.from_numpy(inputs[item.name].copy()) for item in self.spec.inputs)
        with torch.inference_mode():
            found = self._call(tensors)
        outputs = found if isinstance(found, tuple) else (found,)
        return {
            item.name: value.float().numpy() for item, value in zip(self.spec.outputs, outputs, strict=True)
        }


def _eager(graph: ExportGraph) -> Call:
    names = [item.name for item in graph.spec.inputs]
    reference = graph.reference
    return lambda tensors: tuple(
        reference(dict(zip(names, tensors, strict=True)))[item.name] for item in graph.spec.outputs
    )


def _compiled(graph: ExportGraph) -> Call:
    module = compile_module(copy.deepcopy(graph.module), "default", dynamic=True)
    return lambda tensors: module(*tensors)


def _bfloat16(graph: ExportGraph) -> Call:
    import torch

    def call(tensors: tuple[Any, ...]) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return graph.module(*tensors)

    return call


def _integer(graph: ExportGraph) -> Call:
    import torch

    if graph.spec.name == FUSION:
        return _eager(graph)  # its attention reads the layers' weights, which quantised layers do not have
    with warnings.catch_warnings():  # that the function moves to another package
        warnings.simplefilter("ignore")
        module = torch.ao.quantization.quantize_dynamic(copy.deepcopy(graph.module), {torch.nn.Linear})
    return lambda tensors: module(*tensors)


MODES: dict[str, Callable[[ExportGraph], Call]] = {
    EAGER: _eager,
    "PyTorch compiled fp32": _compiled,
    "PyTorch autocast bf16": _bfloat16,
    "PyTorch dynamic int8": _integer,
}


def measure(
    folder: str,
    engine: Path,
    checkpoint: Path,
    *,
    said: str,
    clips: int,
    rounds: int,
    torch_frames: int | None,
) -> dict[str, Any]:
    """Score clips in every way.

    Args:
        folder: Where they are.
        engine: The bundle, which has int8 graphs.
        checkpoint: What it was exported from.
        said: What is said in each clip.
        clips: How many are taken at most.
        rounds: How often.
        torch_frames: Frames a call of PyTorch; 0 for all of a clip, ``None`` for those of the bundle.

    Returns:
        Milliseconds of each round by way, ratios to eager PyTorch and to PyTorch's best mode, and how far the
        scores of each way are from eager PyTorch's.
    """
    paths = find_clips(folder, clips)
    ways, whys = _ways(engine, checkpoint, said, torch_frames)
    expected = {path: _scores(ways[EAGER](path)) for path in paths}
    apart = {
        name: max(float(np.abs(_scores(way(path)) - expected[path]).max()) for path in paths)
        for name, way in ways.items()
    }
    spent: dict[str, list[float]] = {name: [] for name in ways}
    before = read_activity()
    for number in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            for path in paths:
                way(path)
            spent[name].append((time.perf_counter() - start) * 1e3)
            print(f"round {number + 1}: {name}, {spent[name][-1]:.0f} ms", file=sys.stderr)
    noise = judge_noise(before, read_activity(), usable_cores())
    medians = {name: statistics.median(times) for name, times in spent.items()}
    best = min((name for name in medians if name in MODES), key=medians.__getitem__)
    return {
        "machine": asdict(read_machine()),
        "noise": asdict(noise),
        "engine": str(engine.name),
        "clips": len(paths),
        "frames_a_call_of_pytorch": "as the bundle's ways" if torch_frames is None else torch_frames or "all",
        "milliseconds": spent,
        "not_run": whys,
        "best_of_pytorch": best,
        "ratios": {
            name: {
                "to_eager": statistics.median(map(operator.truediv, spent[EAGER], times)),
                "to_best_of_pytorch": statistics.median(map(operator.truediv, spent[best], times)),
            }
            for name, times in spent.items()
        },
        "largest_difference_of_a_score": apart,
    }


def _ways(
    engine: Path, checkpoint: Path, said: str, torch_frames: int | None
) -> tuple[dict[str, Way], dict[str, str]]:
    ways: dict[str, Way] = {}
    whys: dict[str, str] = {}
    for mode, make in MODES.items():
        try:
            scorer = _scorer(_torch_model(checkpoint, mode, make))
            if torch_frames is not None:
                scorer.encoder.frames_a_call = torch_frames or sys.maxsize
            ways[mode] = functools.partial(score_in_turn, scorer, said=Transcript.given(said))
        except (RuntimeError, AttributeError) as error:
            whys[mode] = str(error).splitlines()[0]
    for precision in ("fp32", "int8"):
        file = engine / ("fusion.onnx" if precision == "fp32" else f"fusion.{precision}.onnx")
        scorer = _scorer(open_model(file, options=EngineOptions(device="cpu")))
        ways[f"taemi {precision}"] = functools.partial(scorer.score, transcript=said)
    return ways, whys


def _torch_model(checkpoint: Path, mode: str, make: Callable[[ExportGraph], Call]) -> LoadedModel:
    from taemi.exportable import open_source

    source = _open_once(open_source, checkpoint)
    model = open_model(checkpoint, options=EngineOptions(device="cpu", threads=usable_cores()))
    for graph in source.graphs:
        model._engines[graph.spec.name] = _TorchEngine(graph, make(graph), mode)
    return model


@functools.cache
def _open_once(opener: Callable[[Path], Any], checkpoint: Path) -> Any:
    return opener(checkpoint)


def _scorer(model: LoadedModel) -> ClipScorer:
    scorer = ClipScorer(model, listener=Listener("none"))
    scorer.prepare()
    return scorer


def _scores(found: ClipResult | ClipFailure) -> Array:
    if isinstance(found, ClipFailure):
        raise SystemExit(f"error: {found.message}")
    return np.array(list(found.intensities.values()))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the result as JSON."""
    parser = parser_of(__doc__ or "", clips=2, rounds=5)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--torch-frames", type=int, help="frames a call of PyTorch, 0 for all of a clip")
    given = parser.parse_args(arguments)
    found = measure(
        given.folder,
        given.engine,
        given.checkpoint,
        said=given.said,
        clips=given.clips,
        rounds=given.rounds,
        torch_frames=given.torch_frames,
    )
    report(found, given.json)


if __name__ == "__main__":
    main()
