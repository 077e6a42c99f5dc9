"""Many clips with one scorer: each gives its result or its failure, and none ends the rest."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from taemi_runtime.delivery import Order, Scored
from taemi_runtime.errors import UsageError
from taemi_runtime.parallel import Request, score_parallel
from taemi_runtime.results import ClipFailure, ClipResult
from taemi_runtime.resume import clip_digest
from taemi_runtime.scale import Scale
from taemi_runtime.transcripts import transcript_reader

if TYPE_CHECKING:
    from taemi_runtime.pipeline import ClipScorer

_log = logging.getLogger(__name__)

Outcome = ClipResult | ClipFailure


def score_many(
    scorer: ClipScorer,
    paths: Iterable[str | PathLike[str]],
    transcripts: Mapping[str, str] | str | PathLike[str] | None,
    scale: Scale,
) -> Iterator[Outcome]:
    """Check what can be checked now, and return an iterator that scores; see ``ClipScorer.predict_many``."""
    if isinstance(paths, str | PathLike):
        raise UsageError(
            f"cannot score {str(paths)!r} as many clips", "it is one path", "Give a list, or use predict"
        )
    read = transcript_reader(transcripts)
    scorer.prepare(text=False)
    if scorer.listener.is_explicit:
        scorer.listener.prepare()
    requests = (Request(index, path, read) for index, path in enumerate(paths))
    return _in_order(score_all(scorer, requests, scale))


def score_all(
    scorer: ClipScorer,
    requests: Iterable[Request],
    scale: Scale,
    *,
    text: bool = True,
    digests: bool = False,
    strict: bool = False,
) -> Generator[Scored]:
    """Score clips, in this process or with decode workers.

    Args:
        scorer: The scorer.
        requests: The clips.
        scale: How much is done at a time.
        text: Whether the text encoder is needed.
        digests: Whether the SHA-256 of each clip is wanted.
        strict: Whether an encoder that cannot be opened ends the run, instead of being the failure of each
            clip that needs it.

    Returns:
        Every outcome as soon as it is there: in order without workers, in whatever order with them.
    """
    if scale.workers:
        return score_parallel(scorer, requests, scale, text=text, digests=digests)
    return (_score(scorer, request, digests=digests, strict=strict) for request in requests)


def _score(scorer: ClipScorer, request: Request, *, digests: bool, strict: bool) -> Scored:
    name = str(request.path)
    said = None
    digest = ""
    try:
        said = request.transcribe(Path(request.path))
        digest = clip_digest(Path(request.path)) if digests else ""
        outcome: Outcome = scorer.score(request.path, said)
    except Exception as error:  # one clip, whatever is wrong with it, must not stop the others
        if strict and scorer.model.refused(error):
            raise
        _log.debug("%s", name, exc_info=True)
        outcome = ClipFailure.from_error(name, error)
    return Scored(request.index, outcome, digest, said)


def _in_order(found: Generator[Scored]) -> Iterator[Outcome]:
    order = Order()
    with contextlib.closing(found):
        for scored in found:
            yield from (ready.outcome for ready in order.take(scored))
