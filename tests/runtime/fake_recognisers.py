"""Stand-ins for faster-whisper and openai-whisper with their interfaces, installed into a folder.

A model says what its ``says.json`` holds, [text, no-speech probability, mean log-probability] each, so
that everything around the model runs as it does with the real ones.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from taemi_runtime.asr import recogniser

RATE_HZ = 16_000

_FASTER = """
    import json
    from pathlib import Path
    from types import SimpleNamespace
    CACHE = Path(__file__).with_name("cache")
    calls, downloads = [], []

    def available_models():
        return ["tiny", "small", "large-v3-turbo"]

    def download_model(name, local_files_only=False):
        folder = CACHE / name
        if not folder.is_dir():
            if not local_files_only:
                downloads.append(name)
            raise OSError("no network here")
        return str(folder)

    class WhisperModel:
        def __init__(self, folder, *, device, device_index, compute_type, cpu_threads, local_files_only):
            assert local_files_only
            self.says = json.loads((Path(folder) / "says.json").read_text())

        def transcribe(self, audio, **options):
            calls.append((audio, options))
            if self.says == "crash":
                raise RuntimeError("out of memory")
            found = [SimpleNamespace(text=t, no_speech_prob=n, avg_logprob=p) for t, n, p in self.says]
            return iter(found), SimpleNamespace(language="en")
"""
_OPENAI = """
    import json
    from types import SimpleNamespace
    calls = []

    def available_models():
        return ["tiny", "turbo"]

    def load_model(name, device=None):
        says = json.loads(open(name).read())
        return SimpleNamespace(device=SimpleNamespace(type="cpu"), transcribe=lambda audio, **options: (
            calls.append((audio, options)),
            {"segments": [{"text": t, "no_speech_prob": n, "avg_logprob": p} for t, n, p in says]},
        )[1])
"""


@contextlib.contextmanager
def hide_recognisers(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[None]:
    """Let no recogniser of this machine and no model in a cache be found, but stand-ins below a folder."""
    found = importlib.util.find_spec
    modules = ("faster_whisper", "whisper")

    def find_spec(name):
        spec = found(name)
        fake = spec is not None and str(spec.origin).startswith(str(folder))
        return spec if fake or name not in modules else None

    monkeypatch.setattr(recogniser.importlib.util, "find_spec", find_spec)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache-home"))
    for name in modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield
    for name in modules:
        sys.modules.pop(name, None)


def install(site: Path, *, faster: bool = True, openai: bool = False) -> Path:
    """Install the stand-ins into a folder that is on the path."""
    wanted = [
        ("faster_whisper", "faster-whisper", _FASTER, faster),
        ("whisper", "openai-whisper", _OPENAI, openai),
    ]
    for module, name, source, there in wanted:
        if there:
            site.mkdir(exist_ok=True)
            (site / f"{module}.py").write_text(dedent(source))
            info = site / f"{name.replace('-', '_')}-1.2.1.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.1\n")
    return site


def install_metadata(site: Path, *names: str) -> Path:
    """Write what pip leaves in site-packages of a distribution, without its code."""
    for name in names:
        info = site / f"{name.replace('-', '_')}-1.31.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.31.1\n")
    return site


def write_model(folder: Path, *says: tuple[str, float, float] | str) -> Path:
    """Write a CTranslate2 folder that says something, or crashes."""
    folder.mkdir(parents=True)
    for name in ("model.bin", "tokenizer.json"):
        (folder / name).write_bytes(b"x")
    (folder / "says.json").write_text(json.dumps(says[0] if says and isinstance(says[0], str) else says))
    return folder


def speech_like(seconds: float, *, seed: int = 1) -> np.ndarray:
    """Make [samples] float32: noise that swells four times a second, as syllables do."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    noise = np.random.default_rng(seed).standard_normal(time_s.size)
    return (0.1 * noise * np.sin(2 * np.pi * 2 * time_s) ** 2).astype(np.float32)


def write_wave(path: Path, samples: np.ndarray) -> Path:
    """Write 16-bit mono at 16 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return path
