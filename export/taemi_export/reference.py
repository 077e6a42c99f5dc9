"""What PyTorch says: the reference outputs in a bundle, and how they are made.

``reference.safetensors`` holds one tensor for each output of each case, named GRAPH/CASE/OUTPUT, and
under the metadata key ``taemi`` a JSON index: the cases with their seeds and input digests, and the
digest of every constant tensor of every exported graph. Inputs are not stored: they are drawn again
from the seed and must come out with the same digest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from taemi_export.sizes import Case, plan_cases
from taemi_export.weights import WeightRecord
from taemi_runtime.draw import digest, draw_inputs
from taemi_runtime.errors import BundleError, ExportError
from taemi_runtime.spec import Array, GraphSpec, OutputSpec
from taemi_runtime.strict import from_plain, to_plain

if TYPE_CHECKING:
    from taemi.exportable import ExportGraph

SCHEMA = 1
METADATA_KEY = "taemi"
MAX_BYTES = 64 * 10**6
"""Upper bound of the whole file, index included."""
_INDEX_BYTES = 4 * 10**6
_MAX_DRAWS = 32


@dataclass(frozen=True)
class GraphReference:
    """The reference of one graph.

    Args:
        cases: The calls to check.
        weights: What the exported fp32 graph holds, by digest.
    """

    cases: tuple[Case, ...]
    weights: WeightRecord


@dataclass(frozen=True)
class ReferenceIndex:
    """The index of a reference file.

    Args:
        graphs: Reference of each graph by its name.
        tools: Versions of what computed it.
        schema: The schema version.
    """

    graphs: dict[str, GraphReference]
    tools: dict[str, str]
    schema: int = SCHEMA


@dataclass(frozen=True)
class Reference:
    """A reference file, opened.

    Args:
        path: The file.
        index: Its index.
    """

    path: Path
    index: ReferenceIndex

    def outputs(self, spec: GraphSpec, case: Case) -> dict[str, Array]:
        """Read the reference outputs of one case, by output name.

        Raises:
            BundleError: The file does not hold them in the shape that the spec says.
        """
        sizes = spec.sizes(case.sizes)
        found: dict[str, Array] = {}
        with safe_open(str(self.path), framework="np") as file:
            for item in spec.outputs:
                key = tensor_key(spec, case, item.name)
                try:
                    found[item.name] = np.asarray(file.get_tensor(key))
                except SafetensorError as error:
                    raise BundleError(
                        f"cannot read {self.path}", f"no tensor {key} ({error})", _AGAIN
                    ) from error
                wanted = spec.shape(item, sizes)
                if found[item.name].shape != wanted:
                    raise BundleError(
                        f"cannot read {self.path}",
                        f"{key} is {list(found[item.name].shape)}, expected {list(wanted)}",
                        _AGAIN,
                    )
        return found


_AGAIN = "Export the bundle again: taemi-export onnx CKPT --force"


def tensor_key(spec: GraphSpec, case: Case, output: str) -> str:
    """Return the name of a reference tensor in its file."""
    return f"{spec.name}/{case.name}/{output}"


def compute_reference(graph: ExportGraph, max_bytes: int) -> tuple[tuple[Case, ...], dict[str, Array]]:
    """Run a graph's reference on every case.

    Args:
        graph: The graph; its ``reference`` is called, never its export module.
        max_bytes: How much space the outputs may take.

    Returns:
        The cases with their input digests, and the outputs by tensor key; positions that an output's
        mask declares empty are zero.

    Raises:
        ExportError: The reference breaks its own spec or is not finite.
    """
    import torch

    cases = []
    tensors: dict[str, Array] = {}
    for planned in plan_cases(graph.spec, max_bytes):
        case, inputs = _draw(graph.spec, planned)
        outputs = graph.reference({name: torch.from_numpy(array.copy()) for name, array in inputs.items()})
        sizes = graph.spec.sizes(case.sizes)
        for item in graph.spec.outputs:
            place = f"reference of {graph.spec.name}.{item.name} in case {case.name}"
            if item.name not in outputs:
                raise ExportError(f"cannot use the {place}", f"it gives only {sorted(outputs)}")
            array = outputs[item.name].detach().cpu().numpy()
            wanted = graph.spec.shape(item, sizes)
            if array.shape != wanted or str(array.dtype) != item.dtype:
                raise ExportError(
                    f"cannot use the {place}",
                    f"got {array.dtype} {list(array.shape)}, expected {item.dtype} {list(wanted)}",
                    "Correct the model family's GraphSpec or its reference",
                )
            array = np.where(compared_positions(item, inputs, array), array, np.zeros((), array.dtype))
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ExportError(
                    f"cannot use the {place}",
                    f"{np.count_nonzero(~np.isfinite(array))} of {array.size} values are not finite",
                    "The checkpoint's weights are broken: evaluate it, or export an earlier one",
                )
            tensors[tensor_key(graph.spec, case, item.name)] = np.ascontiguousarray(array)
        cases.append(case)
    return tuple(cases), tensors


def _draw(spec: GraphSpec, case: Case) -> tuple[Case, dict[str, Array]]:
    """Draw a case, and draw again where chance left nothing ragged about a ragged one."""
    for attempt in range(_MAX_DRAWS):
        drawn = replace(case, seed=case.seed + attempt)
        inputs = case_inputs(spec, drawn)
        masks = [inputs[item.name] for item in spec.inputs if item.role == "mask"]
        if not case.ragged or all(not mask.all() for mask in masks if min(mask.shape[:2]) > 1):
            break
    return replace(drawn, inputs_sha256=digest(inputs)), inputs


def case_inputs(spec: GraphSpec, case: Case) -> dict[str, Array]:
    """Draw a case's inputs, NaN, Inf and 3e38 wherever the spec lets anything stand."""
    return draw_inputs(
        spec, case.sizes, seed=case.seed, present=case.present, ragged=case.ragged, poison=True
    )


def checked_inputs(spec: GraphSpec, case: Case, tools: Mapping[str, str]) -> dict[str, Array]:
    """Draw a case's inputs and make sure that they are those of the reference.

    Raises:
        BundleError: They are not: another numpy draws other numbers from the same seed.
    """
    inputs = case_inputs(spec, case)
    got = digest(inputs)
    if got != case.inputs_sha256:
        raise BundleError(
            f"cannot draw the inputs of case {case.name} of graph {spec.name}",
            f"their digest is {got}, the reference was computed with {case.inputs_sha256}; numpy here is "
            f"{np.__version__}, there {tools.get('numpy', 'unknown')}",
            f"Verify with that version: pip install numpy=={tools.get('numpy', 'VERSION')}",
        )
    return inputs


def compared_positions(item: OutputSpec, inputs: Mapping[str, Array], output: Array) -> Array:
    """Return which positions of an output mean something: bool, shaped to broadcast over it."""
    if item.mask is None:
        return np.ones((1,) * output.ndim, dtype=bool)
    mask = inputs[item.mask].astype(bool)
    return mask.reshape(mask.shape + (1,) * (output.ndim - mask.ndim))


def format_reference(index: ReferenceIndex, tensors: Mapping[str, Array]) -> bytes:
    """Format a reference file.

    Raises:
        ExportError: It would be larger than the bundle format allows.
    """
    metadata = {METADATA_KEY: json.dumps(to_plain(index), separators=(",", ":"))}
    content: bytes = save(dict(tensors), metadata=metadata)
    if len(content) > MAX_BYTES:
        raise ExportError(
            "cannot write the reference outputs", f"they take {len(content)} bytes, allowed are {MAX_BYTES}"
        )
    return content


def output_budget(graphs: int) -> int:
    """Return how many bytes of outputs each of so many graphs may store."""
    return (MAX_BYTES - _INDEX_BYTES) // graphs


def open_reference(path: Path) -> Reference:
    """Open a reference file and read its index.

    Raises:
        BundleError: It is missing, damaged, or of another schema.
    """
    asked = f"cannot read {path}"
    try:
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
        data = json.loads(metadata[METADATA_KEY])
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            raise BundleError(asked, f"its schema is {schema!r}, this taemi reads {SCHEMA}", _AGAIN)
        return Reference(path, from_plain(data, ReferenceIndex))
    except FileNotFoundError:
        raise BundleError(asked, "there is no such file", _AGAIN) from None
    except KeyError as error:
        raise BundleError(asked, f"its metadata has no key {error}", _AGAIN) from error
    except (OSError, SafetensorError, ValueError) as error:
        raise BundleError(asked, f"it is damaged ({error})", _AGAIN) from error
