"""Switching off what libraries report about their users: nothing goes out that nobody asked for."""

from __future__ import annotations

import os

# ONNX Runtime (from 1.31 on Linux) writes an identifier of the machine into the cache folder and a session
# file into the temporary one as it is imported, and sends events to its maker (its Privacy.md). The Hugging
# Face hub's library counts downloads by a header (its environment variables, HF_HUB_DISABLE_TELEMETRY).
_SWITCHES = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def disable_telemetry() -> None:
    """Switch reports off; to be called before such a library is imported, which is when it looks.

    Who has set a variable of these to something else keeps it.
    """
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)
