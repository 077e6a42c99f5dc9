"""Evaluation on a split, through the runtime that users run: several models beside one another.

Every clip is decoded once for all models that take it in the same way, and encoded once a model; the fusion
graph then scores it in every case.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from taemi.corpus import FACES, RAW, ClipRow, Corpus
from taemi.data import StoredCorpus
from taemi.evaluate.cases import CONDITIONS, NO_CURVES, NOTHING, Robustness, condition_name
from taemi.evaluate.reading import RowDecoder, StoreDecoder, read_rows
from taemi.evaluate.resampling import RESAMPLES, SEED, Interval, Resampled, resample
from taemi.evaluate.results import Curve, Difference, Evaluation, Figures, Point, Sampling
from taemi.evaluate.scoring import CaseScorer, Scored
from taemi.evaluate.stores import check_store
from taemi.metrics import import_scipy, pearson
from taemi_runtime.contract import FUSION
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import DataError, EngineError
from taemi_runtime.host import runs_on_cpu
from taemi_runtime.loading import open_model
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.scale import choose_scale

Tick = Callable[[str, int, int], None]
Warn = Callable[[str], None]


@dataclass(frozen=True)
class Asked:
    """How a split is evaluated.

    Args:
        faces: How frames are cropped: ``none``, ``auto``, or the path of a YuNet file; as trained when
            ``None``.
        max_fps: Frames a second that are looked at; as trained when ``None``.
        device: Where engines run, as ``--device`` has it.
        robustness: The levels of the curves; none of them by default.
        resamples: How many resamples of the clips intervals rest on.
        seed: What resamples, and what is done to clips along curves, depend on.
    """

    faces: str | None = None
    max_fps: float | None = None
    device: str = "auto"
    robustness: Robustness = NO_CURVES
    resamples: int = RESAMPLES
    seed: int = SEED


def evaluate_split(
    model: Path,
    corpus: Corpus,
    split: str,
    *,
    faces: str | None = None,
    tick: Tick | None = None,
    warn: Warn | None = None,
) -> Evaluation:
    """Score a split with one model; see ``evaluate_models``."""
    (found,) = evaluate_models([model], corpus, split, Asked(faces=faces), tick=tick, warn=warn)
    return found


def evaluate_models(
    models: Sequence[Path],
    corpus: Corpus,
    split: str,
    asked: Asked,
    *,
    tick: Tick | None = None,
    warn: Warn | None = None,
) -> list[Evaluation]:
    """Score a split with several models, on the same clips.

    A clip that lacks a modality is scored without it under every condition, as it would be in use; the
    count beside each condition says how many clips really had all of it. A clip that one model cannot score
    is left out of the figures of all.

    Args:
        models: Checkpoints, bundles, or engine files in bundles, as ``--engine`` takes them.
        corpus: The corpus.
        split: One of its splits.
        asked: How it is evaluated.
        tick: Called with (step, done, total) after each batch of clips.
        warn: Called with a sentence for each clip, or part of one, that cannot be read, and for what makes
            figures doubtful.

    Returns:
        What each model scores, in the order of ``models``.

    Raises:
        BundleError: A model was trained with a face detector from a file, and none is given.
        DataError: The split is missing, or none of its clips can be scored.
        MissingExtraError: scipy is not installed.
        TaemiError: A model cannot be opened.
    """
    import_scipy("stats")
    rows = corpus.split(split)
    warn = warn or (lambda text: None)
    if rows and not np.isfinite(rows[0].labels).all():
        warn(f"the {split} split has no labels: there are scores, and no correlation with anything")
    robustness = _curves_of(corpus, asked.robustness, warn)
    with contextlib.ExitStack() as stack:
        scorers = []
        for path in models:
            loaded = stack.enter_context(open_model(path, options=EngineOptions(device=asked.device)))
            scorer = ClipScorer(loaded, faces=asked.faces, max_fps=asked.max_fps)
            if isinstance(corpus, StoredCorpus):
                check_store(path, scorer, corpus, warn)
            elif scorer.faces_differ and corpus.vision == RAW:
                warn(scorer.faces_differ)
            scorers.append(CaseScorer(path, scorer, robustness, asked.seed))
        outcomes = _Outcomes(len(models))
        if isinstance(corpus, StoredCorpus):
            missing = corpus.missing(rows)
            for row in rows:
                if row.name in missing:
                    _leave_out(outcomes, row, missing[row.name], warn)
        there = [row for row in rows if row.name not in outcomes.failures]
        for group in _alike(scorers):
            _score(
                group, corpus, there, scorers, outcomes, robustness, f"evaluate {split}", asked, tick, warn
            )
        kept = [row for row in rows if row.name not in outcomes.failures]
        if not kept:
            name, reason = next(iter(outcomes.failures.items()), ("", "the split file has no rows"))
            raise DataError(f"no clip of the {split} split can be used", f"{name} {reason}".strip())
        return [
            _conclude(item, corpus, split, kept, outcomes.of(index, kept), outcomes, robustness, asked, warn)
            for index, item in enumerate(scorers)
        ]


def compare(evaluations: Sequence[Evaluation]) -> list[Difference]:
    """Compare models with the first one; all were scored on the same clips by ``evaluate_models``."""
    first = evaluations[0]
    predicted = np.stack([item.predicted for item in evaluations], axis=1)
    gaps = [float(np.abs(item.predicted - first.predicted).max()) for item in evaluations]
    if not np.isfinite(first.labels).all():
        nothing = (float("nan"),) * predicted.shape[2]
        return [Difference(float("nan"), None, nothing, (), gap) for gap in gaps]
    sampling = first.sampling
    found = resample(predicted, first.labels, resamples=sampling.resamples, seed=sampling.seed).minus(0)
    each, mean = found.intervals(sampling.confidence), found.mean().intervals(sampling.confidence)
    return [
        Difference(
            item.mean_rho - first.mean_rho,
            Interval(*mean[:, place].tolist()),
            tuple((np.array(item.whole.rho) - first.whole.rho).tolist()),
            tuple(Interval(*ends) for ends in each[:, place].T.tolist()),
            gaps[place],
        )
        for place, item in enumerate(evaluations)
    ]


@dataclass
class _Outcomes:
    """What every model scored every clip.

    Args:
        models: How many models.
        failures: The reason for each clip that one of them could not score.
        scored: For each model its scores by clip.
    """

    models: int
    failures: dict[str, str] = field(default_factory=dict)
    scored: list[dict[str, Scored]] = field(init=False)

    def __post_init__(self) -> None:
        self.scored = [{} for _ in range(self.models)]

    def of(self, model: int, kept: Sequence[ClipRow]) -> list[Scored]:
        return [self.scored[model][row.name] for row in kept]


def _curves_of(corpus: Corpus, robustness: Robustness, warn: Warn) -> Robustness:
    """Leave out the curves that ready-made features do not allow."""
    stored = isinstance(corpus, StoredCorpus)
    pictures = corpus.vision in (RAW, FACES) and not stored
    if pictures or not (robustness.occlusion or robustness.max_fps):
        return robustness
    where, way = (
        (f"the store {corpus.root}", "its corpus has")
        if stored
        else (f"{corpus.vision}/", "--vision-from raw has")
    )
    warn(
        f"vision comes as features from {where}: there are no curves over covered frames and frame rates; "
        f"{way} the pictures"
    )
    return replace(robustness, occlusion=(), max_fps=())


def _alike(scorers: Sequence[CaseScorer]) -> list[list[CaseScorer]]:
    """Group models that take clips in the same way, so that each clip is decoded once for all of them."""
    groups: list[list[CaseScorer]] = []
    for item in scorers:
        taken = item.scorer.preprocessing
        for group in groups:
            other = group[0].scorer.preprocessing
            if (other.audio, other.vision) == (taken.audio, taken.vision):
                group.append(item)
                break
        else:
            groups.append([item])
    return groups


def _score(
    group: Sequence[CaseScorer],
    corpus: Corpus,
    rows: Sequence[ClipRow],
    scorers: Sequence[CaseScorer],
    outcomes: _Outcomes,
    robustness: Robustness,
    step: str,
    asked: Asked,
    tick: Tick | None,
    warn: Warn,
) -> None:
    """Score every row with a group of models that take clips in the same way."""
    clips = group[0].scorer.decoder
    stored = isinstance(corpus, StoredCorpus)
    decoder = StoreDecoder(clips.preprocessing) if stored else RowDecoder(clips, robustness.max_fps)
    on_cpu = runs_on_cpu(asked.device)
    scale = choose_scale(len(rows), workers=None, batch=None, threads=0, on_cpu=on_cpu)
    done = 0
    reading = read_rows(decoder, rows, scale)
    with contextlib.closing(reading):
        for batch in reading:
            for read in batch:
                if read.clip is None:
                    _leave_out(outcomes, read.row, read.error, warn)
                else:
                    for remark in read.clip.remarks:
                        warn(f"clip {read.row.name}: {remark}")
            there = [(read.row, read.clip) for read in batch if read.clip is not None]
            for item in group:
                for (row, _), found in zip(there, item.score(there), strict=True):
                    if isinstance(found, Exception):
                        _leave_out(outcomes, row, str(found), warn)
                    else:
                        outcomes.scored[scorers.index(item)][row.name] = found
            done += len(batch)
            if tick is not None:
                tick(step, done, len(rows))


def _leave_out(outcomes: _Outcomes, row: ClipRow, reason: str, warn: Warn) -> None:
    if row.name not in outcomes.failures:
        warn(f"clip {row.name} is left out: {reason}")
    outcomes.failures.setdefault(row.name, reason)


def _conclude(
    item: CaseScorer,
    corpus: Corpus,
    split: str,
    kept: Sequence[ClipRow],
    scored: Sequence[Scored],
    outcomes: _Outcomes,
    robustness: Robustness,
    asked: Asked,
    warn: Warn,
) -> Evaluation:
    scores = np.clip(np.stack([one.scores for one in scored]), 0, 1) + 0.0  # no -0.0
    labels = np.array([row.labels for row in kept], dtype=np.float32)
    has = np.array([one.has for one in scored])
    if not np.isfinite(scores).all():
        raise EngineError(f"cannot use the scores of {item.path}", "some are not finite")
    names = [condition_name(flags) for flags in CONDITIONS]
    levels = [f"{kind.name} {kind.label(level)}" for kind, some in robustness.curves() for level in some]
    notes: list[str] = []
    figures = _figures(scores, labels, [*names, *levels], asked, notes)
    for note in notes:
        warn(note)
    engine = item.scorer.model.engine(FUSION).info
    vision = item.scorer.preprocessing.vision
    return Evaluation(
        split=split,
        synthetic=corpus.synthetic,
        trained=item.scorer.model.manifest.trained,
        names=tuple(row.name for row in kept),
        predicted=scores[:, 0],
        labels=labels,
        figures=dict(zip(names, figures, strict=False)),
        clips={
            name: int(has[:, np.array(flags)].all(1).sum())
            for name, flags in zip(names, CONDITIONS, strict=True)
        },
        failures=dict(outcomes.failures),
        rows=tuple(row.name for row in corpus.split(split)),
        faces=vision.faces,
        vision=corpus.vision,
        max_fps=vision.max_fps,
        model=str(item.path),
        engine=f"{engine.backend} {engine.precision}",
        curves=_curves(figures, robustness),
        sampling=Sampling(asked.resamples, asked.seed),
        notes=tuple(notes),
    )


def _figures(
    scores: npt.NDArray[np.float32],
    labels: npt.NDArray[np.float32],
    names: Sequence[str],
    asked: Asked,
    notes: list[str],
) -> list[Figures]:
    """Return the correlations of every case; what is doubtful about them is added to ``notes``."""
    rho = []
    for case in range(scores.shape[1]):
        told: list[str] = []
        rho.append(pearson(scores[:, case], labels, warn=told.append))
        # Where nothing is looked at nothing else is to be expected.
        notes += [f"{names[case]}: {text}" for text in told if names[case] != NOTHING]
    if not np.isfinite(labels).all():
        return [Figures(tuple(found.tolist()), float(found.mean())) for found in rho]
    drawn = resample(scores, labels, resamples=asked.resamples, seed=asked.seed)
    drawn = Resampled(np.stack(rho), drawn.draws, drawn.without)
    each, mean = drawn.intervals(), drawn.mean().intervals()
    return [
        Figures(
            tuple(found.tolist()),
            float(found.mean()),
            tuple(Interval(*ends) for ends in each[:, case].T.tolist()),
            Interval(*mean[:, case].tolist()),
        )
        for case, found in enumerate(rho)
    ]


def _curves(figures: Sequence[Figures], robustness: Robustness) -> tuple[Curve, ...]:
    """Put the figures of curves together; they come after the conditions, in the order of the levels."""
    rest = iter(figures[len(CONDITIONS) :])
    return tuple(
        Curve(kind, (Point(None, figures[0]), *(Point(level, next(rest)) for level in levels)))
        for kind, levels in robustness.curves()
    )
