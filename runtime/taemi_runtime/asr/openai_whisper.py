"""openai-whisper: the original, on torch. Checked against the source of openai-whisper 20250625.

Models are ``.pt`` files; names stand for files in its cache folder.
"""

from __future__ import annotations

import logging
import os
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from taemi_runtime.asr.recogniser import PREFERRED, Recogniser, Segment
from taemi_runtime.errors import EngineError
from taemi_runtime.host import parse_device
from taemi_runtime.preprocessing import SpeechGate

_log = logging.getLogger(__name__)


class OpenAiWhisper(Recogniser):
    """A Whisper model of the original implementation.

    Args:
        model: The model as a person would name it.
        whisper: The library's ``Whisper``.
    """

    name = "openai-whisper"
    module = "whisper"
    extra = "whisper"

    def __init__(self, model: str, whisper: Any) -> None:
        super().__init__(model)
        self._whisper = whisper

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Return whether a path is a ``.pt`` file."""
        return path.suffix.lower() == ".pt" and path.is_file()

    @classmethod
    def at_hand(cls) -> str | None:
        """Return the best model in the cache folder."""
        if not cls.probe().usable:
            return None
        return next((name for name in PREFERRED if _cached(name)), None)

    @classmethod
    def open(cls, model: str, *, device: str, threads: int) -> Self:
        """Load a ``.pt`` file, or a model by its name; threads are torch's own affair."""
        del threads
        cls.require()
        library = _library()
        asked = f"cannot load {cls.name} model {model}"
        # A cached file is given by its path: by its name, one with a wrong digest would be fetched again.
        file = Path(model) if Path(model).is_file() else _cached(model)
        if file is None:
            known = library.available_models()
            if model not in known:
                names = ", ".join(known)
                raise EngineError(asked, f"there is no such model or file (known: {names})")
            _log.warning("model %s is not on this machine and is downloaded, as --asr names it", model)
        kind, index = parse_device(device)
        place = None if kind == "auto" else f"cuda:{index}" if kind == "cuda" else "cpu"
        try:
            whisper = library.load_model(str(file or model), device=place)
        except Exception as error:  # urllib's, torch's and its own errors
            raise EngineError(
                asked, f"{type(error).__name__}: {error}", "Give a model's .pt file: --asr FILE"
            ) from error
        return cls(model, whisper)

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


def _library() -> Any:
    try:
        return import_module(OpenAiWhisper.module)
    except Exception as error:  # torch, numba and triton each fail in their own ways
        raise EngineError(
            "cannot recognise speech with openai-whisper",
            f"it does not import ({type(error).__name__}: {error})",
            'Install it again: pip install --force-reinstall "taemi[whisper]"',
        ) from error


def _cached(model: str) -> Path | None:
    # The folder of whisper.load_model; "turbo" and "large" are other names of files.
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisper"
    name = {"turbo": "large-v3-turbo", "large": "large-v3"}.get(model, model)
    file = base / f"{name}.pt"
    return file if "/" not in model and file.is_file() else None
