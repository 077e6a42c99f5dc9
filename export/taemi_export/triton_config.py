"""One model's configuration for Triton Inference Server, made from a GraphSpec.

Source: Triton's model configuration (``model_config.proto``, whose classes parse the result in the
tests), and its server's handling of warm-up samples: a sample of batch size N is N requests of one row
each, all with the same data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from taemi_export.triton_shapes import Shapes, row_dims, row_shape, sample_file
from taemi_export.triton_text import Word
from taemi_runtime.errors import UsageError
from taemi_runtime.host import parse_device
from taemi_runtime.spec import GraphSpec, InputSpec, OutputSpec

QUEUE_US = 1000
WARMUP_FOLDER = "warmup"
"""Where the server looks for the files of warm-up samples, inside a model's folder."""
BACKENDS = {".onnx": "onnxruntime", ".plan": "tensorrt"}
TYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
}
"""The server's names of a GraphSpec's element types."""


@dataclass(frozen=True)
class Serving:
    """How models are served.

    Args:
        max_batch: Largest batch; ``None`` is the graph's or the plan's largest, or 32.
        preferred: Batch sizes that the batcher sends at once, without waiting for more.
        queue_us: How long a request may wait for others to be batched with, in microseconds.
        instances: Copies of the model on each device.
        device: ``auto`` (a GPU where the server has one), ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads of one instance on a CPU; 0 leaves it to the server.
        cuda_graphs: Whether plans capture a CUDA graph for each shape that they are tuned for.

    Raises:
        UsageError: A value makes no sense.
    """

    max_batch: int | None = None
    preferred: tuple[int, ...] = ()
    queue_us: int = QUEUE_US
    instances: int = 1
    device: str = "auto"
    threads: int = 0
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        parse_device(self.device)
        asked = "cannot configure the server's models"
        if self.max_batch is not None and self.max_batch < 1:
            raise UsageError(asked, f"the largest batch is {self.max_batch}", "Give --max-batch 1 or more")
        if any(size < 1 for size in self.preferred):
            raise UsageError(asked, f"a preferred batch is {min(self.preferred)}", "Give 1 or more")
        if self.queue_us < 0 or self.threads < 0:
            raise UsageError(
                asked, f"queue delay {self.queue_us} us, {self.threads} threads", "Give 0 or more of each"
            )
        if self.instances < 1:
            raise UsageError(asked, f"{self.instances} instances", "Give --instances 1 or more")


@dataclass(frozen=True)
class Served:
    """One engine file on its way into a repository.

    Args:
        name: The model's name on the server.
        file: The file's name in the bundle.
        backend: The server's backend: ``onnxruntime`` or ``tensorrt``.
        dtypes: Element type of every input and output, as this file has it.
        max_batch: Largest batch; 0 where the graph cannot be batched.
        preferred: Preferred batch sizes, ascending.
        warmups: Shapes that the server runs before it takes requests.
        lengths: The smallest and largest length of every free symbol, whatever the batch.
        profiles: How many optimisation profiles a plan has; 0 for other files.
        parameters: Facts that travel with the model.
    """

    name: str
    file: str
    backend: str
    dtypes: Mapping[str, str]
    max_batch: int
    preferred: tuple[int, ...]
    warmups: tuple[Shapes, ...]
    lengths: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    profiles: int = 0
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def model_file(self) -> str:
        """What the server calls the file, below the version's folder."""
        return "model.plan" if self.backend == "tensorrt" else "model.onnx"


def model_config(spec: GraphSpec, served: Served, serving: Serving) -> dict[str, object]:
    """Return a model's configuration as a message for [format_message][].

    Args:
        spec: The graph.
        served: The file that holds it.
        serving: How it is served.
    """
    return {
        "name": served.name,
        "backend": served.backend,
        "default_model_filename": served.model_file,
        "max_batch_size": served.max_batch,
        "input": [_tensor(spec, item, served.dtypes[item.name]) for item in spec.inputs],
        "output": [
            {**_tensor(spec, item, served.dtypes[item.name]), "label_filename": label_file(spec, item)}
            for item in spec.outputs
        ],
        "instance_group": [_instances(served, serving)],
        "dynamic_batching": _batching(served, serving),
        "optimization": _optimization(spec, served, serving),
        "parameters": [
            {"key": key, "value": {"string_value": value}}
            for key, value in {**_backend_options(served, serving), **served.parameters}.items()
        ],
        "model_warmup": [_warmup(spec, served, shapes) for shapes in served.warmups],
    }


def label_file(spec: GraphSpec, item: OutputSpec) -> str | None:
    """Return the name of an output's file of labels, when its entries have names."""
    # The server counts labels along a whole row: with further axes they would name the wrong entries.
    return f"{item.name}.txt" if item.labels and len(row_shape(spec, item)) == 1 else None


def _tensor(spec: GraphSpec, item: InputSpec | OutputSpec, dtype: str) -> dict[str, object]:
    axes = row_shape(spec, item)
    dims = [axis if isinstance(axis, int) else -1 for axis in axes]
    return {
        "name": item.name,
        "data_type": Word(f"TYPE_{TYPES[dtype]}"),
        # Dims cannot be empty: one number a row is declared as one entry and reshaped away.
        "dims": dims or [1],
        "reshape": None if dims else {},
    }


def _instances(served: Served, serving: Serving) -> dict[str, object]:
    kind, index = parse_device(serving.device)
    words = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "cuda": "KIND_GPU"}
    word = "KIND_GPU" if served.backend == "tensorrt" else words[kind]
    return {
        "count": serving.instances,
        "kind": Word(word),
        "gpus": [index] if ":" in serving.device else [],
        # Without this list only the first profile would ever be used.
        "profile": [str(number) for number in range(served.profiles)],
    }


def _batching(served: Served, serving: Serving) -> dict[str, object] | None:
    if served.max_batch == 0:
        return None
    return {
        "preferred_batch_size": list(served.preferred),
        "max_queue_delay_microseconds": serving.queue_us,
    }


def _backend_options(served: Served, serving: Serving) -> dict[str, str]:
    # Triton's ONNX Runtime backend (onnxruntime.cc) looks for these among the parameters; a model with any
    # parameter and without them gets an exhaustive search for each new shape, and memory in powers of two.
    options = {"cudnn_conv_algo_search": "1", "arena_extend_strategy": "1"}
    if served.backend != "onnxruntime":
        return {}
    if serving.threads:
        options["intra_op_thread_count"] = str(serving.threads)
    return options


def _optimization(spec: GraphSpec, served: Served, serving: Serving) -> dict[str, object] | None:
    if served.backend == "tensorrt":
        return _cuda_graphs(spec, served) if serving.cuda_graphs else None
    if parse_device(serving.device)[0] == "cpu":
        return None
    # TensorFloat-32 rounds to 10 bits of mantissa: fp32 scores would not be the verified ones.
    cuda = {"name": "cuda", "parameters": [{"key": "use_tf32", "value": "0"}]}
    return {"execution_accelerators": {"gpu_execution_accelerator": [cuda]}}


def _cuda_graphs(spec: GraphSpec, served: Served) -> dict[str, object]:
    specs = []
    for shapes in served.warmups:
        if not shapes.tuned:
            continue
        inputs = [
            {"key": item.name, "value": {"dim": row_dims(spec, row_shape(spec, item), shapes)}}
            for item in spec.inputs
        ]
        specs.append({"batch_size": shapes.batch if served.max_batch else 0, "input": inputs})
    return {"cuda": {"graphs": True, "graph_spec": specs}}


def _warmup(spec: GraphSpec, served: Served, shapes: Shapes) -> dict[str, object]:
    inputs = []
    for item in spec.inputs:
        dims = row_dims(spec, row_shape(spec, item), shapes)
        value = {
            "data_type": Word(f"TYPE_{TYPES[served.dtypes[item.name]]}"),
            "dims": dims or [1],
            # The server's own random data are random bytes: NaN among numbers, no valid flag or index.
            "input_data_file": sample_file(spec, item, shapes),
        }
        inputs.append({"key": item.name, "value": value})
    return {"name": shapes.name, "batch_size": shapes.batch, "inputs": inputs}
