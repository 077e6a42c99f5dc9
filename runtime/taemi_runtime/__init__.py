"""Scores clips with an exported TAEMI model; needs no torch.

    import taemi_runtime

    with taemi_runtime.load("demo.taemi") as scorer:
        print(scorer.score("clip.mp4", transcript="I won!").intensities)

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from taemi_runtime.errors import TaemiError

if TYPE_CHECKING:
    import os

    from taemi_runtime.pipeline import ClipScorer

    __version__: str

__all__ = ["TaemiError", "__version__", "load"]


def load(
    path: str | os.PathLike[str],
    *,
    bundle: str | os.PathLike[str] | None = None,
    device: str = "auto",
    threads: int = 0,
    max_fps: float | None = None,
    clip_scores: bool = True,
) -> ClipScorer:
    """Load a model that scores clips.

    Args:
        path: A bundle folder, an engine file or a checkpoint.
        bundle: The bundle that an engine file outside of one belongs to.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; an explicit device never falls back.
        threads: Threads inside one call; 0 is every core that this process may use.
        max_fps: Frames a second to look at; the rate that the model was trained with when ``None``.
        clip_scores: Whether scores are clipped to [0, 1].

    Returns:
        A scorer, to be closed after use; it is a context manager.

    Raises:
        TaemiError: The model cannot be loaded; the message says why and what to do.
    """
    from pathlib import Path

    from taemi_runtime.engine import EngineOptions
    from taemi_runtime.loading import open_model
    from taemi_runtime.pipeline import ClipScorer

    options = EngineOptions(device=device, threads=threads)
    model = open_model(Path(path), bundle=Path(bundle) if bundle is not None else None, options=options)
    return ClipScorer(model, max_fps=max_fps, clip_scores=clip_scores)


def __getattr__(name: str) -> Any:
    # The version is read from the installed distribution, and only when somebody asks.
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("taemi")
        except PackageNotFoundError:
            return "unknown (not installed)"
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
