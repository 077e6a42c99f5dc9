"""How fast clips are scored, file to scores: one after the other in stages, as a pipeline, and as a folder.

    python benchmarks/clip_rates.py FOLDER --engine BUNDLE [--clips N] [--rounds N] [--json FILE]

Every round takes the same clips in all three ways, in turn, so that what disturbs the machine disturbs all of
them; ratios are medians over the rounds. The folder's time includes starting its workers.
"""

from __future__ import annotations

import contextlib
import operator
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clip_ways import find_clips, parser_of, report
from taemi_bench.machine import judge_noise, read_activity, read_machine
from taemi_runtime.asr.listener import Listener
from taemi_runtime.engine import EngineOptions
from taemi_runtime.host import runs_on_cpu, usable_cores
from taemi_runtime.loading import open_model
from taemi_runtime.parallel import Request, score_parallel
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.results import ClipFailure
from taemi_runtime.scale import Scale, choose_scale
from taemi_runtime.transcripts import Transcript
from taemi_runtime.whole_way import score_in_turn

Way = Callable[[Sequence[Path]], int]


def measure(folder: str, engine: Path, *, said: str, clips: int, rounds: int, device: str) -> dict[str, Any]:
    """Score clips in every way.

    Args:
        folder: Where they are.
        engine: What scores them.
        said: What is said in each.
        clips: How many are taken at most.
        rounds: How often.
        device: Where engines run.

    Returns:
        Seconds of each round by way, clips a second, and how often as fast the others are as stages in turn.
    """
    paths = find_clips(folder, clips)
    scale = choose_scale(None, workers=None, batch=None, threads=0, on_cpu=runs_on_cpu(device))
    with contextlib.ExitStack() as stack:

        def load(threads: int) -> ClipScorer:
            model = open_model(engine, options=EngineOptions(device=device, threads=threads))
            scorer = stack.enter_context(ClipScorer(model, listener=Listener("none")))
            scorer.prepare()
            scorer.score(paths[0], said)
            return scorer

        one, many = load(0), load(scale.threads)
        ways: dict[str, Way] = {
            "stages in turn": lambda some: _in_turn(one, some, said),
            "pipeline": lambda some: _pipeline(one, some, said),
            "folder": lambda some: _folder(many, some, said, scale),
        }
        spent: dict[str, list[float]] = {name: [] for name in ways}
        before = read_activity()
        for number in range(rounds):
            for name, way in ways.items():
                start = time.perf_counter()
                failed = way(paths)
                spent[name].append(time.perf_counter() - start)
                print(
                    f"round {number + 1}: {name}, {spent[name][-1]:.2f} s, {failed} failed", file=sys.stderr
                )
        noise = judge_noise(before, read_activity(), usable_cores())
    return {
        "machine": asdict(read_machine()),
        "noise": asdict(noise),
        "engine": str(engine),
        "clips": len(paths),
        "scale": vars(scale),
        "seconds": spent,
        "clips_per_s": {name: len(paths) / statistics.median(times) for name, times in spent.items()},
        "ratios": {
            name: {
                "median_of_rounds": statistics.median(map(operator.truediv, spent["stages in turn"], times)),
                # What else ran on the machine only ever adds time.
                "best_of_rounds": min(spent["stages in turn"]) / min(times),
            }
            for name, times in spent.items()
        },
    }


def _in_turn(scorer: ClipScorer, paths: Sequence[Path], said: str) -> int:
    return sum(isinstance(score_in_turn(scorer, path, Transcript.given(said)), ClipFailure) for path in paths)


def _pipeline(scorer: ClipScorer, paths: Sequence[Path], said: str) -> int:
    for path in paths:
        scorer.score(path, said)
    return 0


def _folder(scorer: ClipScorer, paths: Sequence[Path], said: str, scale: Scale) -> int:
    requests = [Request(index, path, lambda _: Transcript.given(said)) for index, path in enumerate(paths)]
    found = score_parallel(scorer, requests, scale)
    return sum(isinstance(item.outcome, ClipFailure) for item in found)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the result as JSON."""
    parser = parser_of(__doc__ or "", clips=64, rounds=3)
    parser.add_argument("--device", default="auto")
    given = parser.parse_args(arguments)
    found = measure(
        given.folder,
        given.engine,
        said=given.said,
        clips=given.clips,
        rounds=given.rounds,
        device=given.device,
    )
    report(found, given.json)


if __name__ == "__main__":
    main()
