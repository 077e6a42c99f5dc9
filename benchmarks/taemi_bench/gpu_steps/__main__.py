"""Runs one step: ``python -m taemi_bench.gpu_steps NAME --work DIR --result FILE``."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from taemi_bench.gpu_steps import STEPS
from taemi_bench.gpu_steps.contract import Context, NotRunError, Recorder
from taemi_bench.timer import describe_failure
from taemi_runtime.errors import DeviceError, MissingExtraError


def run_step(name: str, context: Context) -> str:
    """Run a step to its end and write how it ended.

    Args:
        name: The step's name.
        context: What it works with.

    Returns:
        ``ok``, ``not run`` or ``failed``.
    """
    step = next(step for step in STEPS if step.name == name)
    module, _, function = step.place.partition(":")
    status, why = "ok", ""
    try:
        getattr(import_module(f"taemi_bench.gpu_steps.{module}"), function)(context)
    except (NotRunError, MissingExtraError, DeviceError) as error:
        status, why = "not run", " ".join(str(error).split())
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        # A module of ours that is missing is a defect, one of somebody else is not installed.
        ours = package.startswith("taemi")
        status = "failed" if ours else "not run"
        why = describe_failure(error) if ours else f"the Python package {package} is not installed"
    except Exception as error:
        traceback.print_exc()
        status, why = "failed", describe_failure(error)
    context.recorder.write(status, why)
    return status


def main() -> None:
    """Parse the command line and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=[step.name for step in STEPS])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--build-pycuda", action="store_true")
    options = parser.parse_args()
    recorder = Recorder(options.result, options.name)
    context = Context(
        options.work,
        recorder,
        given_checkpoint=options.checkpoint,
        given_bundle=options.bundle,
        build_pycuda=options.build_pycuda,
        ends_at=time.monotonic() + options.seconds,
    )
    sys.exit(run_step(options.name, context) == "failed")


if __name__ == "__main__":
    main()
