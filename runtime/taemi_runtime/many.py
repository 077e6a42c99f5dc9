"""Many clips with one scorer: each gives its result or its failure, and none ends the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_runtime.errors import UsageError
from taemi_runtime.results import ClipFailure, ClipResult
from taemi_runtime.transcripts import Transcript, transcript_reader

if TYPE_CHECKING:
    from taemi_runtime.pipeline import ClipScorer


def score_many(
    scorer: ClipScorer,
    paths: Iterable[str | PathLike[str]],
    transcripts: Mapping[str, str] | str | PathLike[str] | None,
) -> Iterator[ClipResult | ClipFailure]:
    """Check what can be checked now, and return an iterator that scores; see ``ClipScorer.predict_many``."""
    if isinstance(paths, str | PathLike):
        raise UsageError(
            f"cannot score {str(paths)!r} as many clips", "it is one path", "Give a list, or use predict"
        )
    read = transcript_reader(transcripts)
    scorer.prepare(text=False)
    if scorer.listener.is_explicit:
        scorer.listener.prepare()
    return _outcomes(scorer, paths, read)


def _outcomes(
    scorer: ClipScorer, paths: Iterable[str | PathLike[str]], read: Callable[[Path], Transcript]
) -> Iterator[ClipResult | ClipFailure]:
    for path in paths:
        try:
            outcome: ClipResult | ClipFailure = scorer.score(path, read(Path(path)))
        except Exception as error:  # one clip, whatever is wrong with it, must not stop the others
            outcome = ClipFailure.from_error(str(path), error)
        yield outcome
