"""What TensorRT's raw messages mean, and what to do about them.

A table, so that a new symptom is one entry and one line of a test. The raw message always stays part of
the error: the table adds what it means, it never replaces what was said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

EXPORT_AGAIN = "Export the bundle again: taemi-export onnx CKPT --force"
ON_THE_TARGET = "Build on the machine with the GPU: taemi-export tensorrt BUNDLE"


@dataclass(frozen=True)
class Symptom:
    """A pattern of raw messages.

    Args:
        pattern: A regular expression, searched without regard to case.
        means: What it means.
        fix: What to do.
    """

    pattern: str
    means: str
    fix: str


SYMPTOMS: tuple[Symptom, ...] = (
    Symptom(
        r"is_decomposable|was not supported by a dedicated kernel",
        "the library has no fused kernel for this attention and may not take it apart",
        "Give a graph in opset 20, as taemi-export onnx writes it: attention is plain operators there",
    ),
    Symptom(
        r"must have same input types|differs from input \d+'s element type|type mismatch|same types?\b",
        "two inputs of a node have different types, and a strongly typed network converts nothing itself",
        "Convert the graph again: delete its .fp16.onnx and run taemi-export onnx CKPT --force",
    ),
    Symptom(
        r"NonZero|data.dependent|IIfConditional|ILoop",
        "the graph has an operator whose output shape depends on values",
        EXPORT_AGAIN,
    ),
    Symptom(
        r"no importer|plugin (creator )?.*not found|Plugin not found|UNSUPPORTED_NODE|unsupported operator",
        "the library does not know this operator",
        EXPORT_AGAIN,
    ),
    Symptom(
        r"Failed to parse the ONNX model|MODEL_DESERIALIZE_FAILED|could not open file",
        "the file is no ONNX graph, or is cut short",
        EXPORT_AGAIN,
    ),
    Symptom(
        r"no optimization profile|missing dimensions in profile|profile.*not (been )?(defined|provided|set)",
        "an input with a dynamic axis has no range in a profile",
        "The graph is not the one that the manifest describes. " + EXPORT_AGAIN,
    ),
    Symptom(
        r"k(MIN|OPT|MAX) values|violate shape constraints|self-consistent|setDimensions|"
        r"k(MIN|OPT|MAX).*(invalid|greater|less)|incompatible dimensions",
        "the ranges of a profile contradict each other: inputs that share an axis need the same lengths",
        "Give ranges that the graph can take: taemi-export tensorrt BUNDLE --shapes GRAPH.INPUT=MIN:OPT:MAX",
    ),
    Symptom(
        r"insufficient workspace|Could not find any implementation|Try increasing the workspace",
        "no kernel fits into the scratch memory that the builder may use",
        "Allow more: taemi-export tensorrt BUNDLE --workspace MIB",
    ),
    Symptom(
        r"out of memory|OutOfMemory|cudaError 2\b|std::bad_alloc|Requested amount of GPU memory",
        "memory ran out, or the limit of --workspace is below what the largest shapes need",
        "Free the GPU, raise --workspace, or give smaller ranges: taemi-export tensorrt BUNDLE --batch 1:4:8",
    ),
    Symptom(
        r"Target GPU SM \d+ is not supported|unsupported (SM|compute capability)|SM \d+ is not supported",
        "this version of the library has no code for this GPU",
        "Install a version that supports it (NVIDIA's support matrix lists them)",
    ),
    Symptom(
        r"cudaError 35|CUDA initialization failure|driver version is insufficient|no CUDA-capable device",
        "the library needs a GPU or a newer driver, and this machine has none",
        ON_THE_TARGET,
    ),
    Symptom(
        r"libnvinfer_lean|version.compatible",
        "version-compatible plans need a library that is not installed",
        "Build the plan with the version that will run it: taemi-export tensorrt BUNDLE",
    ),
    Symptom(
        r"timing cache",
        "the timing cache on disk is of another GPU or version",
        "Build without it: taemi-export tensorrt BUNDLE --timing-cache none",
    ),
    Symptom(
        r"No space left on device|ENOSPC",
        "the disk is full",
        "Free some space and run the same command again",
    ),
)


def diagnose(messages: list[str]) -> Symptom | None:
    """Return the first symptom that any of the messages shows, the most telling entry first."""
    for symptom in SYMPTOMS:
        pattern = re.compile(symptom.pattern, re.IGNORECASE | re.DOTALL)
        if any(pattern.search(message) for message in messages):
            return symptom
    return None
