"""faster-whisper: Whisper on CTranslate2, without torch.

Checked against faster-whisper 1.2.1. Models are folders with ``model.bin``; names stand for folders in
the Hugging Face hub's cache.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from taemi_runtime.asr.recogniser import Recogniser, Segment
from taemi_runtime.backends.onnxruntime_session import installed_distributions
from taemi_runtime.errors import EngineError, MissingExtraError
from taemi_runtime.host import parse_device, usable_cores
from taemi_runtime.preprocessing import SpeechGate

# Without its tokenizer the library would fetch one from the hub.
_NEEDED = ("model.bin", "tokenizer.json")
_FIX = "Convert it with ct2-transformers-converter --copy_files tokenizer.json preprocessor_config.json"
# It depends on the distribution onnxruntime for its voice activity detector, and any other that provides
# the module serves as well; pip would install the CPU's over it.
_BESIDE = "pip install ctranslate2 huggingface-hub tqdm, then pip install --no-deps faster-whisper"


class FasterWhisper(Recogniser):
    """A Whisper model of CTranslate2; its wheel brings a voice activity detector, which is used, too."""

    name: ClassVar[str] = "faster-whisper"
    module: ClassVar[str] = "faster_whisper"
    extra: ClassVar[str] = "asr"
    remedy: ClassVar[str] = "Try --asr none"
    takes_repositories: ClassVar[bool] = True

    @classmethod
    def install_command(cls) -> str:
        """Return what installs it; beside onnxruntime-gpu that is not its extra."""
        others = set(installed_distributions()) - {"onnxruntime"}
        return _BESIDE if others else super().install_command()

    @classmethod
    def require(cls) -> None:
        """Check that the library is installed, and what its voice activity detector runs on.

        Raises:
            MissingExtraError: One of them is not.
        """
        super().require()
        if importlib.util.find_spec("onnxruntime") is None:
            raise MissingExtraError(
                f"cannot recognise speech with {cls.name}",
                "its voice activity detector needs onnxruntime, which is not installed",
                'pip install "taemi[cpu]" or "taemi[gpu]"',
            )

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Return whether a path is a folder with ``model.bin``."""
        return (path / "model.bin").is_file()

    @classmethod
    def check(cls, path: Path, asked: str) -> None:
        """Refuse a folder that lacks the model or its tokenizer."""
        lacking = [name for name in _NEEDED if not (path / name).is_file()]
        if lacking:
            raise EngineError(asked, f"the folder has no {', '.join(lacking)}", _FIX)

    @classmethod
    def find(cls, library: Any, model: str) -> Path | None:
        """Return a model's folder in the hub's cache."""
        try:
            folder = Path(library.download_model(model, local_files_only=True))
        except Exception:  # the hub's library has an error of its own for what is not in its cache
            return None
        return folder if all((folder / name).is_file() for name in _NEEDED) else None

    @classmethod
    def fetch(cls, library: Any, model: str, asked: str) -> str | Path:
        """Download a model from the hub."""
        try:
            return Path(library.download_model(model))
        except Exception as error:
            raise EngineError(
                asked,
                f"it is not on this machine and cannot be downloaded ({type(error).__name__}: {error})",
                "Give a local folder of a CTranslate2 model: --asr DIR",
            ) from error

    @classmethod
    def load(cls, library: Any, place: str, *, device: str, threads: int) -> Any:
        """Load a folder; int8 on a CPU."""
        kind, index = parse_device(device)
        # CTranslate2 aborts the process where a GPU is there and cuDNN is not: only on demand.
        on_gpu = kind == "cuda"
        return library.WhisperModel(
            place,
            device="cuda" if on_gpu else "cpu",
            device_index=index,
            compute_type="auto" if on_gpu else "int8",
            cpu_threads=threads or usable_cores(),
            local_files_only=True,
        )

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
