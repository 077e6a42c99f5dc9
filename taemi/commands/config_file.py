"""Options from a TOML file: the command line counts before the file, the file before the defaults."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from taemi_runtime.atomic import write_text
from taemi_runtime.errors import UsageError

# What belongs to one call and not to a run.
_NO_SETTINGS = frozenset({"config", "debug", "force", "quiet", "resume"})


def read_options(context: typer.Context, path: Path | None) -> Path | None:
    """Take a file's values as the defaults of a command's options.

    Raises:
        UsageError: The file cannot be read, or holds what is no option of the command.
    """
    if path is None:
        return None
    asked = f"cannot take options from {path}"
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(asked, error.strerror or str(error), "Name a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(asked, f"it is no TOML: {error}", "Write lines like: epochs = 50") from error
    known = {
        parameter.name: parameter
        for parameter in context.command.params
        if parameter.name not in _NO_SETTINGS
    }
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in known:
            raise UsageError(
                asked,
                f"{context.command.name} has no option {key!r}",
                f"Choose from: {', '.join(sorted(str(name) for name in known))}",
            )
        if isinstance(value, Mapping):
            raise UsageError(asked, f"{key} is a table", "Write options side by side, without [tables]")
        # Options that take a list of names in one word take a TOML list, too.
        several = getattr(known[name], "multiple", False)
        defaults[name] = ",".join(map(str, value)) if isinstance(value, list) and not several else value
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def write_options(context: typer.Context, path: Path) -> None:
    """Write the options that a command runs with, so that ``--config`` repeats it."""
    lines = ["# What this was made with; taemi takes it with --config."]
    for name, value in sorted(context.params.items()):
        if name in _NO_SETTINGS or value is None:
            continue
        # TOML writes strings, numbers, truth values and lists of them as JSON does.
        plain = str(value) if isinstance(value, Path) else value
        lines.append(f"{name} = {json.dumps(plain, ensure_ascii=False)}")
    write_text(path, "\n".join(lines) + "\n")


Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        is_eager=True,
        callback=read_options,
        help="TOML file with options by their names, e.g. epochs = 50; the command line counts first",
    ),
]
