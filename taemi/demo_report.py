"""The demo's page: one self-contained HTML file with what each step gave."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

from taemi.charts import Series, bar_chart, line_chart
from taemi.pages import Html, html_page, html_table
from taemi_runtime.atomic import write_text
from taemi_runtime.emotions import EMOTIONS

if TYPE_CHECKING:
    from taemi.demo import DemoLog

_FRAMES_SHOWN = 8
_STYLE = """
.frames { display: flex; flex-wrap: wrap; gap: 6px; }
.frames img { width: 112px; height: 112px; border-radius: 4px; }
blockquote { margin: .6rem 0 1rem; padding-left: .8rem; border-left: 3px solid #b8c4d0; }
"""


def write_report(path: Path, log: DemoLog) -> None:
    """Write the page atomically.

    Args:
        path: The HTML file.
        log: What the demo did.
    """
    parts = [
        "<p class='note'>Synthetic clips, tiny audio and vision encoders with random weights before "
        f"training, text encoder: {escape(log.text_encoder)}. The figures say that the software works; "
        "they say nothing about people.</p>",
        "<h2>Steps</h2>",
        html_table(
            ("step", "seconds", "result"), [(step, f"{s:.1f}", result) for step, s, result in log.rows]
        ),
        *_training(log),
        *_evaluation(log),
        *_unseen(log),
        *_clip(log),
        *_timings(log),
    ]
    write_text(path, html_page("taemi demo", parts, style=_STYLE))


def _training(log: DemoLog) -> list[str]:
    if not log.history:
        return []
    epochs = [report.epoch for report in log.history]
    loss = line_chart(
        [Series("loss", epochs, [report.loss for report in log.history])],
        x_label="epoch",
        y_label="training loss (mean squared error)",
    )
    rho = line_chart(
        [Series("rho", epochs, [report.rho for report in log.history])],
        x_label="epoch",
        y_label="validation rho, mean over six",
    )
    return ["<h2>Training</h2>", f"<div class='side'>{loss}{rho}</div>"]


def _evaluation(log: DemoLog) -> list[str]:
    if log.evaluation is None:
        return []
    rows = []
    for name, rho in log.evaluation.rho.items():
        values = [_shaded(value) for value in (float(np.mean(rho)), *rho)]
        rows.append((name, log.evaluation.clips[name], *values))
    return [
        f"<h2>Pearson's rho on {len(log.evaluation.names)} held-out synthetic clips</h2>",
        html_table(("modalities used", "clips with all", "mean", *EMOTIONS), rows),
        "<p>The other modalities are switched off; the model's learned tokens stand in for them.</p>",
    ]


def _unseen(log: DemoLog) -> list[str]:
    if not log.unseen:
        return []
    rows = []
    for sentence, emotion, scores in log.unseen:
        cells = [_shaded(score, bold=score == max(scores)) for score in scores]
        rows.append((sentence, emotion, *cells))
    return [
        "<h2>Sentences that no clip has, scored by their words alone</h2>",
        html_table(("sentence", "meant as", *EMOTIONS), rows),
        "<p>The highest score of each sentence is bold.</p>",
    ]


def _clip(log: DemoLog) -> list[str]:
    if not log.scores:
        return []
    text = log.scores["modalities"]["text"].get("transcript", "")
    scores = bar_chart(
        [(name, score, f"{score:.3f}") for name, score in log.scores["intensities"].items()], top=1.0
    )
    parts = [
        f"<h2>One held-out clip: {escape(Path(log.scores['clip']).name)}</h2>",
        f"<blockquote>{escape(text)}</blockquote>",
        _frames(log.frames),
        f"<div class='side'><figure>{scores}<figcaption>intensities</figcaption></figure>",
    ]
    if log.attention:
        # Weights of sequences of unlike lengths compare as multiples of an even spread.
        lines = [
            Series(name, trace.seconds.tolist(), (trace.weights * len(trace.weights)).tolist())
            for name, trace in log.attention.items()
        ]
        chart = line_chart(lines, x_label="seconds", y_label="attention, 1 = even")
        parts.append(f"<figure>{chart}<figcaption>what the text attends to, over time</figcaption></figure>")
    return [*parts, "</div>"]


def _frames(frames: npt.NDArray[np.uint8] | None) -> str:
    if frames is None or not len(frames):
        return ""
    chosen = np.linspace(0, len(frames) - 1, min(_FRAMES_SHOWN, len(frames))).round().astype(int)
    images = []
    for index in chosen:
        stream = io.BytesIO()
        Image.fromarray(frames[index].transpose(1, 2, 0)).save(stream, "JPEG", quality=80)
        data = base64.b64encode(stream.getvalue()).decode()
        images.append(f"<img alt='frame {index}' src='data:image/jpeg;base64,{data}'>")
    return f"<div class='frames'>{''.join(images)}</div>"


def _timings(log: DemoLog) -> list[str]:
    bars = [
        (f"{row['graph']}: {row['name']}", row["latency_ms"]["p50"], f"{row['latency_ms']['p50']:.2f} ms")
        for row in log.timings.get("rows", [])
        if row.get("latency_ms") and row["latency_ms"].get("p50") is not None
    ]
    if not bars:
        return []
    return [
        "<h2>Latency on this machine, side by side</h2>",
        bar_chart(bars, width=640, left=240),
        "<p>Medians of one call each, PyTorch and ONNX Runtime in turn in one process. "
        "<code>bench.json</code> beside this page has the sizes, the samples and the differences.</p>",
    ]


def _shaded(value: float, *, bold: bool = False) -> Html:
    """A number on a background as deep as it is large: blue above zero, orange below."""
    colour = "0, 114, 178" if value >= 0 else "213, 94, 0"
    shade = f"background: rgba({colour}, {min(abs(value), 1) * 0.55:.2f})"
    return Html(f"<td class='n' style='{shade}{'; font-weight: 700' if bold else ''}'>{value:.3f}</td>")
