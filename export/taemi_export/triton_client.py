"""What stands beside the models of a Triton repository for people: how to start it, and a client."""

from __future__ import annotations

from pprint import pformat

from taemi_export.triton_config import TYPES, Served, Serving
from taemi_export.triton_shapes import batch_symbol, buckets, length_symbols, row_shape
from taemi_runtime.manifest import Manifest
from taemi_runtime.spec import GraphSpec, InputSpec

CLIENT = '''"""Ask the server once, with drawn values for features: python client.py [HOST:PORT [MODEL]]

Needs tritonclient[http] and numpy. ``request`` is what a real client takes over: it pads a clip's arrays
to the next bucket, so that the server can batch requests of different lengths, and leaves the mask false
in the padding.
"""

import sys

import numpy as np
import tritonclient.http as triton

# Of each model and input: the server's type and the axes of one row. Axes with a name vary.
MODELS = {models}
# Lengths to pad each of these axes to. The server batches only requests whose shapes are equal.
BUCKETS = {buckets}
# Axes whose length follows from another's, bucket by bucket.
FOLLOWS = {follows}
OUTPUTS = {outputs}
# For this example only: the role of each input, and the mean and spread or the bounds of drawn values.
DRAWS = {draws}
BATCHED = {batched}


def request(model, arrays):
    """Return the inputs of one call.

    Args:
        model: The model's name on the server.
        arrays: One row for each input: no batch axis, valid values only, masks true throughout.
    """
    lengths = {{}}
    for name, (_, axes) in MODELS[model].items():
        for axis, length in zip(axes, arrays[name].shape):
            if axis in BUCKETS and axis not in FOLLOWS:
                lengths[axis] = next(size for size in BUCKETS[axis] if size >= length)
    for axis, source in FOLLOWS.items():
        lengths[axis] = BUCKETS[axis][BUCKETS[source].index(lengths[source])]
    inputs = []
    for name, (kind, axes) in MODELS[model].items():
        padded = np.zeros([lengths.get(axis, axis) for axis in axes], triton_to_numpy(kind))
        padded[tuple(slice(length) for length in arrays[name].shape)] = arrays[name]
        row = padded[None] if BATCHED else padded
        inputs.append(triton.InferInput(name, row.shape, kind))
        inputs[-1].set_data_from_numpy(np.ascontiguousarray(row))
    return inputs


def triton_to_numpy(kind):
    """Return the numpy type of a server's type."""
    names = {{"BOOL": "bool", "FP16": "float16", "FP32": "float32"}}
    return np.dtype(names.get(kind, kind.lower()))


def draw(model, rng):
    """Draw one row in place of real features."""
    lengths = {{axis: sizes[len(sizes) // 2] for axis, sizes in BUCKETS.items()}}
    arrays = {{}}
    for name, (kind, axes) in MODELS[model].items():
        shape = [lengths.get(axis, axis) for axis in axes]
        role, low, high = DRAWS[name]
        if role != "data":
            arrays[name] = np.ones(shape, triton_to_numpy(kind))
        elif kind.startswith("FP"):
            arrays[name] = (low + high * rng.standard_normal(shape)).astype(triton_to_numpy(kind))
        else:
            arrays[name] = rng.integers(int(low), int(high), shape).astype(triton_to_numpy(kind))
    return arrays


def main(url="localhost:8000", model={model!r}):
    """Print every output of one call."""
    client = triton.InferenceServerClient(url)
    outputs = [triton.InferRequestedOutput(name) for name in OUTPUTS]
    answer = client.infer(model, request(model, draw(model, np.random.default_rng(0))), outputs=outputs)
    for name, labels in OUTPUTS.items():
        values = answer.as_numpy(name)
        print(name, values.shape)
        if labels and values.ndim == 2:
            for label, value in zip(labels, values[0]):
                print(f"  {{label}}: {{value:.4f}}")


if __name__ == "__main__":
    main(*sys.argv[1:])
'''

README = """# {name}: a model repository for Triton Inference Server

Written by taemi-export from graph `{graph}` of a bundle of family `{family}` ({trained}). It is not edited
by hand: change the options of `taemi-export triton` and write it again.

## Start

```
docker run --rm {gpus}--shm-size=256m -p 8000:8000 -p 8001:8001 -p 8002:8002 \\
  -v "$PWD":/models nvcr.io/nvidia/tritonserver:RELEASE-py3 \\
  tritonserver --model-repository=/models
curl -f localhost:8000/v2/models/{first}/ready
pip install "tritonclient[http]"
python client.py localhost:8000
```

RELEASE is one of the server's releases. {release}

## Models

| model | backend | file | type of data | batches up to | verified against PyTorch |
|---|---|---|---|---|---|
{models}

Inputs, without the batch axis:

| input | type | axes | |
|---|---|---|---|
{inputs}

Outputs:

| output | type | axes | entries |
|---|---|---|---|
{outputs}

## Batching

The server puts requests into one batch only when all their shapes are equal, so clients pad to a few
lengths and set masks false in the padding, which never changes a result beyond rounding:

{buckets}

What is missing is fed at the shortest length{presence}. A request may itself hold several rows. It waits at
most {queue} microseconds for others. {labels}Every model is run at the shapes of its `model_warmup` before
it takes requests; the samples lie in its `warmup` folder.

Unlike taemi-infer, a server cannot refuse NaN in valid input by name: clients check what they send.
"""


def format_client(spec: GraphSpec, models: list[Served]) -> str:
    """Return an example client with the repository's names and shapes."""
    signatures = {
        served.name: {
            item.name: (TYPES[served.dtypes[item.name]], list(row_shape(spec, item))) for item in spec.inputs
        }
        for served in models
    }
    draws = {item.name: (item.role, item.draw.low, item.draw.high) for item in spec.inputs}
    follows = {item.name: item.source for item in spec.symbols if item.source is not None}
    return CLIENT.format(
        models=pformat(signatures, sort_dicts=False, width=100),
        buckets=pformat(_buckets(spec, models), sort_dicts=False, width=100),
        follows=pformat(follows, sort_dicts=False),
        outputs=pformat({item.name: list(item.labels) for item in spec.outputs}, sort_dicts=False, width=100),
        draws=pformat(draws, sort_dicts=False, width=100),
        batched=batch_symbol(spec) is not None,
        model=models[0].name,
    )


def format_readme(spec: GraphSpec, models: list[Served], serving: Serving, manifest: Manifest) -> str:
    """Return the repository's page for people."""
    plan = next((served for served in models if served.backend == "tensorrt"), None)
    release = "A release whose ONNX Runtime reads opset 20 will do."
    if plan is not None:
        library = plan.parameters["taemi_library"]
        release = (
            f"Take the one that holds {library}: a plan runs with the library version that built it, on "
            f"compute capability {plan.parameters['taemi_compute_capability']}; anything else fails to load, "
            "and the server leaves. Plans are trusted input."
        )
    lengths = _buckets(spec, models)
    presence = spec.presence
    return README.format(
        name=models[0].name,
        graph=spec.name,
        family=manifest.family,
        trained="trained" if manifest.trained else "UNTRAINED: random weights, scores mean nothing",
        gpus="" if serving.device == "cpu" else "--gpus all ",
        first=models[0].name,
        release=release,
        models="\n".join(_model_row(spec, served) for served in models),
        inputs="\n".join(_input_row(spec, item, models[0]) for item in spec.inputs),
        outputs="\n".join(
            f"| `{item.name}` | {TYPES[models[0].dtypes[item.name]]} | {_axes(row_shape(spec, item))} "
            f"| {', '.join(item.labels)} |"
            for item in spec.outputs
        ),
        buckets="\n".join(f"* `{axis}`: {', '.join(map(str, sizes))}" for axis, sizes in lengths.items())
        or "* no axis varies",
        presence=f" with its column of `{presence.name}` false" if presence is not None else "",
        queue=serving.queue_us,
        labels="Outputs with named entries have a file of labels. "
        if any(item.labels for item in spec.outputs)
        else "",
    )


def _buckets(spec: GraphSpec, models: list[Served]) -> dict[str, list[int]]:
    """Return the lengths to pad to that every model takes; followers are aligned with their source."""
    found: dict[str, list[int]] = {}
    for symbol in length_symbols(spec):
        ranges = [served.lengths[symbol.name] for served in models]
        shortest, longest = max(low for low, _ in ranges), min(high for _, high in ranges)
        found[symbol.name] = buckets(symbol, shortest, longest)
    for symbol in spec.symbols:
        if symbol.source in found:
            found[symbol.name] = [symbol.derive(length) for length in found[symbol.source]]
    return found


def _model_row(spec: GraphSpec, served: Served) -> str:
    kinds = sorted({TYPES[served.dtypes[item.name]] for item in spec.inputs if item.role == "data"})
    return (
        f"| `{served.name}` | {served.backend} | `{served.file}` | {', '.join(kinds)} "
        f"| {served.max_batch or 'none'} | {served.parameters.get('taemi_verified', '')} |"
    )


def _input_row(spec: GraphSpec, item: InputSpec, served: Served) -> str:
    notes = []
    if item.role == "mask":
        notes.append(f"true where `{item.masks}` is valid")
    if item.role == "presence":
        columns = [" and ".join(f"`{name}`" for name in column) for column in item.governs]
        notes.append(f"columns: {', '.join(columns)}")
    if item.half:
        notes.append("FP16 in half-precision models")
    return (
        f"| `{item.name}` | {TYPES[served.dtypes[item.name]]} | {_axes(row_shape(spec, item))} "
        f"| {'; '.join(notes)} |"
    )


def _axes(axes: tuple[str | int, ...]) -> str:
    return f"[{', '.join(map(str, axes))}]"
