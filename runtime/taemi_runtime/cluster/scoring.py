"""Clips scored on a cluster: what is sent to its processes, and what comes back."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from taemi_runtime.batching import DecodedClip
from taemi_runtime.cluster.flow import ask_one, run_stages
from taemi_runtime.cluster.preflight import Needs, check_nodes
from taemi_runtime.cluster.session import open_cluster
from taemi_runtime.cluster.shares import deal_out
from taemi_runtime.cluster.stages import Source
from taemi_runtime.decoding import ClipDecoder
from taemi_runtime.job_scorer import make_listener, make_scorer
from taemi_runtime.pipeline import ClipScorer
from taemi_runtime.results import ClipFailure, ClipResult
from taemi_runtime.resume import Key, Settings, clip_digest
from taemi_runtime.transcripts import Transcripts

if TYPE_CHECKING:
    from taemi_runtime.job import Job

_log = logging.getLogger(__name__)

Outcome = ClipResult | ClipFailure


@dataclass(frozen=True)
class Facts:
    """What the driver has to know of a model, which may run on other machines only.

    Args:
        labels: Names of the scores in order.
        decoder: What reads clips for it.
        untrained: Whether the weights are random.
        faces_differ: A warning where faces are cut out otherwise than for the training features, or empty.
        settings: What scores depend on beside clip and transcript; ``None`` where nobody asked.
    """

    labels: tuple[str, ...]
    decoder: ClipDecoder
    untrained: bool
    faces_differ: str
    settings: Settings | None


@dataclass(frozen=True)
class ScorerRecipe:
    """Opens a scorer in a process of the cluster.

    Args:
        job: What to score with; its device and threads are those of one process.
        with_text: Whether some clip has a transcript.
        without_text: Whether some clip has none.
        keyed: Whether lines say what they were scored with.
    """

    job: Job
    with_text: bool
    without_text: bool
    keyed: bool

    def open(self) -> ScoringWorker:
        """Load the model and what else is needed; see ``cluster.stages.Recipe``."""
        scorer = self._scorer()
        # What was asked for must work, whether a clip turns out to need it or not.
        listens = (scorer.listener.is_explicit or self.without_text) and scorer.listener.prepare()
        scorer.prepare(text=self.with_text or listens)
        return ScoringWorker(scorer)

    def facts(self) -> Facts:
        """Describe the model without opening an engine.

        Raises:
            TaemiError: It cannot be opened here.
        """
        with self._scorer() as scorer:
            settings = Settings.of(scorer, listens=self.without_text) if self.keyed else None
            return Facts(
                tuple(scorer.labels), scorer.decoder, scorer.untrained, scorer.faces_differ, settings
            )

    def _scorer(self) -> ClipScorer:
        return make_scorer(self.job, make_listener(self.job), self.job.options)


@dataclass(frozen=True)
class ReadClip:
    """A clip on its way from the process that decoded it to one that scores it.

    Args:
        clip: The clip.
        key: What its score depends on, where that is recorded.
    """

    clip: DecodedClip
    key: Key | None


@dataclass(frozen=True)
class ClipReader:
    """Reads clips and their transcripts in the processes of the cluster.

    Args:
        decoder: What reads clips.
        texts: What finds transcripts.
        settings: What scores depend on beside these; ``None`` where no keys are recorded.
    """

    decoder: ClipDecoder
    texts: Transcripts
    settings: Settings | None

    def read(self, source: Source) -> ReadClip:
        """Read a clip; see ``cluster.stages.Reader``."""
        said = self.texts.read(Path(source.name))
        key = self.settings.key(clip_digest(Path(source.name)), said) if self.settings else None
        clip, decode_ms = self.decoder.decode(source.name)
        return ReadClip(DecodedClip(clip, said, source.name, decode_ms), key)


@dataclass(frozen=True)
class ScoringWorker:
    """Scores clips in a process of the cluster.

    Args:
        scorer: The scorer.
    """

    scorer: ClipScorer

    def work(self, items: Sequence[tuple[Source, object]]) -> list[object]:
        """Score clips; see ``cluster.stages.Worker``."""
        read = [content for _, content in items if isinstance(content, ReadClip)]
        outcomes = self.scorer.score_batch([item.clip for item in read])
        return [
            replace(outcome, key=item.key) if isinstance(outcome, ClipResult) else outcome
            for outcome, item in zip(outcomes, read, strict=True)
        ]


class ClusterScoring:
    """Scores clips on a cluster, which is joined or started when this is entered.

    Args:
        job: What to score with.
        address: Where the cluster is.
        sources: The clips.
        texts: What finds transcripts.
        keyed: Whether results carry their keys.
    """

    def __init__(
        self,
        job: Job,
        address: str,
        sources: Sequence[Source],
        texts: Transcripts,
        *,
        keyed: bool = False,
    ) -> None:
        self._job = job
        self._address = address
        self._sources = list(sources)
        self._texts = texts
        self._keyed = keyed
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            job, debug = self._job, _is_detailed()
            cluster = stack.enter_context(open_cluster(self._address, debug=debug))
            with_text = sum(self._texts.has(Path(source.name)) for source in self._sources)
            shares = deal_out(
                cluster.nodes,
                job.options.device,
                job.options.threads,
                inputs=len(self._sources),
                batch=job.batch,
                decoders=job.workers,
            )
            options = replace(job.options, device=shares.device, threads=shares.threads)
            self._recipe = ScorerRecipe(
                replace(job, options=options), with_text > 0, with_text < len(self._sources), self._keyed
            )
            check_nodes(cluster.nodes, Needs.of(self._paths()))
            self.facts: Facts = ask_one(shares, self._recipe.facts, debug=debug)
            self._reader = ClipReader(self.facts.decoder, self._texts, self.facts.settings)
            self._cluster, self._shares = cluster, shares
            _log.info(
                "Ray cluster: %d machine(s), %d process(es) with the model", len(cluster.nodes), shares.models
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def with_text(self) -> int:
        """How many clips have a transcript."""
        return sum(self._texts.has(Path(source.name)) for source in self._sources)

    def outcomes(self, wanted: Collection[int]) -> Iterator[tuple[int, Outcome]]:
        """Score clips, and yield position and outcome of each as it is done.

        Args:
            wanted: The positions of the clips to score.

        Raises:
            TaemiError: The engine cannot be opened on a machine of the cluster.
        """
        for parcel in run_stages(
            self._cluster,
            self._shares,
            [source for source in self._sources if source.index in wanted],
            self._reader,
            self._recipe,
            debug=_is_detailed(),
        ):
            if parcel.source is not None and isinstance(parcel.content, ClipResult | ClipFailure):
                yield parcel.source.index, parcel.content

    def _paths(self) -> list[Path]:
        job = self._job
        found = [job.engine, job.bundle, job.transcripts]
        if job.faces is not None and job.faces not in ("auto", "none"):
            found.append(Path(job.faces))
        if not all(Path(source.name).is_absolute() for source in self._sources):
            # Relative names start from the folder that this process is in.
            found.append(Path.cwd())
        return [path for path in found if path is not None]


def _is_detailed() -> bool:
    return logging.getLogger("taemi_runtime").isEnabledFor(logging.DEBUG)
