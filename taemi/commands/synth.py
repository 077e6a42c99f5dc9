"""``taemi synth``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taemi.commands.options import Debug, Quiet
from taemi_runtime.console import Step, progress, say


def synth(
    out: Annotated[Path, typer.Argument(help="folder to write the corpus into")],
    clips: Annotated[int, typer.Option(min=5, help="number of clips over all splits")] = 200,
    seed: Annotated[int, typer.Option(help="seed of everything drawn")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="processes that draw")] = 2,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a synthetic corpus in the Hume-Vidmimic2 layout."""
    del debug
    from taemi.synth import write_corpus

    step = Step("synth")
    with progress(quiet=quiet) as tick:
        write_corpus(
            out,
            clips=clips,
            seed=seed,
            workers=workers,
            progress=lambda done, total: tick("clips", done, total),
        )
    say(step.done(out, f"{clips} synthetic clips"), quiet=quiet)
    say(f"next: taemi train {out} --out run --encoders tiny", quiet=quiet)
