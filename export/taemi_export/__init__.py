"""From a checkpoint to a verified bundle of ONNX graphs.

A lazy facade: importing it loads neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from taemi_export.export import export_onnx
    from taemi_export.report import VerifyReport
    from taemi_export.verify import verify_bundle

__all__ = ["VerifyReport", "export_onnx", "verify_bundle"]

_HOMES = {
    "VerifyReport": "taemi_export.report",
    "export_onnx": "taemi_export.export",
    "verify_bundle": "taemi_export.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'taemi_export' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
