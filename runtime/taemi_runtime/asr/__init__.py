"""The registry of speech recognisers, and the choice among them: what ``--asr`` means.

* ``none``: no recognition.
* a file or folder: the recogniser that takes it.
* ``faster-whisper`` or ``openai-whisper``: its best model on this machine; with ``:MODEL`` that one.
* any other name: a model, for the first recogniser that is installed. It is downloaded where it is not on
  this machine: naming it is the wish to have it.
* ``auto``: the first recogniser that is installed and has a model on this machine; with none of them there
  is no transcript, and the result says what to install. Nothing is ever downloaded.
"""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path

from taemi_runtime.asr.recogniser import PREFERRED, Recogniser
from taemi_runtime.errors import EngineError, MissingExtraError, TaemiError

AUTO = "auto"
NONE = "none"

# In order of preference.
_REGISTERED = {
    "faster-whisper": "taemi_runtime.asr.faster_whisper:FasterWhisper",
    "openai-whisper": "taemi_runtime.asr.openai_whisper:OpenAiWhisper",
}

_log = logging.getLogger(__name__)


def recognisers() -> list[type[Recogniser]]:
    """Return every recogniser, installed or not, in order of preference."""
    found = []
    for place in _REGISTERED.values():
        module, _, attribute = place.partition(":")
        found.append(getattr(import_module(module), attribute))
    return found


def open_named(asked: str, *, device: str, threads: int) -> Recogniser:
    """Open the recogniser that somebody asked for; nothing else is tried.

    Args:
        asked: A recogniser's name, a model's name, both with a colon between, or a model's file or folder.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads on the CPU; 0 is every core that may be used.

    Raises:
        MissingExtraError: The library is not installed.
        EngineError: There is no such model, or it cannot be loaded.
    """
    kinds = {kind.name: kind for kind in recognisers()}
    path = Path(asked)
    if path.exists():
        kind = next((kind for kind in kinds.values() if kind.takes(path)), None)
        if kind is None:
            raise EngineError(
                f"cannot recognise speech with {asked}",
                "it is neither a Whisper .pt file nor a CTranslate2 folder (model.bin)",
                "Give one of these, a model's name such as small, or --asr none",
            )
        return kind.open(asked, device=device, threads=threads)
    name, _, model = asked.partition(":")
    if name in kinds:
        kinds[name].require()
        return kinds[name].open(model or _model_at_hand(kinds[name]), device=device, threads=threads)
    if path.suffix.lower() == ".pt" or path.is_absolute() or asked.startswith("."):
        raise EngineError(
            f"cannot recognise speech with {asked}", "there is no such file or folder", "Check --asr"
        )
    for kind in kinds.values():
        if kind.probe().usable:
            return kind.open(asked, device=device, threads=threads)
    raise MissingExtraError(f"cannot recognise speech with {asked}", "no recogniser is installed", _install())


def _install() -> str:
    """Return what installs the recogniser that is preferred."""
    return recognisers()[0].install_command()


def _model_at_hand(kind: type[Recogniser]) -> str:
    found = kind.at_hand()
    if found is None:
        raise EngineError(
            f"cannot recognise speech with {kind.name}",
            "none of its models is on this machine",
            f"Name one to download it: --asr {kind.name}:{PREFERRED[0]}, or give a local one: --asr PATH",
        )
    return found


def open_at_hand(*, device: str, threads: int) -> Recogniser | str:
    """Open the best recogniser that needs no download.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Threads on the CPU; 0 is every core that may be used.

    Returns:
        The recogniser, or why there is none and what brings one.
    """
    usable = [kind for kind in recognisers() if kind.probe().usable]
    if not usable:
        return f"no speech recogniser is installed: {_install()}"
    for kind in usable:
        model = kind.at_hand()
        if model is None:
            continue
        try:
            return kind.open(model, device=device, threads=threads)
        except TaemiError as error:
            _log.warning("%s", error)
    names = " and ".join(kind.name for kind in usable)
    return f"{names} has no model on this machine: name one to download it, --asr {PREFERRED[0]}"
