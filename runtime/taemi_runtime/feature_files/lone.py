"""An engine that stands alone: no bundle, hence no encoder, but enough to score features.

An exported graph carries its own description; a plan's sidecar has its shapes, from which, with the fixed
names of the fusion graph, the description follows.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from taemi_runtime.backends import backend, open_engine, takers
from taemi_runtime.contract import FAMILY, FUSION, MODALITIES, PRESENT, SCORES
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.engine import Engine, EngineOptions
from taemi_runtime.engine_choice import is_plan
from taemi_runtime.errors import BundleError, EngineError, SpecError
from taemi_runtime.manifest import MANIFEST_NAME
from taemi_runtime.plan_sidecar import PlanSidecar, read_sidecar_beside
from taemi_runtime.spec import Axis, GraphSpec, InputSpec, OutputSpec, Symbol
from taemi_runtime.strict import from_plain

# Where an exported ONNX file says what it is (docs/bundle.md).
_METADATA_KEY = "taemi"
_BUNDLE = "Name the bundle that it belongs to: --bundle NAME.taemi"
# Field numbers of onnx.proto, which never change within the format.
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class LoneEngine:
    """An engine without a bundle.

    Args:
        engine: The engine.
        labels: Names of the scores in order.
        untrained: Whether its weights are random; ``False`` where it does not say.
    """

    engine: Engine
    labels: tuple[str, ...]
    untrained: bool


def stands_alone(path: Path) -> bool:
    """Return whether a file is an engine beside which there is no bundle."""
    kinds = [backend(name) for name in takers(path)] if path.is_file() else []
    # A checkpoint is a whole model.
    is_engine = bool(kinds) and not any(hasattr(kind, "describe") for kind in kinds)
    return is_engine and not (path.parent / MANIFEST_NAME).is_file()


def open_lone(path: Path, options: EngineOptions) -> LoneEngine:
    """Open an engine that stands alone.

    Args:
        path: An ONNX graph that taemi-export wrote, or a plan with its sidecar beside it.
        options: Device and threads.

    Raises:
        BundleError: It does not say what it is, or its sidecar is missing or damaged.
        EngineError: It is no fusion graph, or cannot be loaded; see ``open_engine``.
    """
    if is_plan(path.name):
        sidecar = read_sidecar_beside(path)
        spec, facts, untrained = _spec_of_plan(path, sidecar), {"precision": sidecar.precision}, False
    else:
        spec, facts, untrained = _spec_of_graph(path)
    if spec.name != FUSION:
        raise EngineError(
            f"cannot score features with {path}",
            f"it is the graph {spec.name!r}, features are scored by {FUSION!r}",
            "Name the model's fusion graph",
        )
    labels = next((item.labels for item in spec.outputs if item.name == SCORES), ())
    return LoneEngine(open_engine(path, spec, options, **facts), labels, untrained)


def _spec_of_graph(path: Path) -> tuple[GraphSpec, dict[str, str], bool]:
    asked = f"cannot tell what {path} is"
    try:
        facts = json.loads(read_onnx_metadata(path).get(_METADATA_KEY, "null"))
        if facts is None:
            raise BundleError(asked, f"its metadata has no key {_METADATA_KEY!r}", _BUNDLE)
        family, trained, precision = facts["family"], facts["trained"], str(facts["precision"])
        spec = from_plain(facts["graph"], GraphSpec)
    except (ValueError, KeyError, TypeError, SpecError, RecursionError) as error:
        raise BundleError(asked, f"its metadata cannot be read ({error})", _BUNDLE) from error
    if family != FAMILY:
        raise BundleError(asked, f"its model family is {family!r}, expected {FAMILY!r}", _BUNDLE)
    return spec, {"precision": precision}, trained is False


def _spec_of_plan(path: Path, sidecar: PlanSidecar) -> GraphSpec:
    """Describe a fusion plan by the fixed names of its inputs and the shapes of its profiles."""
    lengths: dict[str, Any] = {}
    symbols = {"batch": Symbol("batch")}
    text = "text" if "text" in sidecar.inputs else "text_tokens"
    names = (*MODALITIES[:2], text)
    for name in names:
        shapes = [profile.inputs.get(name) for profile in sidecar.profiles]
        if any(shape is None for shape in shapes):
            raise EngineError(
                f"cannot score features with {path}",
                f"it is a plan of the graph {sidecar.graph!r} without an input {name}",
                "Name the model's fusion plan",
            )
        largest = [shape.maximum for shape in shapes if shape is not None]
        smallest = [shape.minimum for shape in shapes if shape is not None]
        axes: list[Axis] = ["batch"]
        if len(largest[0]) == 3:
            most = max(shape[1] for shape in largest)
            symbol = f"{name.removesuffix('_tokens')}_len"
            if min(shape[1] for shape in smallest) == most:
                axes.append(most)
            else:
                axes.append(symbol)
                symbols[symbol] = Symbol(symbol, maximum=most)
        lengths[name] = (*axes, largest[0][-1])
    inputs = []
    for name in names:
        inputs.append(InputSpec(name, "float32", lengths[name], half=True))
        if len(lengths[name]) == 3:
            mask = f"{name.removesuffix('_tokens')}_mask"
            inputs.append(InputSpec(mask, "bool", lengths[name][:2], role="mask", masks=name))
    governs = tuple((name,) for name in names)
    inputs.append(InputSpec(PRESENT, "bool", ("batch", len(names)), role="presence", governs=governs))
    outputs = (OutputSpec(SCORES, "float32", ("batch", len(EMOTIONS)), labels=EMOTIONS),)
    return GraphSpec(sidecar.graph, tuple(symbols.values()), tuple(inputs), outputs, {})


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """Read an ONNX file's metadata, and nothing else of it, without any library for it.

    Source: protobuf's encoding guide, and ``ModelProto`` and ``StringStringEntryProto`` of onnx.proto.

    Raises:
        ValueError: It is no ONNX file.
    """
    if not path.stat().st_size:
        raise ValueError("the file is empty")
    found = {}
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for number, start, end in _fields(content, 0, len(content)):
            if number == _METADATA_PROPS:
                entry = bytes(content[start:end])
                parts = {key: entry[a:b] for key, a, b in _fields(entry, 0, len(entry))}
                found[parts.get(_KEY, b"").decode()] = parts.get(_VALUE, b"").decode()
    return found


def _fields(data: mmap.mmap | bytes, place: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of every length-delimited field; the others are passed over."""
    while place < end:
        tag, place = _varint(data, place, end)
        kind = tag & 7
        if kind == _VARINT:
            _, place = _varint(data, place, end)
            continue
        if kind == _BYTES:
            length, place = _varint(data, place, end)
            if length > end - place:
                raise ValueError("it is no ONNX file")
            yield tag >> 3, place, place + length
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError("it is no ONNX file")
        place += length


def _varint(data: mmap.mmap | bytes, place: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            break
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("it is no ONNX file")
