"""Named ranges on a profiler's time line: decoding, every engine's calls, copies.

Off unless the environment variable ``TAEMI_NVTX`` is set to something but 0; then the package ``nvtx``
marks them for NVIDIA's Nsight Systems (``nsys profile --trace=cuda,nvtx taemi-infer ...``), in the domain
``taemi``.
Never seen in Nsight Systems so far: tests look at what the package is told.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module

VARIABLE = "TAEMI_NVTX"
_DOMAIN = "taemi"
_NOTHING: AbstractContextManager[object] = contextlib.nullcontext()

_log = logging.getLogger(__name__)


def span(name: str) -> AbstractContextManager[object]:
    """Mark what this thread does within the block; without a profiler in mind it does nothing.

    Args:
        name: What the range is called, one of few.
    """
    marker = _marker()
    return _NOTHING if marker is None else marker(name)


@functools.cache
def _marker() -> Callable[[str], AbstractContextManager[object]] | None:
    """Return what marks a range; ``None`` where ranges are off. The environment is looked at once."""
    if os.environ.get(VARIABLE, "0") in ("", "0"):
        return None
    try:
        nvtx = import_module("nvtx")
    except ImportError as error:
        _log.warning("%s is set but no range is marked: %s. Install it: pip install nvtx", VARIABLE, error)
        return None
    return functools.partial(nvtx.annotate, domain=_DOMAIN)
