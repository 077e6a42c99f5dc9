"""``taemi-bench compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taemi_bench.commands.options import Debug
from taemi_runtime.errors import UsageError


def compare(
    before: Annotated[
        Path, typer.Argument(metavar="A.json", help="What taemi-bench run --json wrote before.")
    ],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="And after.")],
    threshold: Annotated[
        str, typer.Option(metavar="P%", help="Changes up to this many percent are never flagged.")
    ] = "5%",
    absolute: Annotated[
        bool, typer.Option("--absolute", help="Judge milliseconds, even where both have PyTorch's row.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the comparison as JSON.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Say what became slower, less exact or larger from one run to another, beyond noise.

    Exit code: 0 nothing did, 1 something did, 2 usage (a file that is no report is usage, too).
    """
    del debug
    from taemi_bench.compare import compare_reports, parse_threshold
    from taemi_bench.compare_tables import print_comparison
    from taemi_bench.report import read_report
    from taemi_runtime.atomic import write_text
    from taemi_runtime.errors import DataError
    from taemi_runtime.output import require_writable
    from taemi_runtime.strict import to_json

    share = parse_threshold(threshold)
    if json_file is not None:
        require_writable(json_file)
    try:
        old, new = read_report(before), read_report(after)
    except DataError as error:
        # Exit code 1 is a regression here.
        raise UsageError(error.asked, error.found, error.fix) from error
    names = (str(before), str(after))
    found = compare_reports(old, new, names=names, threshold=share, absolute=absolute)
    if json_file is not None:
        write_text(json_file, to_json(found))
    print_comparison(found)
    if found.regressions:
        raise typer.Exit(1)
