from __future__ import annotations

import re
from pathlib import Path

import taemi_export
from taemi_runtime.emotions import EMOTIONS

# Whole words, also as parts of identifiers: nothing here may know what a graph's numbers mean.
MODALITIES = (
    "audio",
    "vision",
    "video",
    "text",
    "speech",
    "waveform",
    "pixels",
    "token",
    "transcript",
    "face",
)
# Names that Python and protobuf gave to things: no modality is meant.
ORDINARY = re.compile(r"(read|write)_text|text format|triton_text")


def test_exporter_names_no_modality_and_no_emotion() -> None:
    words = [word.lower() for emotion in EMOTIONS for word in emotion.split()]
    pattern = re.compile(
        rf"(?<![a-z])({'|'.join([*MODALITIES, *words, 'emotion', 'intensit[a-z]*'])})s?(?![a-z])", re.I
    )
    for path in sorted(Path(taemi_export.__file__).parent.rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not pattern.search(ORDINARY.sub("", line)), f"{path.name}:{number}: {line.strip()}"
