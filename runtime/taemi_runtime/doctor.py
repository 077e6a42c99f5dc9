"""What works on this machine, and the command that mends what does not."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import taemi_runtime
from taemi_runtime.asr import recognisers
from taemi_runtime.asr.recogniser import PREFERRED
from taemi_runtime.backends import backend, registered
from taemi_runtime.backends.onnxruntime_session import import_onnxruntime, installed_distributions
from taemi_runtime.backends.tensorrt_library import import_library
from taemi_runtime.cuda.registry import layer, layer_names
from taemi_runtime.errors import TaemiError
from taemi_runtime.host import cuda_driver, usable_cores
from taemi_runtime.plan_sidecar import LIBRARIES

_GPU = "GPU"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Args:
        group: What it belongs to.
        name: What it is.
        usable: Whether it can be used here.
        detail: Its version, or why it cannot be used.
        fix: The command that mends it; empty when nothing needs mending.
    """

    group: str
    name: str
    usable: bool
    detail: str
    fix: str = ""


def examine() -> list[Check]:
    """Look at every backend, the media library, the CUDA driver and the recognisers; nothing raises."""
    return [_host(), *_backends(), *_onnxruntime(), _media(), _faces(), *_cuda(), *_recognisers()]


def format_checks(checks: list[Check]) -> str:
    """Format checks as indented text, grouped."""
    width = max(len(check.name) for check in checks)
    lines = []
    group = ""
    for check in checks:
        if check.group != group:
            group = check.group
            lines.append(group)
        lines.append(f"  {'ok' if check.usable else '--'}  {check.name:<{width}}  {check.detail}")
        if check.fix:
            lines.append(f"      {'':<{width}}  to mend: {check.fix}")
    return "\n".join(lines)


def to_objects(checks: list[Check]) -> list[dict[str, Any]]:
    """Return checks as plain values for JSON."""
    return [asdict(check) for check in checks]


def _host() -> Check:
    cores = usable_cores()
    logical = os.cpu_count() or cores
    detail = (
        f"taemi {taemi_runtime.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}, {cores} usable cores of {logical} logical"
    )
    return Check("host", "taemi", True, detail)


def _backends() -> Iterator[Check]:
    for name in registered():
        try:
            probe = backend(name).probe()
        except TaemiError as error:
            yield Check("backends", name, False, error.found, error.fix)
        except Exception as error:  # a foreign plug-in may do anything; the others are still shown
            yield Check("backends", name, False, f"its probe failed ({type(error).__name__}: {error})")
        else:
            yield Check("backends", name, probe.usable, probe.detail, probe.fix)


def _onnxruntime() -> Iterator[Check]:
    try:
        ort = import_onnxruntime("cpu")
    except TaemiError:
        return
    providers = ", ".join(ort.get_available_providers())
    found = installed_distributions()
    several = len(found) > 1
    listed = ", ".join(f"{name} {number}" for name, number in found.items())
    yield Check(
        "onnxruntime",
        "providers",
        not several,
        f"{providers} (from {listed or 'no known distribution'})",
        f'two distributions fight: pip uninstall -y {" ".join(found)}, then pip install "taemi[cpu]" or '
        '"taemi[gpu]"'
        if several
        else "",
    )


def _media() -> Check:
    try:
        import av
    except ImportError as error:
        return Check("media", "av", False, f"it does not import ({error})", "pip install av")
    codec = ".".join(map(str, av.library_versions["libavcodec"]))
    return Check("media", "av", True, f"av {av.__version__}, libavcodec {codec}")


def _faces() -> Check:
    from taemi_runtime.faces.cascade import CascadeDetector
    from taemi_runtime.faces.opencv import import_opencv

    try:
        CascadeDetector()
        number = import_opencv().__version__
    except TaemiError as error:
        return Check("media", "opencv", False, f"no --faces auto: {error.found}", error.fix)
    return Check("media", "opencv", True, f"opencv {number}, with its face cascades")


def _cuda() -> Iterator[Check]:
    driver = cuda_driver()
    if driver.why:
        yield Check(_GPU, "CUDA driver", False, driver.why, "Install NVIDIA's driver; a CPU needs none")
    else:
        yield Check(_GPU, "CUDA driver", True, f"CUDA {driver.version}, {', '.join(driver.devices)}")
    for name in layer_names():
        probe = layer(name).probe()
        yield Check(_GPU, f"device layer {name}", probe.usable, probe.detail, probe.fix)
    for library, words in LIBRARIES.items():
        name = f"library {library}"
        try:
            detail = f"{words} {import_library(library).__version__}"
        except TaemiError as error:
            yield Check(_GPU, name, False, error.found, error.fix)
        else:
            yield Check(_GPU, name, True, detail)


def _recognisers() -> Iterator[Check]:
    group = "speech recognisers (optional: transcripts can be given with --transcript)"
    for kind in recognisers():
        found = kind.probe()
        detail = found.detail
        if found.usable:
            model = kind.at_hand()
            none_yet = f"no model here yet (--asr {PREFERRED[0]} downloads one)"
            detail += f", model {model}" if model else f", {none_yet}"
        yield Check(group, kind.name, found.usable, detail, found.fix)
