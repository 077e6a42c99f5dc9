"""Whether a plan is the graph that it should be, as far as its sidecar tells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from taemi_runtime.errors import EngineError
from taemi_runtime.plan_sidecar import PlanSidecar, ShapeRange
from taemi_runtime.spec import GraphSpec, InputSpec, OutputSpec


def check_sidecar(sidecar: PlanSidecar, spec: GraphSpec, path: Path) -> None:
    """Refuse a plan whose sidecar describes another graph or profiles that do not fit, before it is read.

    Args:
        sidecar: The plan's.
        spec: The graph that it should be.
        path: The plan, for messages.

    Raises:
        EngineError: Names every difference with both sides.
    """
    wrong = _differences("input", spec.inputs, sidecar.inputs)
    wrong += _differences("output", spec.outputs, sidecar.outputs)
    for profile in sidecar.profiles:
        for item in spec.inputs:
            held = profile.inputs.get(item.name)
            if held is None or len(held.minimum) != len(item.shape) or not _holds_fixed(item, held):
                wrong.append(
                    f"input {item.name} has the range {held} in profile {profile.name}, "
                    f"expected one for {list(item.shape)}"
                )
    if wrong:
        raise other_graph(path, wrong)


def _differences(
    what: str, items: tuple[InputSpec, ...] | tuple[OutputSpec, ...], there: Mapping[str, str]
) -> list[str]:
    wrong = []
    for item in items:
        found = there.get(item.name)
        if found is None:
            wrong.append(f"there is no {what} {item.name}")
        elif found != item.dtype and (found, item.dtype) != ("float16", "float32"):
            wrong.append(f"{what} {item.name} is {found}, expected {item.dtype}")
    known = {item.name for item in items}
    return wrong + [f"{what} {name} is unknown" for name in there if name not in known]


def _holds_fixed(item: InputSpec, held: ShapeRange) -> bool:
    ranges = zip(item.shape, held.minimum, held.maximum, strict=True)
    return all(isinstance(axis, str) or low <= axis <= high for axis, low, high in ranges)


def other_graph(path: Path, wrong: list[str]) -> EngineError:
    """Return the error for a plan that is another graph than the manifest describes.

    Args:
        path: The plan.
        wrong: Every difference, with both sides.
    """
    return EngineError(
        f"cannot use {path}",
        f"it is not the graph that the manifest describes: {'; '.join(wrong)}",
        "Use a plan that was built from this bundle",
    )
