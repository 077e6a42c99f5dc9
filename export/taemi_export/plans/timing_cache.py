"""Measured kernels on disk, so that the second build of a graph on a machine is quick.

For TensorRT only: TensorRT for RTX deprecates timing caches, and giving it one makes it ask for a GPU. A
cache is a help and never a condition: one that is damaged or of another GPU is replaced, and one that
cannot be written is left.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from taemi_export.plans.library import Gpu, Library
from taemi_export.plans.targets import sm_name
from taemi_runtime.atomic import write_bytes
from taemi_runtime.errors import TaemiError

_log = logging.getLogger(__name__)


def default_path(library: Library, gpu: Gpu) -> Path:
    """Return where the cache of a library's version and a kind of GPU lies: below the user's cache folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "taemi" / f"{library.name}-{library.version}-{sm_name(gpu.capability)}.timing"


class TimingCache:
    """One cache file.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def give(self, config: Any) -> bool:
        """Hand the cache to a builder config.

        Args:
            config: An ``IBuilderConfig``.

        Returns:
            Whether what lay on disk is used; an empty cache is given otherwise.
        """
        try:
            content = self.path.read_bytes()
        except OSError:
            content = b""
        # The second argument asks for a refusal when device, CUDA or TensorRT are others.
        if content and config.set_timing_cache(config.create_timing_cache(content), False):
            return True
        if content:
            _log.warning("timing cache %s is of another GPU or version: starting a new one", self.path)
        config.set_timing_cache(config.create_timing_cache(b""), False)
        return False

    def keep(self, config: Any) -> None:
        """Write back what a build added."""
        cache = config.get_timing_cache()
        if cache is None:
            return
        try:
            write_bytes(self.path, bytes(cache.serialize()))
        except (TaemiError, OSError) as error:
            _log.warning("timing cache %s is not kept: %s", self.path, error)
