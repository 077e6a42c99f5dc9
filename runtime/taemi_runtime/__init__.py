"""Scores clips with an exported TAEMI model; needs no torch.

    import taemi_runtime

    with taemi_runtime.load("demo.taemi") as scorer:
        print(scorer.predict("clip.mp4", transcript="I won!").intensities)

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taemi_runtime.errors import TaemiError

if TYPE_CHECKING:
    import os

    from taemi_runtime.limits import DecodeLimits
    from taemi_runtime.over_time.results import WindowResult
    from taemi_runtime.pipeline import ClipScorer
    from taemi_runtime.results import ClipFailure, ClipResult

    __version__: str

__all__ = ["ClipFailure", "ClipResult", "ClipScorer", "TaemiError", "WindowResult", "__version__", "load"]

_HOMES = {
    "ClipFailure": "taemi_runtime.results",
    "ClipResult": "taemi_runtime.results",
    "ClipScorer": "taemi_runtime.pipeline",
    "WindowResult": "taemi_runtime.over_time.results",
}


def load(
    path: str | os.PathLike[str],
    *,
    bundle: str | os.PathLike[str] | None = None,
    device: str = "auto",
    threads: int = 0,
    cuda_backend: str = "cuda-python",
    max_fps: float | None = None,
    faces: str | os.PathLike[str] | None = None,
    clip_scores: bool = True,
    asr: str | os.PathLike[str] = "auto",
    asr_seconds: float = 60.0,
    limits: DecodeLimits | None = None,
) -> ClipScorer:
    """Load a model that scores clips.

    Args:
        path: A bundle folder, an engine file or a checkpoint.
        bundle: The bundle that an engine file outside of one belongs to.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; an explicit device never falls back.
        threads: Threads inside one call; 0 is every core that this process may use.
        cuda_backend: What drives the GPU under a TensorRT plan: ``cuda-python`` or ``pycuda``.
        max_fps: Frames a second to look at; the rate that the model was trained with when ``None``.
        faces: How frames are cropped: ``none``, ``auto`` (the largest face) or the path of a YuNet file; as
            the model was trained when ``None``.
        clip_scores: Whether scores are clipped to [0, 1].
        asr: What recognises speech in clips without a transcript: a model's name, file or folder, ``none``,
            or ``auto``: what is on this machine already, if anything; it is loaded when it is needed.
        asr_seconds: How much of a clip's sound is listened to.
        limits: What a clip may ask for before it is refused; the defaults of
            ``taemi_runtime.limits.DecodeLimits`` when ``None``.

    Returns:
        A scorer, to be closed after use; it is a context manager.

    Raises:
        TaemiError: The model cannot be loaded; the message says why and what to do.
    """
    from pathlib import Path

    from taemi_runtime.asr.listener import Listener
    from taemi_runtime.engine import EngineOptions
    from taemi_runtime.loading import open_model
    from taemi_runtime.pipeline import ClipScorer

    options = EngineOptions(device=device, threads=threads, cuda_backend=cuda_backend)
    listener = Listener(str(asr), seconds=asr_seconds, device=device, threads=threads)
    if listener.is_explicit:
        listener.prepare()
    model = open_model(Path(path), bundle=Path(bundle) if bundle is not None else None, options=options)
    cropped = None if faces is None else str(faces)
    return ClipScorer(
        model, max_fps=max_fps, faces=cropped, clip_scores=clip_scores, listener=listener, limits=limits
    )


def __getattr__(name: str) -> Any:
    # The version is read from the installed distribution, and only when somebody asks.
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("taemi")
        except PackageNotFoundError:
            return "unknown (not installed)"
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
