"""What TensorRT, CUDA and their loaders say when something is wrong, and what it means for a user.

The libraries return ``None`` or ``False`` and tell their logger why, in the words of their own source.
The table is data: a raw line is matched against the patterns in order, and the first one that fits gives
the message. docs/runtime-gpu.md lists the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Symptom:
    """One way in which running goes wrong.

    Args:
        key: Its name in the documentation and in tests.
        pattern: A regular expression for the raw text, whatever its case.
        found: What it means; ``{names}`` are filled in by the caller.
        fix: What to do, with ``{names}``.
    """

    key: str
    pattern: str
    found: str
    fix: str


SYMPTOMS = (
    Symptom(
        "driver",
        r"CUDA initialization failure|insufficient ?driver|driver version is insufficient"
        r"|\berror(?: code)?:? 35\b|no CUDA-capable device",
        "{library} does not get the GPU from the driver",
        "Update NVIDIA's driver to one for CUDA 13 or later (for TensorRT 10: CUDA 12), and see that "
        "nvidia-smi lists the GPU",
    ),
    Symptom(
        "no plan",
        r"magic ?tag|PLAN_MAGIC|malformed",
        "it does not begin as a plan of {library} does: another tool put a header before it, it was built by "
        "another library, or it is no plan",
        "Build it on this machine: {rebuild}",
    ),
    Symptom(
        "other version",
        r"serialization ?version|version tag does not match|version_mismatch|different version of TensorRT"
        r"|not compatible with this version",
        "the plan was built by another version of the library: {built}, here is {here}",
        "Build it on this machine: {rebuild}",
    ),
    Symptom(
        "other GPU",
        r"compute capability|unsupported_cc|different (?:GPU|device)|incompatible (?:GPU|device)"
        r"|no kernel image|target GPU SM",
        "the plan was compiled for another kind of GPU: {built}, here is {here}",
        "Build it on this machine, or on one with such a GPU: {rebuild}",
    ),
    Symptom(
        "host code",
        r"host code|lean runtime|version.compatible",
        "the plan carries code for the host, which is not run",
        "Build it without version compatibility: {rebuild}",
    ),
    Symptom(
        "plug-in",
        r"plug-?in.{0,80}(?:not found|not registered|could not|cannot)|creator.{0,40}not found"
        r"|getPluginCreator could not",
        "the plan needs a TensorRT plug-in that is not here",
        "Build it from this bundle's graphs, which need none: {rebuild}",
    ),
    Symptom(
        "memory",
        r"out[ _]?of[ _]?memory|memory ?allocation|insufficient_gpu_memory|requested amount of GPU memory",
        "the device has not enough free memory ({free} free)",
        "Close what else uses the GPU, give fewer contexts (EngineOptions.contexts), or build the plan for "
        "smaller shapes: {rebuild} --batch 1:1:1",
    ),
    Symptom(
        "shape",
        r"optimi[sz]ation profile|profile (?:min|max)|kMIN|kMAX|missing dimensions|out of range|outside",
        "the shapes do not fit the plan: {shapes}",
        "Split the call, or build the plan for wider ranges: {rebuild} --batch MIN:OPT:MAX "
        "--shapes GRAPH.INPUT=MIN:OPT:MAX",
    ),
    Symptom(
        "illegal address",
        r"illegal (?:memory )?(?:access|address)|ILLEGAL_ADDRESS|misaligned address",
        "something on the device read or wrote memory that is not its own",
        "The process cannot use the GPU any more: start again, and report it with --debug",
    ),
    Symptom(
        "context",
        r"invalid device context|INVALID_CONTEXT|context stack was not empty|out-of-thread context",
        "another CUDA context is current than the device's primary one",
        "Leave contexts to one owner: import pycuda.autoprimaryctx and not pycuda.autoinit, or use "
        "--cuda-backend cuda-python",
    ),
    Symptom(
        "TensorRT provider of ONNX Runtime",
        r"libnvinfer\.so\.\d+",
        "ONNX Runtime's own TensorRT provider was built for another TensorRT than the one installed",
        "Leave that provider out: plans run without it (--engine fp16.plan)",
    ),
    Symptom(
        "CUDA libraries",
        r"lib(?:cublas|cudnn|cudart|cufft|curand|nvrtc|cusparse|cusolver)\w*\.so",
        "a CUDA library that ONNX Runtime needs is missing or of another version",
        'Install the CUDA build with its libraries: pip install "onnxruntime-gpu[cuda,cudnn]"',
    ),
    Symptom(
        "installation",
        r"wheel_stub|InstallFailedError|libnvinfer",
        "TensorRT's libraries come from NVIDIA's own package index, which pip did not reach",
        "Install it as NVIDIA's TensorRT installation guide says: pip install tensorrt-cu13 with NVIDIA's "
        "package index as --extra-index-url; without network, from wheels that were downloaded there",
    ),
)


class _Blank(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "unknown"


def explain(said: Sequence[str], facts: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Turn raw lines of a library into what was found and what to do.

    Args:
        said: What it told its logger, oldest first.
        facts: What the placeholders of the table stand for.

    Returns:
        What was found, with the library's own last words in brackets, and what to do; for words that are
        not in the table the words themselves, and no advice.
    """
    text = "\n".join(said)
    last = " ".join(said[-1].split()) if said else "the library gave no reason"
    for symptom in SYMPTOMS:
        if re.search(symptom.pattern, text, re.IGNORECASE):
            values = _Blank(facts or {})
            return f"{symptom.found.format_map(values)} ({last})", symptom.fix.format_map(values)
    return last, ""
