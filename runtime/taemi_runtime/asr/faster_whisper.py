"""faster-whisper: Whisper on CTranslate2, without torch.

Checked against faster-whisper 1.2.1. Models are folders with ``model.bin``; names stand for folders in
the Hugging Face hub's cache.
"""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from taemi_runtime.asr.recogniser import PREFERRED, Recogniser, Segment
from taemi_runtime.errors import EngineError
from taemi_runtime.host import parse_device, usable_cores
from taemi_runtime.preprocessing import SpeechGate

_log = logging.getLogger(__name__)

# Without its tokenizer the library would fetch one from the hub.
_NEEDED = ("model.bin", "tokenizer.json")
_FIX = "Convert it with ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json"


class FasterWhisper(Recogniser):
    """A Whisper model of CTranslate2; its wheel brings a voice activity detector, which is used, too.

    Args:
        model: The model as a person would name it.
        whisper: The library's ``WhisperModel``.
    """

    name = "faster-whisper"
    module = "faster_whisper"
    extra = "asr"

    def __init__(self, model: str, whisper: Any) -> None:
        super().__init__(model)
        self._whisper = whisper

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Return whether a path is a folder with ``model.bin``."""
        return (path / "model.bin").is_file()

    @classmethod
    def at_hand(cls) -> str | None:
        """Return the best model in the hub's cache."""
        if not cls.probe().usable:
            return None
        try:
            library = _library()
        except EngineError as error:
            _log.debug("%s", error)
            return None
        known = set(library.available_models())
        return next((name for name in PREFERRED if name in known and _cached(library, name)), None)

    @classmethod
    def open(cls, model: str, *, device: str, threads: int) -> Self:
        """Load a CTranslate2 folder, or a model by its name or hub id."""
        cls.require()
        library = _library()
        asked = f"cannot load {cls.name} model {model}"
        folder = Path(model)
        if folder.is_dir():
            lacking = [name for name in _NEEDED if not (folder / name).is_file()]
            if lacking:
                raise EngineError(asked, f"the folder has no {', '.join(lacking)}", _FIX)
        else:
            if "/" not in model and model not in library.available_models():
                known = ", ".join(library.available_models())
                raise EngineError(asked, f"there is no such model, file or folder (known: {known})")
            folder = _cached(library, model) or _download(library, model, asked)
        kind, index = parse_device(device)
        # CTranslate2 aborts the process where a GPU is there and cuDNN is not: only on demand.
        on_gpu = kind == "cuda"
        try:
            whisper = library.WhisperModel(
                str(folder),
                device="cuda" if on_gpu else "cpu",
                device_index=index,
                compute_type="auto" if on_gpu else "int8",
                cpu_threads=threads or usable_cores(),
                local_files_only=True,
            )
        except Exception as error:  # CTranslate2 raises RuntimeError, ValueError and others
            raise EngineError(asked, f"{type(error).__name__}: {error}", "Try --asr none") from error
        return cls(model, whisper)

    def recognise(self, samples: npt.NDArray[np.float32], gate: SpeechGate) -> list[Segment]:
        """Recognise speech where the voice activity detector hears some."""
        found, _ = self._whisper.transcribe(
            samples,
            language=gate.language or None,
            beam_size=5,
            temperature=0.0,
            condition_on_previous_text=False,
            no_speech_threshold=gate.no_speech_threshold,
            log_prob_threshold=gate.logprob_threshold,
            compression_ratio_threshold=gate.compression_ratio_threshold,
            vad_filter=True,
        )
        return [Segment(item.text, float(item.no_speech_prob), float(item.avg_logprob)) for item in found]


def _library() -> Any:
    try:
        return import_module(FasterWhisper.module)
    except Exception as error:  # a broken wheel fails in its own ways
        raise EngineError(
            "cannot recognise speech with faster-whisper",
            f"it does not import ({type(error).__name__}: {error})",
            'Install it again: pip install --force-reinstall "taemi[asr]"',
        ) from error


def _cached(library: Any, model: str) -> Path | None:
    try:
        folder = Path(library.download_model(model, local_files_only=True))
    except Exception:  # the hub's library has an error of its own for what is not in its cache
        return None
    return folder if all((folder / name).is_file() for name in _NEEDED) else None


def _download(library: Any, model: str, asked: str) -> Path:
    _log.warning("model %s is not on this machine and is downloaded, as --asr names it", model)
    try:
        return Path(library.download_model(model))
    except Exception as error:
        raise EngineError(
            asked,
            f"it is not on this machine and cannot be downloaded ({type(error).__name__}: {error})",
            "Give a local folder of a CTranslate2 model: --asr DIR",
        ) from error
