"""``taemi demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taemi.commands.options import Debug, Quiet, need_torch


def demo(
    out: Annotated[Path, typer.Option(help="folder for everything that the demo makes")] = Path("demo"),
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go the whole way on synthetic clips, offline, on a CPU, in a few minutes."""
    del debug
    need_torch("run the demo")
    from taemi.demo import run_demo

    run_demo(out, quiet=quiet)
