"""``taemi-bench``: latency and parity, side by side with PyTorch."""

from __future__ import annotations

import typer

from taemi_bench.commands.compare import compare
from taemi_bench.commands.run import run
from taemi_bench.commands.store import store
from taemi_runtime.console import run_app

app = typer.Typer(
    name="taemi-bench",
    help="Measure exported models side by side with PyTorch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (run, compare, store):
    app.command()(command)


def main() -> None:
    """Run the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
