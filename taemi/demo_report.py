"""The demo's page: one self-contained HTML file with what each step gave."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taemi_runtime.atomic import write_text
from taemi_runtime.emotions import EMOTIONS

if TYPE_CHECKING:
    from taemi.demo import DemoLog

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; } th, td { padding: .25rem .7rem; border-bottom: 1px solid #ddd; }
th { text-align: left; font-weight: 600; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
.note { background: #fff4d6; padding: .6rem .9rem; border-left: 4px solid #e0a800; }
td { white-space: nowrap; }
.bar { background: #3b6ea5; height: .8rem; display: inline-block; vertical-align: middle; }
"""


def write_report(path: Path, log: DemoLog) -> None:
    """Write the page atomically.

    Args:
        path: The HTML file.
        log: What the demo did.
    """
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>taemi demo</title>",
        f"<style>{_STYLE}</style></head><body><h1>taemi demo</h1>",
        "<p class='note'>Synthetic clips, tiny audio and vision encoders with random weights before "
        f"training, text encoder: {escape(log.text_encoder)}. The figures say that the software works; "
        "they say nothing about people.</p>",
        "<h2>Steps</h2>",
        _table(("step", "seconds", "result"), [(step, f"{s:.1f}", result) for step, s, result in log.rows]),
        *_evaluation(log),
        *_scores(log),
        *_timings(log),
        "</body></html>\n",
    ]
    write_text(path, "\n".join(parts))


def _evaluation(log: DemoLog) -> list[str]:
    if log.evaluation is None:
        return []
    rows = []
    for name, rho in log.evaluation.rho.items():
        mean = float(np.mean(rho))
        bar = f"<span class='bar' style='width:{max(mean, 0) * 8:.2f}rem'></span>"
        cells = [f"{value:.3f}" for value in rho]
        rows.append((name, log.evaluation.clips[name], _Html(f"{bar} {mean:.3f}"), *cells))
    return [
        f"<h2>Pearson's rho on {len(log.evaluation.names)} held-out synthetic clips</h2>",
        _table(("modalities used", "clips with all", "mean", *EMOTIONS), rows),
    ]


def _scores(log: DemoLog) -> list[str]:
    if not log.scores:
        return []
    rows = []
    for emotion, score in log.scores["intensities"].items():
        bar = f"<span class='bar' style='width:{score * 20:.2f}rem'></span>"
        rows.append((emotion, _Html(f"{bar} {score:.3f}")))
    transcript = log.scores["modalities"]["text"].get("transcript", "")
    return [
        f"<h2>One held-out clip: {escape(Path(log.scores['clip']).name)}</h2>",
        f"<p>Transcript: {escape(transcript)}</p>",
        _table(("emotion", "intensity"), rows),
    ]


def _timings(log: DemoLog) -> list[str]:
    rows = [
        (
            row["graph"],
            row["name"],
            _number(row["latency_ms"].get("p50"), ".2f"),
            _number(row["latency_ms"].get("mean"), ".2f"),
            _number(row.get("max_abs"), ".1e"),
        )
        for row in log.timings.get("rows", [])
        if row.get("latency_ms")
    ]
    if not rows:
        return []
    return [
        "<h2>Latency on this machine, side by side</h2>",
        _table(("graph", "engine", "p50 ms", "mean ms", "largest difference"), rows),
    ]


class _Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = []
    for row in rows:
        cells = [
            f"<td>{cell}</td>"
            if isinstance(cell, _Html)
            else f"<td{_align(str(cell))}>{escape(str(cell))}</td>"
            for cell in row
        ]
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(body)}</table>"


def _align(cell: str) -> str:
    try:
        float(cell)
    except ValueError:
        return ""
    return " class='n'"
