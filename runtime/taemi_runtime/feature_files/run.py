"""One run of ``taemi-infer`` over features: open the engine, score everything, write every outcome."""

from __future__ import annotations

import contextlib
import sys
from functools import partial
from typing import TYPE_CHECKING

from taemi_runtime.console import Step, progress, say
from taemi_runtime.delivery import Order, Scored, Tally, deliver
from taemi_runtime.feature_files.find import Features
from taemi_runtime.feature_files.resuming import Keys
from taemi_runtime.feature_files.scorer import FeatureScorer
from taemi_runtime.job_options import check_options
from taemi_runtime.job_scorer import warn_of_model
from taemi_runtime.output import require_writable, use_utf8
from taemi_runtime.resume import sort_lines
from taemi_runtime.writers import FORMATS, open_writer

if TYPE_CHECKING:
    from taemi_runtime.job import Job


def run_features(job: Job, features: Features) -> int:
    """Score what was found.

    Args:
        job: What ``taemi-infer`` was asked to do.
        features: The feature files among its inputs.

    Returns:
        The exit code: 0 all clips scored, 1 some were not, 130 interrupted.

    Raises:
        UsageError: An option has no meaning for features, or the output cannot be written.
        TaemiError: The engine cannot be opened, or a store is of other encoders.
    """
    check_options(job, "features")
    if job.out is not None:
        require_writable(job.out)
    step = Step("taemi-infer")
    tally = Tally(len(features.inputs))
    try:
        _score(job, features, tally)
    except KeyboardInterrupt:
        tally.interrupted = True
    if tally.interrupted:
        say(f"interrupted: {tally.done} of {tally.count} clips done")
        return 130
    if job.out is not None or tally.count > 1:
        say(step.done(job.out, tally.describe()), quiet=job.quiet)
    return 1 if tally.failed else 0


def _score(job: Job, features: Features, tally: Tally) -> None:
    with contextlib.ExitStack() as stack:
        scorer = stack.enter_context(
            FeatureScorer(
                job.engine,
                bundle=job.bundle,
                options=job.options,
                batch=job.batch,
                clip_scores=job.clip_scores,
                attention=job.attention,
            )
        )
        warn_of_model(job, untrained=scorer.untrained)
        if job.out is None:
            use_utf8(sys.stdout)
        kind = FORMATS[job.format]
        keys = Keys.of(scorer, job, features) if kind.appends else None
        skip: frozenset[int] = frozenset()
        if job.resume and job.out is not None and keys is not None:
            skip = keys.take_up(job.out)
            tally.done = tally.before = len(skip)
        outcomes = stack.enter_context(contextlib.closing(scorer.score_found(features, skip=skip)))
        writer = stack.enter_context(
            open_writer(job.format, job.out, scorer.labels, tally.count, append=job.resume)
        )
        streaming = job.out is None and kind.streams and sys.stdout.isatty()
        tick = stack.enter_context(progress(quiet=job.quiet or streaming or tally.count == 1))
        # JSON lines say themselves which clip they are of; everything else is read in order.
        in_order = job.ordered or not kind.appends
        order = Order(place for place in range(tally.count) if place not in skip) if in_order else None
        deliver(
            (Scored(index, outcome) for index, outcome in outcomes),
            writer,
            tally,
            order=order,
            tick=partial(tick, "scoring features"),
            say_errors=job.out is not None or job.format != "table",
            mark=(lambda scored: keys.mark(scored.index, scored.outcome)) if keys else None,
        )
    if job.ordered and skip and job.out is not None and not tally.interrupted:
        sort_lines(job.out)
