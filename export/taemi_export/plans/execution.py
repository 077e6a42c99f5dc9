"""What a plan's sidecar says of the GPU that it first ran on: written when verification has run it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from taemi_export.bundle_update import bundle_shadow, list_file
from taemi_export.report import EngineResult
from taemi_runtime import host
from taemi_runtime.atomic import write_text
from taemi_runtime.backends.tensorrt_library import import_library
from taemi_runtime.bundle import Bundle
from taemi_runtime.engine_choice import is_plan
from taemi_runtime.plan_sidecar import Execution, format_sidecar, read_sidecar, sidecar_name


def note_executions(bundle: Path, engines: Iterable[EngineResult], device: str = "auto") -> list[str]:
    """Write into the sidecars of plans that were run for the first time where that was.

    Args:
        bundle: The bundle's folder.
        engines: What verification found.
        device: The device that it ran on, as given on the command line.

    Returns:
        The plans whose sidecars were written.

    Raises:
        WriteError: The bundle cannot be written; it is as it was.
    """
    opened = Bundle.open(bundle)
    ran = [
        engine.file
        for engine in engines
        if is_plan(engine.file)
        and engine.method == "executed"
        and engine.outputs
        and engine.file in opened.manifest.files
        and read_sidecar(opened, engine.file).executed is None
    ]
    if not ran:
        return []
    _, index = host.parse_device(device)
    driver = host.cuda_driver()
    major, minor = host.compute_capability(index) or (0, 0)
    with bundle_shadow(bundle) as shadow:
        for name in ran:
            sidecar = read_sidecar(opened, name)
            done = Execution(
                device=driver.devices[index] if index < len(driver.devices) else "",
                compute_capability=f"{major}.{minor}",
                driver=driver.version,
                library_version=import_library(sidecar.library).__version__,
                date=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            path = shadow / sidecar_name(name)
            write_text(path, format_sidecar(replace(sidecar, executed=done)))
            list_file(shadow, path.name)
    return ran
