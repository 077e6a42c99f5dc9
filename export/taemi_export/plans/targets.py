"""For which GPU a plan is built: names that people use, compute capabilities that libraries take."""

from __future__ import annotations

import re
from dataclasses import dataclass

from taemi_export.plans.library import Choice, Gpu
from taemi_runtime.errors import DeviceError, UsageError
from taemi_runtime.plan_sidecar import Compatibility

CURRENT = "current"
AMPERE_PLUS: Compatibility = "ampere-plus"

Capability = tuple[int, int]

GPUS: dict[str, Capability] = {
    "t4": (7, 5),
    "a100": (8, 0),
    "a800": (8, 0),
    "a30": (8, 0),
    "a10": (8, 6),
    "a40": (8, 6),
    "l4": (8, 9),
    "l20": (8, 9),
    "l40": (8, 9),
    "l40s": (8, 9),
    "h100": (9, 0),
    "h200": (9, 0),
    "h800": (9, 0),
    "h20": (9, 0),
    "gh200": (9, 0),
    "b100": (10, 0),
    "b200": (10, 0),
    "gb200": (10, 0),
    "b300": (10, 3),
    "rtx3090": (8, 6),
    "rtx4090": (8, 9),
    "rtx5090": (12, 0),
}
"""Compute capabilities as NVIDIA's table "CUDA GPU Compute Capability" gives them."""

RTX_CAPABILITIES: tuple[Capability, ...] = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""What TensorRT for RTX compiles for; a test compares this with its ``ComputeCapability``. Its support
matrix lists all of them but 8.0, which its builder accepts."""

_SM = re.compile(r"sm_?(\d{1,2})(\d)")


@dataclass(frozen=True)
class Target:
    """What a plan is compiled for.

    Args:
        name: What file names and sidecars call it: ``current``, ``ampere-plus`` or e.g. ``sm80``.
        capability: Its compute capability; ``None`` is this machine's, whatever it is.
        compatibility: On which other GPUs the plan may run.
    """

    name: str
    capability: Capability | None
    compatibility: Compatibility = "same-compute-capability"


def parse_target(given: str, choice: Choice) -> Target:
    """Read ``--target`` and refuse what the library cannot compile for.

    Args:
        given: ``current``, ``ampere-plus``, a compute capability (``sm80``) or a GPU (``a100``).
        choice: The library.

    Raises:
        UsageError: The name is unknown, or the library has no code for it.
    """
    name = given.lower()
    if name == CURRENT:
        return Target(CURRENT, None)
    if name == AMPERE_PLUS:
        if choice == "rtx":
            raise UsageError(
                f"cannot build plans for {given} with TensorRT for RTX",
                "it compiles for compute capabilities that are named",
                "Name one: --target sm80",
            )
        return Target(AMPERE_PLUS, None, AMPERE_PLUS)
    match = _SM.fullmatch(name)
    capability = (int(match[1]), int(match[2])) if match else GPUS.get(name)
    if capability is None:
        known = ", ".join((CURRENT, AMPERE_PLUS, "smNN", *GPUS))
        raise UsageError(
            f"cannot build plans for {given!r}", "there is no such target", f"Choose from: {known}"
        )
    if choice == "rtx":
        _check_rtx(given, capability)
    return Target(sm_name(capability), capability)


def _check_rtx(given: str, capability: Capability) -> None:
    if capability in RTX_CAPABILITIES:
        return
    known = ", ".join(map(sm_name, RTX_CAPABILITIES))
    also = "" if given.lower() == sm_name(capability) else f" ({sm_name(capability)})"
    raise UsageError(
        f"cannot build plans for {given}{also} with TensorRT for RTX",
        f"it has no code for that compute capability, only for {known}",
        "Build on such a GPU with TensorRT: taemi-export tensorrt BUNDLE",
    )


def resolve_target(target: Target, choice: Choice, gpu: Gpu | None) -> Target:
    """Fit a target to the machine: say what ``current`` is, refuse a GPU that is not here.

    Args:
        target: What was asked for.
        choice: The library.
        gpu: The GPU here.

    Returns:
        The target with its compute capability.

    Raises:
        UsageError: TensorRT for RTX was given no target and there is no GPU, or one that it has no code for.
        DeviceError: TensorRT was asked for another GPU than the one here.
    """
    if target.capability is None:
        if gpu is None:
            raise UsageError(
                "cannot build plans for this machine's GPU",
                "there is none",
                f"Name the target: --target {' or '.join(map(sm_name, RTX_CAPABILITIES))}",
            )
        if choice == "rtx":
            _check_rtx(f"this machine's {gpu.name}", gpu.capability)
        if target.compatibility == AMPERE_PLUS and gpu.capability < (8, 0):
            raise DeviceError(
                "cannot build plans for ampere-plus",
                f"they are built on Ampere or later, and this GPU, {gpu.name}, is {sm_name(gpu.capability)}",
                "Leave --target out, or build on another machine",
            )
        return Target(target.name, gpu.capability, target.compatibility)
    if choice == "tensorrt" and gpu is not None and gpu.capability != target.capability:
        raise DeviceError(
            f"cannot build plans for {target.name} here",
            f"TensorRT compiles for the GPU that it runs on, and this one, {gpu.name}, is "
            f"{sm_name(gpu.capability)}",
            f"Run the same command on a machine with {target.name}",
        )
    return target


def sm_name(capability: Capability) -> str:
    """Return e.g. ``sm80`` for compute capability 8.0."""
    return "sm{}{}".format(*capability)


def plan_name(graph: str, precision: str, target: Target, choice: Choice, *, first: bool) -> str:
    """Return a plan's file name: ``[GRAPH.]PRECISION[.TARGET][.rtx].plan``.

    Args:
        graph: The graph.
        precision: ``fp16`` or ``fp32``.
        target: ``current`` is not named.
        choice: The library.
        first: Whether the graph is the bundle's first, which gives the final outputs and is not named.
    """
    parts = [] if first else [graph]
    parts.append(precision)
    if target.name != CURRENT:
        parts.append(target.name)
    if choice == "rtx":
        parts.append("rtx")
    return ".".join([*parts, "plan"])
