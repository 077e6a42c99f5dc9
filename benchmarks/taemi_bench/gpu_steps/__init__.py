"""The steps of the GPU check, one file a topic.

Every step runs in a process of its own, so that a crash, a hang or an allocation that never comes back
costs that step and nothing else. What has been recorded until then is kept.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step.

    Args:
        name: What it is called on the command line and in results.
        place: Where its function is, ``module:function``, under this package.
        limit_seconds: When it is stopped.
        what: What it records, in one line.
    """

    name: str
    place: str
    limit_seconds: float
    what: str


# In the order of running: facts and quick proofs first, so that a short budget still buys them, and
# what makes others possible before what uses it. The limits add up to more than the budget on purpose:
# they stop what hangs, while the usual times are a fraction of them.
STEPS = (
    Step("machine", "machine_facts:record_machine", 60, "GPU, driver, libraries"),
    Step("cuda-python", "device_layers:check_cuda_python", 60, "copies, a compiled kernel, a CUDA graph"),
    Step("checkpoint", "prepare:make_checkpoint", 90, "an untrained model of published size (CPU)"),
    Step("torch-eager", "torch_cuda:measure_eager", 90, "PyTorch eager, fp32 and fp16"),
    Step("export-scores", "prepare:export_scores", 90, "the score graph in ONNX (CPU)"),
    Step("tensorrt", "tensorrt_plan:check_tensorrt", 90, "a TensorRT plan, built and run"),
    Step("tensorrt-rtx", "tensorrt_plan:check_tensorrt_rtx", 90, "a TensorRT for RTX plan, built and run"),
    Step("torch-compile", "torch_cuda:measure_compiled", 200, "torch.compile in fp16"),
    Step("export-all", "prepare:export_all", 150, "every graph in ONNX (CPU)"),
    Step("onnxruntime", "onnxruntime_cuda:measure_onnxruntime", 90, "ONNX Runtime CUDA against PyTorch"),
    Step(
        "pycuda",
        "pycuda_context:check_pycuda",
        240,
        "copies, a kernel, both layers side by side",
    ),
)
