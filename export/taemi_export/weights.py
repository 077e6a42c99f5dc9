"""Proof that an exported graph holds the reference's weights, and nothing else.

Numbers alone cannot show it: an embedding row that no reference input reads could hold anything. So
every weight is looked for in the graph bit for bit, as it stands or with its axes permuted, which is
all that the exporter does to most of them; and the digest of every constant tensor in the file goes
into the bundle's reference, where verification finds it again.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_export.onnx_file import OnnxFile
from taemi_runtime.errors import ExportError
from taemi_runtime.spec import GraphSpec

if TYPE_CHECKING:
    import onnx
    import torch

# A permutation of more axes than this is no layout change that an exporter makes.
_MAX_PERMUTED_AXES = 4
# Nodes, names and metadata may take this many bytes besides 5 % of the weights.
_SPARE = 2**19
# Smaller constants are scalars, shapes and the like, not weights.
_SMALL = 32


@dataclass(frozen=True)
class WeightRecord:
    """What is known of an exported graph's constant tensors.

    Args:
        held: How many of the reference's weights the graph holds bit for bit.
        held_elements: How many numbers these are.
        folded: Weights from which the exporter computed something beforehand: for them only the
            compared outputs speak.
        absent: Weights that the exported program does not read.
        computed: Larger constants of the graph that are no weight of the reference.
        sha256: Digest of every initialiser and Constant in the file, by name.
    """

    held: int
    held_elements: int
    folded: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()
    sha256: dict[str, str] = field(default_factory=dict)

    def summary(self, *, names: bool = False) -> str:
        """Say in a line how the weights were found, with the names of those that were not."""
        total = self.held + len(self.folded) + len(self.absent)
        parts = [f"{self.held} of {total} weights bit for bit"]
        for label, group in (("folded", self.folded), ("not needed", self.absent)):
            if group:
                parts.append(f"{len(group)} {label}" + (f" ({', '.join(group)})" if names else ""))
        return ", ".join(parts)

    def with_file(self, file: OnnxFile) -> WeightRecord:
        """Return the record with the digests of a written file."""
        return replace(self, sha256={name: tensor.sha256 for name, tensor in file.tensors.items()})


def match_weights(
    model: onnx.ModelProto, weights: Mapping[str, torch.Tensor], used: Mapping[str, torch.Tensor]
) -> WeightRecord:
    """Look for every weight of the reference in a graph, and name the initialisers after them.

    Args:
        model: The exported graph. Initialisers that hold a weight get its name, with ``.T`` when their
            axes are permuted, so that every later message can say which weight it means.
        weights: The reference's parameters and buffers by name.
        used: The parameters and buffers that the exported program reads, by any name.

    Raises:
        ExportError: An initialiser has a weight's name and shape but not its numbers.
    """
    import onnx

    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    by_content = {_content_sha(str(array.dtype), array.tobytes()): name for name, array in arrays.items()}
    layouts = {(str(array.dtype), array.size) for array in arrays.values()}
    read = {_tensor_sha(tensor) for tensor in used.values()}

    names: dict[str, str] = {}
    held = held_elements = 0
    folded: list[str] = []
    absent: list[str] = []
    for name, tensor in weights.items():
        same = by_content.get(_tensor_sha(tensor))
        permuted = (
            None if same or (_dtype(tensor), tensor.numel()) not in layouts else _permuted(tensor, by_content)
        )
        if same is not None or permuted is not None:
            held += 1
            held_elements += tensor.numel()
            if same is not None:
                names.setdefault(same, name)
            elif permuted is not None:
                names.setdefault(permuted, f"{name}.T")
            continue
        impostor = arrays.get(name)
        if impostor is not None and impostor.shape == tuple(tensor.shape):
            raise ExportError(
                f"cannot trust graph {model.graph.name!r}",
                f"its initialiser {name} differs from the reference's weight of that name",
                "The family's export module does not hold the reference's weights: report this",
            )
        (folded if _tensor_sha(tensor) in read else absent).append(name)
    computed = [name for name, array in arrays.items() if name not in names and array.size >= _SMALL]
    _rename(model, names)
    return WeightRecord(held, held_elements, tuple(folded), tuple(absent), tuple(computed))


def changed_tensors(record: WeightRecord, file: OnnxFile) -> list[str]:
    """Say which constant tensors of a file are not what they were when it was exported.

    Returns:
        One sentence for each difference; empty when there is none.
    """
    expected = record.sha256
    found = {name: tensor.sha256 for name, tensor in file.tensors.items()}
    differences = [
        f"weight {name} has sha256 {found[name]}, exported was {sha}"
        for name, sha in expected.items()
        if name in found and found[name] != sha
    ]
    differences += [f"weight {name} is missing" for name in expected if name not in found]
    differences += [f"weight {name} was not exported" for name in found if name not in expected]
    return differences


def check_weight(path: Path, spec: GraphSpec, weights: int) -> None:
    """Refuse a file that is not about as large as its weights: each is in it once, and little else.

    Args:
        path: The file.
        spec: Its graph.
        weights: How many bytes the weights take that the graph reads.

    Raises:
        ExportError: It differs by more than 5 %, beyond what nodes and names take.
    """
    size = path.stat().st_size
    if not 0.95 * weights <= size <= 1.05 * weights + _SPARE:
        raise ExportError(
            f"cannot use the exported graph {spec.name!r}",
            f"its file has {size} bytes, its weights take {weights}: more than 5 % off",
            "A weight is missing or stored more than once: report this with --debug's output",
        )


def _permuted(tensor: torch.Tensor, by_content: Mapping[str, str]) -> str | None:
    if not 2 <= tensor.ndim <= _MAX_PERMUTED_AXES:
        return None
    for order in itertools.permutations(range(tensor.ndim)):
        found = by_content.get(_tensor_sha(tensor.permute(order)))
        if found is not None:
            return found
    return None


def _rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    taken |= {tensor.name for tensor in model.graph.initializer}
    final = {old: new for old, new in names.items() if old != new and new not in taken}
    for tensor in model.graph.initializer:
        tensor.name = final.get(tensor.name, tensor.name)
    for node in model.graph.node:
        for at, name in enumerate(node.input):
            if name in final:
                node.input[at] = final[name]


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _tensor_sha(tensor: torch.Tensor) -> str:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return _content_sha(_dtype(tensor), flat.view(torch.uint8).numpy().data)


def _content_sha(dtype: str, content: bytes | memoryview) -> str:
    # Without the shape: an exporter may store [1, 1, n] as [n].
    sha = hashlib.sha256(f"{dtype}\n".encode())
    sha.update(content)
    return sha.hexdigest()
