"""What a TensorRT plan allows a server to send, read off the plan's sidecar."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from taemi_export.triton_config import Served, Serving
from taemi_export.triton_shapes import Shapes, batch_symbol, distinct, length_symbols
from taemi_runtime.errors import ExportError, UsageError
from taemi_runtime.plan_sidecar import PlanProfile, PlanSidecar, ShapeRange
from taemi_runtime.spec import GraphSpec, Symbol


def describe_plan(
    spec: GraphSpec,
    name: str,
    sidecar: PlanSidecar,
    serving: Serving,
    facts: Mapping[str, str],
    folder: Path,
) -> Served:
    """Find out from a plan's sidecar what the server may send it.

    Args:
        spec: The served graph.
        name: The model's name on the server.
        sidecar: The plan's; nothing of the plan itself is deserialised.
        serving: How it is served.
        facts: Parameters that every engine file has.
        folder: The bundle's, for the commands in messages.

    Raises:
        UsageError: It takes no batch as large as was asked for, or another library built it.
        ExportError: It takes no single row.
    """
    if sidecar.library != "tensorrt":
        raise UsageError(
            f"cannot serve {sidecar.plan}",
            f"it was built by {sidecar.maker}, and Triton's backend loads plans of TensorRT only",
            "Build one on the server's machine, with the TensorRT of its container: "
            f"taemi-export tensorrt {folder}",
        )
    symbol = batch_symbol(spec)
    lengths = length_symbols(spec)
    ranges = [_symbol_ranges(spec, profile) for profile in sidecar.profiles]
    batches = [found[symbol.name] if symbol else (1, 1, 1) for found in ranges]
    main = _widest(sidecar, lengths, ranges, batches, serving, folder)
    largest = (serving.max_batch or batches[main][2]) if symbol is not None else 0
    warmups = []
    # Tuned shapes first: one that is another profile's largest, too, still counts as tuned.
    for place, word in ((1, "tuned"), (2, "largest")):
        for profile, found, batch in zip(sidecar.profiles, ranges, batches, strict=True):
            if batch[0] > max(largest, 1):
                continue
            rows = min(batch[place], largest) if symbol is not None else 1
            chosen = {item.name: found[item.name][place] for item in lengths}
            warmups.append(Shapes(f"{profile.name}-{word}", rows, chosen, tuned=place == 1))
    return Served(
        name=name,
        file=sidecar.plan,
        backend="tensorrt",
        dtypes={**sidecar.inputs, **sidecar.outputs},
        max_batch=largest,
        preferred=preferred_sizes(serving, tuple(best for _, best, _ in batches), largest),
        warmups=distinct(tuple(warmups)),
        lengths={item.name: (ranges[main][item.name][0], ranges[main][item.name][2]) for item in lengths},
        profiles=len(sidecar.profiles),
        parameters={
            **facts,
            "taemi_library": f"{sidecar.library} {sidecar.library_version}",
            "taemi_compute_capability": sidecar.compute_capability,
            "taemi_state": sidecar.state,
        },
    )


def _widest(
    sidecar: PlanSidecar,
    lengths: tuple[Symbol, ...],
    ranges: list[dict[str, tuple[int, int, int]]],
    batches: list[tuple[int, int, int]],
    serving: Serving,
    folder: Path,
) -> int:
    """Return the profile that bounds what is served: the longest input first, then the largest batch.

    The server knows one largest batch and no lengths that go with it. What it may put together must fit
    into one profile, or requests would fail in company that succeed alone.
    """
    asked = f"cannot serve {sidecar.plan}"
    single = [index for index, (low, _, _) in enumerate(batches) if low == 1]
    if not single:
        raise ExportError(
            asked,
            f"its smallest batch is {min(low for low, _, _ in batches)}, and the server sends single rows",
            f"Build it for batches from 1 up: taemi-export tensorrt {folder} --batch 1:8:32",
        )
    wanted = serving.max_batch or 1
    wide = [index for index in single if batches[index][2] >= wanted]
    if not wide:
        most = max(batches[index][2] for index in single)
        raise UsageError(
            f"{asked} with batches of {wanted}",
            f"it takes at most {most}",
            f"Give --max-batch {most} or less, or build it for more: "
            f"taemi-export tensorrt {folder} --batch 1:8:{wanted}",
        )
    return max(
        wide,
        key=lambda index: (math.prod(ranges[index][item.name][2] for item in lengths), batches[index][2]),
    )


def _symbol_ranges(spec: GraphSpec, profile: PlanProfile) -> dict[str, tuple[int, int, int]]:
    """Read each axis's smallest, tuned and largest length off a profile."""
    ranges: dict[str, tuple[int, int, int]] = {}
    for item in spec.inputs:
        found: ShapeRange = profile.inputs[item.name]
        for axis, low, best, high in zip(
            item.shape, found.minimum, found.optimum, found.maximum, strict=True
        ):
            if isinstance(axis, str):
                ranges[axis] = (low, best, high)
    return ranges


def preferred_sizes(serving: Serving, tuned: tuple[int, ...], largest: int) -> tuple[int, ...]:
    """Return the batch sizes that are sent at once: the user's, or else those that a plan is tuned for.

    Raises:
        UsageError: One is beyond the largest batch.
    """
    # Triton's guide: preferred sizes only where some are faster than others, as a plan's tuned ones are.
    if serving.preferred and max(serving.preferred) > largest:
        raise UsageError(
            f"cannot prefer batches of {max(serving.preferred)}",
            f"the largest batch is {largest}",
            "Give --preferred sizes up to the largest batch",
        )
    return tuple(sorted(set(serving.preferred or (size for size in tuned if 1 < size <= largest))))
