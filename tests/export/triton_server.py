"""What the tests of the Triton repository share: Triton's message classes, planted plans, and a server.

The server speaks the binary HTTP protocol of KServe v2 as far as tritonclient's ``infer`` does, checks each
call against the model's own configuration, and answers with ONNX Runtime. It is no Triton; it is what can
run where there is no container.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from google.protobuf import text_format

NUMPY = {"BOOL": "bool", "FP16": "float16", "FP32": "float32", "INT32": "int32", "INT64": "int64"}


@cache
def messages() -> ModuleType:
    """Triton's own protobuf classes, without the gRPC library that importing their package asks for."""
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        pytest.skip('tritonclient is not installed: pip install "taemi[triton]"')
    path = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse_config(model: Path) -> Any:
    """A model's configuration, parsed by Triton's own definitions; an unknown field is an error."""
    return text_format.Parse((model / "config.pbtxt").read_text(), messages().ModelConfig())


def warmup_arrays(model: Path, sample: Any, *, batched: bool) -> dict[str, np.ndarray]:
    """A warm-up sample's inputs as the server builds them: the same row, batch_size times."""
    arrays = {}
    for name, item in sample.inputs.items():
        kind = messages().DataType.Name(item.data_type).removeprefix("TYPE_")
        content = (model / "warmup" / item.input_data_file).read_bytes()
        row = np.frombuffer(content, NUMPY[kind]).reshape(tuple(item.dims))
        arrays[name] = np.stack([row] * sample.batch_size) if batched else row
    return arrays


@contextlib.contextmanager
def serve(repository: Path) -> Iterator[str]:
    """Serve a repository's ONNX models; yield HOST:PORT."""
    models = {}
    for path in repository.glob("*/1/model.onnx"):
        folder = path.parents[1]
        models[folder.name] = (parse_config(folder), ort.InferenceSession(path))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            try:
                config, session = models[self.path.split("/")[3]]
                body = self.rfile.read(int(self.headers["Content-Length"]))
                start = int(self.headers["Inference-Header-Content-Length"])
                call = json.loads(body[:start])
                arrays = _read_inputs(call, body[start:])
                _check_call(config, arrays)
                head, tail = _answer(call, session, arrays)
                status = 200
            except Exception as error:  # the client's error message shows it
                head, tail, status = json.dumps({"error": repr(error)}).encode(), b"", 400
            self.send_response(status)
            self.send_header("Content-Length", str(len(head) + len(tail)))
            self.send_header("Inference-Header-Content-Length", str(len(head)))
            self.end_headers()
            self.wfile.write(head + tail)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _read_inputs(call: dict[str, Any], content: bytes) -> dict[str, np.ndarray]:
    arrays, at = {}, 0
    for item in call["inputs"]:
        size = item["parameters"]["binary_data_size"]
        kind = NUMPY[item["datatype"]]
        arrays[item["name"]] = np.frombuffer(content[at : at + size], kind).reshape(item["shape"])
        at += size
    return arrays


def _check_call(config: Any, arrays: dict[str, np.ndarray]) -> None:
    """Refuse what Triton refuses: a name, type, rank, length or batch that the configuration forbids."""
    assert set(arrays) == {item.name for item in config.input}
    for item in config.input:
        array = arrays[item.name]
        kind = messages().DataType.Name(item.data_type).removeprefix("TYPE_")
        assert array.dtype == NUMPY[kind], (item.name, array.dtype)
        batched = config.max_batch_size > 0
        assert not batched or len(array) <= config.max_batch_size
        dims = array.shape[1:] if batched else array.shape
        assert len(dims) == len(item.dims), (item.name, dims)
        for length, wanted in zip(dims, item.dims, strict=True):
            assert wanted in (-1, length), (item.name, dims)


def _answer(
    call: dict[str, Any], session: ort.InferenceSession, arrays: dict[str, np.ndarray]
) -> tuple[bytes, bytes]:
    names = [item["name"] for item in call.get("outputs", ())] or [
        item.name for item in session.get_outputs()
    ]
    outputs, tail = [], b""
    for name, array in zip(names, session.run(names, arrays), strict=True):
        kind = next(key for key, value in NUMPY.items() if value == array.dtype)
        size = {"binary_data_size": array.nbytes}
        outputs.append({"name": name, "datatype": kind, "shape": list(array.shape), "parameters": size})
        tail += array.tobytes()
    return json.dumps({"model_name": "any", "model_version": "1", "outputs": outputs}).encode(), tail
