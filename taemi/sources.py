"""Where an encoder comes from: a local folder or a hub id, and how both are read.

A folder never touches the network. A hub id is downloaded because the user named it; when the hub
cannot be reached the local cache is tried and otherwise a clear error is raised at once (the hub's
client would retry for half a minute, for every file). Code of a repository is never run.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import constants, try_to_load_from_cache
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from taemi_runtime.errors import CheckpointError

CONFIG_NAME = "config.json"
PREPROCESSOR_NAME = "preprocessor_config.json"

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_CONNECT_SECONDS = 3.0


@dataclass(frozen=True)
class Source:
    """A place that ``from_pretrained`` can read.

    Args:
        name: The hub id or the folder's own name; never a path, as it goes into checkpoints.
        location: What ``from_pretrained`` takes.
        hub_id: The hub id; ``None`` for a folder.
        local_only: Whether nothing may be downloaded.
    """

    name: str
    location: str
    hub_id: str | None
    local_only: bool


def resolve(id_or_dir: str | Path) -> Source:
    """Find out what an encoder's name means.

    Args:
        id_or_dir: A folder, or an id on the Hugging Face hub such as ``google/vit-base-patch16-224-in21k``.

    Raises:
        CheckpointError: There is no such folder, or the hub cannot be reached and the local cache does
            not hold the model.
    """
    text = str(id_or_dir)
    asked = f"cannot load encoder {text}"
    path = Path(text).expanduser()
    if path.is_dir():
        if not (path / CONFIG_NAME).is_file():
            raise CheckpointError(
                asked, f"the folder has no {CONFIG_NAME}", "Name a folder that save_pretrained wrote"
            )
        return Source(path.resolve().name, str(path), None, local_only=True)
    if isinstance(id_or_dir, Path) or path.exists() or not _HUB_ID.fullmatch(text):
        found = "it is a file" if path.exists() else "there is no such folder"
        raise CheckpointError(asked, found, "Name a folder that save_pretrained wrote, or a hub id")
    reason = _unreachable()
    if reason and not isinstance(try_to_load_from_cache(text, CONFIG_NAME), str):
        raise CheckpointError(
            asked,
            f"there is no folder of that name here, the model is not in the local cache of the hub "
            f"({constants.HF_HUB_CACHE}), and {reason}",
            "Connect once so that it can be downloaded, or copy the model's folder to this machine and "
            "name the folder. With no weights at hand: taemi init --random-weights, or --encoders tiny",
        )
    return Source(text, text, text, local_only=bool(reason))


def _unreachable() -> str:
    """Say why the hub cannot be reached; empty when it can, as far as a connection tells."""
    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    url = urlsplit(constants.ENDPOINT)
    if urllib.request.getproxies().get(url.scheme):
        return ""
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        return f"the hub at {constants.ENDPOINT} is not reachable ({error})"
    return ""


def find_file(source: Source, name: str) -> Path | None:
    """Return a file of the source, downloaded when need be; ``None`` when it has no such file.

    Raises:
        CheckpointError: The hub refused it.
    """
    with loading(source):
        found = cached_file(
            source.location,
            name,
            local_files_only=source.local_only,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    return Path(found) if found else None


def read_json(source: Source, name: str) -> Any:
    """Return a JSON file's content; ``None`` when the source has no such file.

    Raises:
        CheckpointError: The file is no JSON, or the hub refused it.
    """
    path = find_file(source, name)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            f"cannot load encoder {source.name}", f"its {name} is no JSON ({error})", "Fetch the model again"
        ) from error


def read_config(source: Source) -> dict[str, Any]:
    """Return the content of ``config.json``.

    Raises:
        CheckpointError: There is none, or it names no architecture that transformers knows by itself.
    """
    config = read_json(source, CONFIG_NAME)
    asked = f"cannot load encoder {source.name}"
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise CheckpointError(asked, f"its {CONFIG_NAME} is missing or names no model_type")
    return config


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars and warnings of transformers from the terminal: the caller reports."""
    bars = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def loading(source: Source) -> Iterator[None]:
    """Keep transformers quiet, and turn what it raises into one clear message."""
    try:
        with quiet():
            yield
    except (OSError, ValueError, ImportError, RuntimeError, KeyError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if source.hub_id:
            fix = "Check the id and the connection, or copy the model's folder here and name the folder"
        else:
            fix = "Check that the folder is whole, e.g. by saving it again with save_pretrained"
        raise CheckpointError(f"cannot load encoder {source.name}", lines[0].rstrip("."), fix) from error
