"""What the benchmarks of whole clips share: finding clips, and their command lines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from taemi_runtime.atomic import write_text
from taemi_runtime.inputs import expand


def find_clips(folder: str, most: int) -> list[Path]:
    """Return the clips of a folder, at most so many."""
    return [clip.path for clip in expand([folder]) if not clip.error][:most]


def parser_of(description: str, *, clips: int, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options that all of them have.

    Args:
        description: What the benchmark does.
        clips: How many clips where nobody says.
        rounds: How many rounds where nobody says.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder")
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--said", default="I did not expect that at all", help="what is said in every clip")
    parser.add_argument("--clips", type=int, default=clips)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--json", type=Path)
    return parser


def report(found: dict[str, Any], file: Path | None) -> None:
    """Print what was measured, and write it to a file where one is named."""
    text = json.dumps(found, indent=2)
    if file is not None:
        write_text(file, text + "\n")
    print(text)
