"""Whether this processor multiplies 8-bit integers without losing any of their sum.

On x86 without VNNI, ONNX Runtime multiplies uint8 by int8 with an instruction that adds two products in
16 bits and saturates: 2 x 255 x 127 does not fit. Weights of 7 bits do. Arm's kernels never saturate.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path

_X86 = ("x86_64", "amd64", "x86", "i386", "i686")
_DOT_PRODUCTS = frozenset(("avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"))
_CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def has_dot_products() -> bool:
    """Say whether integer products are exact here; ``False`` where it cannot be found out."""
    return dot_products_of(platform.machine(), _cpuinfo())


def dot_products_of(machine: str, cpuinfo: str) -> bool:
    """Say whether a processor's integer products are exact.

    Args:
        machine: The architecture, as ``platform.machine()`` says it.
        cpuinfo: Content of ``/proc/cpuinfo``; empty where there is none.
    """
    if machine.lower() not in _X86:
        return True
    lines = (line for line in cpuinfo.splitlines() if line.startswith("flags"))
    return bool(_DOT_PRODUCTS & set(next(lines, "").split()))


def _cpuinfo() -> str:
    try:
        return _CPUINFO.read_text()
    except OSError:
        return ""
