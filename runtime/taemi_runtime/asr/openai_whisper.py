"""openai-whisper: the original, on torch. Checked against the source of openai-whisper 20250625.

Models are ``.pt`` files; names stand for files in its cache folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from taemi_runtime.asr.recogniser import PREFERRED, Recogniser, Segment
from taemi_runtime.host import parse_device
from taemi_runtime.preprocessing import SpeechGate


class OpenAiWhisper(Recogniser):
    """A Whisper model of the original implementation."""

    name: ClassVar[str] = "openai-whisper"
    module: ClassVar[str] = "whisper"
    extra: ClassVar[str] = "whisper"
    remedy: ClassVar[str] = "Give a model's .pt file: --asr FILE"

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Return whether a path is a ``.pt`` file."""
        return path.suffix.lower() == ".pt" and path.is_file()

    @classmethod
    def at_hand(cls) -> str | None:
        """Return the best model in the cache folder; torch is not imported for it."""
        if not cls.probe().usable:
            return None
        return next((name for name in PREFERRED if cls.find(None, name)), None)

    @classmethod
    def find(cls, library: Any, model: str) -> Path | None:
        """Return a model's file in the cache folder of ``whisper.load_model``."""
        del library
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisper"
        # "turbo" and "large" are other names of files.
        name = {"turbo": "large-v3-turbo", "large": "large-v3"}.get(model, model)
        file = base / f"{name}.pt"
        return file if "/" not in model and file.is_file() else None

    @classmethod
    def fetch(cls, library: Any, model: str, asked: str) -> str | Path:
        """Leave the download to ``load``, which does it for a name."""
        del library, asked
        return model

    @classmethod
    def load(cls, library: Any, place: str, *, device: str, threads: int) -> Any:
        """Load a file; threads are torch's own affair.

        A cached file comes by its path: by its name, one with a wrong digest would be fetched again.
        """
        del threads
        kind, index = parse_device(device)
        where = None if kind == "auto" else f"cuda:{index}" if kind == "cuda" else "cpu"
        return library.load_model(place, device=where)

    def recognise(self, samples: npt.NDArray[np.float32], gate: SpeechGate) -> list[Segment]:
        """Recognise speech."""
        found = self._whisper.transcribe(
            samples,
            verbose=None,
            language=gate.language or None,
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            no_speech_threshold=gate.no_speech_threshold,
            logprob_threshold=gate.logprob_threshold,
            compression_ratio_threshold=gate.compression_ratio_threshold,
            # Half precision on a CPU is replaced by single there, with a warning.
            fp16=getattr(self._whisper.device, "type", "cpu") == "cuda",
        )
        return [
            Segment(item["text"], float(item["no_speech_prob"]), float(item["avg_logprob"]))
            for item in found["segments"]
        ]
