"""Running from a checkout that is not installed.

Model families and backends are found through entry points, which an installation writes and a checkout
on ``PYTHONPATH`` lacks. A GPU machine that is lent for minutes is used from a checkout.
"""

from __future__ import annotations

import os
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

NAME = "taemi"
PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def write_metadata(folder: Path, project: Path = PROJECT) -> Path | None:
    """Write what an installation would have written, for processes that get ``folder`` on their path.

    Args:
        folder: Where the metadata go.
        project: The checkout's pyproject.toml.

    Returns:
        ``folder``, or ``None`` when the package is installed or there is no checkout.
    """
    try:
        distribution(NAME)
    except PackageNotFoundError:
        pass
    else:
        return None
    if not project.is_file():
        return None
    described = tomllib.loads(project.read_text())["project"]
    groups = {"console_scripts": described.get("scripts", {}), **described.get("entry-points", {})}
    lines = []
    for group, entries in groups.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()), ""]
    info = folder / f"{NAME}-{described['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "entry_points.txt").write_text("\n".join(lines))
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {described['version']}\n")
    return folder


def child_environment(work: Path) -> dict[str, str]:
    """Return an environment in which processes import what this one does, also from a checkout.

    Args:
        work: A folder for what an installation would have written.
    """
    paths = [path or os.curdir for path in sys.path]
    metadata = write_metadata(work / "metadata")
    return os.environ | {"PYTHONPATH": os.pathsep.join([*paths, *([str(metadata)] if metadata else [])])}
