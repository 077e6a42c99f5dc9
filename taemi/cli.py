"""``taemi``: demo, init, synth, check, extract, train, ablate, evaluate."""

from __future__ import annotations

import typer

from taemi.commands.ablate import ablate
from taemi.commands.check import check
from taemi.commands.demo import demo
from taemi.commands.evaluate import evaluate
from taemi.commands.extract import extract
from taemi.commands.init import init
from taemi.commands.synth import synth
from taemi.commands.train import train
from taemi_runtime.cluster.address import ClusterCommand
from taemi_runtime.console import run_app

app = typer.Typer(
    name="taemi",
    help="Train TAEMI: six emotional mimicry intensities from a clip's sound, face and words.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# In the order in which one uses them.
for command in (demo, init, synth, check, extract, train, ablate, evaluate):
    # --ray may stand without a value.
    app.command(cls=ClusterCommand if command is extract else None)(command)


def main() -> None:
    """Run the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
