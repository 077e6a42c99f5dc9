"""What training's settings cost and gain on this machine.

    python benchmarks/training_speed.py steps [--encoders tiny|published] [--batch N] [--rounds N]
    python benchmarks/training_speed.py epochs CORPUS --store STORE [--rounds N]

``steps`` takes optimiser steps of the end-to-end mode as it is, with activations computed twice, in bfloat16
and compiled, each in a process of its own so that its peak memory is its own. ``epochs`` takes epochs of the
frozen mode with shuffled and with bucketed batches, and of the end-to-end mode with and without processes
that read batches, in turn; ratios are medians over the rounds. Weights are random: none of this says how well
a model learns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from taemi.assemble import assemble
from taemi.choice import EncoderChoice
from taemi.data import read_data
from taemi.features import open_features
from taemi.processes import Processes
from taemi.recipe import Recipe
from taemi.reports import peak_memory_bytes
from taemi.schedule import WarmupCosine
from taemi.step_plan import Share, StepPlan
from taemi.stepper import Stepper
from taemi.system import Batch
from taemi.train import train
from taemi.training_data import TrainingData, make_collate
from taemi_bench.machine import read_machine
from taemi_runtime.atomic import write_text

SWITCHES = {
    "as it is": {},
    "checkpointing": {"checkpointing": True},
    "bf16": {"precision": "bf16"},
    "compile": {"compile": True},
}


def choice_of(encoders: str) -> EncoderChoice:
    """Return the encoders that are measured."""
    return EncoderChoice("tiny") if encoders == "tiny" else EncoderChoice("paper", random_weights=True)


def take_steps(switch: str, encoders: str, batch: int, steps: int) -> dict[str, Any]:
    """Take steps of 12 s clips, and return their seconds and the process's peak memory."""
    recipe = Recipe(batch_size=batch, **SWITCHES[switch])
    system = assemble("paper", choice_of(encoders), seed=1)
    alone = Processes(0, 1, torch.device("cpu"))
    stepper = Stepper(system, recipe, WarmupCosine(1e-4, 0, 1000), alone)
    stepper.train_mode()
    loaded = peak_memory_bytes(alone.device)
    generator = torch.Generator().manual_seed(0)
    audio = system.preprocessing.audio
    clips = Batch(
        waveform=torch.randn(batch, audio.max_samples, generator=generator),
        samples=torch.full((batch,), audio.max_samples),
        vision=torch.randn(batch, 400, system.config.vision_dim, generator=generator),
        vision_mask=torch.ones(batch, 400, dtype=torch.bool),
        input_ids=torch.randint(5, 500, (batch, 24), generator=generator),
        attention_mask=torch.ones(batch, 24, dtype=torch.int64),
        present=torch.ones(batch, 3, dtype=torch.bool),
        labels=torch.rand(batch, 6, generator=generator),
    )
    share = Share(tuple(range(batch)), batch, batch, last=True)
    seconds = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        stepper.add(clips, share)
        seconds.append(time.perf_counter() - start)
    return {
        "first_step_s": seconds[0],
        "step_s": seconds[1:],
        "peak_memory_bytes": peak_memory_bytes(alone.device),
        "peak_memory_before_bytes": loaded,
    }


def measure_steps(encoders: str, batch: int, rounds: int) -> dict[str, Any]:
    """Measure each switch in a process of its own."""
    rows = {}
    for switch in SWITCHES:
        command = [sys.executable, __file__, "one", switch, encoders, str(batch), str(rounds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            rows[switch] = {"error": done.stderr.strip().splitlines()[-1]}
        else:
            rows[switch] = json.loads(done.stdout.splitlines()[-1])
        print(switch, json.dumps(rows[switch]), file=sys.stderr, flush=True)
    plain = statistics.median(rows["as it is"]["step_s"])
    memory = rows["as it is"]["peak_memory_bytes"]
    for row in rows.values():
        if "step_s" in row:
            row["times_as_long"] = statistics.median(row["step_s"]) / plain
            row["times_the_memory"] = row["peak_memory_bytes"] / memory
    return {"encoders": encoders, "batch": batch, "rows": rows}


def measure_epochs(corpus: Path, store: Path, rounds: int) -> dict[str, Any]:
    """Measure whole epochs in turn."""
    data = read_data(corpus)
    blank = assemble("paper", EncoderChoice("tiny"), seed=1, max_fps=8.0)
    frozen = Recipe(epochs=1, patience=1, frozen=True, workers=2, save_every=0)
    waiting = Recipe(epochs=1, patience=1, pad="longest", save_every=0)
    ways = {
        "frozen, shuffled": replace(frozen, batching="shuffled"),
        "frozen, bucketed": frozen,
        "end to end, workers 0": waiting,
        "end to end, workers 2": replace(waiting, workers=2),
    }
    padded = _padding(data, store, blank, ways["frozen, shuffled"]), _padding(data, store, blank, frozen)
    rows: dict[str, Any] = {
        name: {"training_s": [], "waiting_share": [], "peak_memory_bytes": 0} for name in ways
    }
    # Read from the store as it is: it keeps more than the end-to-end mode would extract.
    kept = read_data(store)
    weights = {name: value.clone() for name, value in blank.state_dict().items()}
    for _ in range(rounds):
        for name, recipe in ways.items():
            blank.load_state_dict(weights)
            blank.requires_grad_(True)
            blank.vision_encoder.requires_grad_(False)
            with tempfile.TemporaryDirectory() as out:
                said: list[Any] = []
                train(blank, kept, Path(out), recipe, report=said.append)
            row = rows[name]
            row["training_s"].append(said[0].training_seconds)
            row["waiting_share"].append(said[0].waiting_seconds / said[0].training_seconds)
            row["peak_memory_bytes"] = said[0].peak_memory_bytes
            print(name, said[0].training_seconds, row["waiting_share"][-1], file=sys.stderr, flush=True)
    gain = [a / b for a, b in zip(*(rows[name]["training_s"] for name in list(ways)[:2]), strict=True)]
    return {
        "clips": len(data.split("train")),
        "batch": frozen.batch_size,
        "rows": rows,
        "frames_padded_share": dict(zip(list(ways)[:2], padded, strict=True)),
        "bucketed_times_as_fast": statistics.median(gain),
    }


def _padding(data: Any, store: Path, system: Any, recipe: Recipe) -> float:
    """Return the share of a batch's frames of sound and vision that are padding."""
    features = open_features(data, store, system, frozen=True, workers=None)
    for split in ("train", "valid"):
        features.extract(data.split(split), split=(data, split))
    rows = data.split("train")
    known = TrainingData(features, rows, (), make_collate(system, recipe))
    plan = StepPlan(
        len(rows),
        recipe.batch_size,
        seed=1,
        lengths=known.lengths(recipe.modalities) if recipe.buckets else None,
    )
    valid = total = 0
    for batch in known.load(rows, [share.clips for share in plan.epoch(1)], workers=0, pin=False):
        for mask in (batch.audio_mask, batch.vision_mask):
            valid, total = valid + int(mask.sum()), total + mask.numel()
    return 1 - valid / total


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("one")
    one.add_argument("switch")
    one.add_argument("encoders")
    one.add_argument("batch", type=int)
    one.add_argument("rounds", type=int)
    steps = commands.add_parser("steps")
    steps.add_argument("--encoders", choices=("tiny", "published"), default="published")
    steps.add_argument("--batch", type=int, default=2)
    epochs = commands.add_parser("epochs")
    epochs.add_argument("corpus", type=Path)
    epochs.add_argument("--store", type=Path, required=True)
    for command in (steps, epochs):
        command.add_argument("--rounds", type=int, default=3)
        command.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.command == "one":
        print(json.dumps(take_steps(asked.switch, asked.encoders, asked.batch, asked.rounds)))
        return
    if asked.command == "steps":
        found = measure_steps(asked.encoders, asked.batch, asked.rounds)
    else:
        found = measure_epochs(asked.corpus, asked.store, asked.rounds)
    text = json.dumps({"machine": asdict(read_machine()), **found}, indent=2)
    if asked.json is not None:
        write_text(asked.json, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
