"""Extraction on a Ray cluster, through the stages that scoring uses: tasks read, actors encode and write.

The store must lie where every machine can write to it under the same path.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import torch

from taemi.checkpoint import write_tensors
from taemi.corpus import ClipRow
from taemi.devices import torch_device
from taemi.encoders import rebuild
from taemi.extract.decoding import CorpusDecoder, ReadClip
from taemi.extract.encoders import FeatureEncoders
from taemi.extract.making import ClipMaker, Made
from taemi.extract.run import Outcome, Work
from taemi.extract.transcripts import Transcriber
from taemi.store.files import write_clip
from taemi.store.layout import ClipFacts, MadeWith
from taemi.store.writer import StoreWriter
from taemi_runtime.cluster.flow import ask_one, run_stages
from taemi_runtime.cluster.preflight import Needs, check_nodes
from taemi_runtime.cluster.session import open_cluster
from taemi_runtime.cluster.shares import deal_out
from taemi_runtime.cluster.stages import Source
from taemi_runtime.errors import WriteError
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.results import ClipFailure

_ENCODERS = ("vision", "audio", "text")


@dataclass(frozen=True)
class RowReader:
    """Reads rows of a corpus in the processes of a cluster; see ``cluster.stages.Reader``.

    Args:
        decoder: What reads them.
        rows: The rows that sources count.
    """

    decoder: CorpusDecoder
    rows: tuple[ClipRow, ...]

    def read(self, source: Source) -> tuple[ClipRow, ReadClip]:
        """Read a clip."""
        row = self.rows[source.index]
        return row, self.decoder.decode(row)[0]


@dataclass(frozen=True)
class MakerRecipe:
    """Opens the encoders in a process of a cluster; see ``cluster.stages.Recipe``.

    Args:
        weights: A file with the encoders that all machines can read.
        folder: The store.
        preprocessing: What turns a clip into the encoders' inputs.
        made_with: What the files say of this.
        asr: What ``--asr`` says.
        frames_at_once: Frames in a call of the vision encoder.
        device: The device as a process sees it.
        threads: Threads on the CPU; 0 leaves them to PyTorch.
    """

    weights: Path
    folder: Path
    preprocessing: Preprocessing
    made_with: MadeWith
    asr: str
    frames_at_once: int
    device: str
    threads: int

    def open(self) -> MakingWorker:
        """Load the encoders."""
        if self.threads:
            torch.set_num_threads(self.threads)
        packed = torch.load(self.weights, map_location="cpu", weights_only=True, mmap=True)
        encoders = {name: rebuild(item["description"], item["weights"]) for name, item in packed.items()}
        features = FeatureEncoders(
            preprocessing=self.preprocessing,
            device=torch_device(self.device),
            frames_at_once=self.frames_at_once,
            **encoders,  # type: ignore[arg-type]  # each of its own kind, by name
        )
        features.open()
        return MakingWorker(features, self.transcriber(), self.folder, self.made_with)

    def transcriber(self) -> Transcriber:
        """Return what finds transcripts in such a process."""
        return Transcriber(self.asr, device=self.device, threads=self.threads)

    def check_recogniser(self, rows: Sequence[ClipRow]) -> None:
        """Load the recogniser if clips need it.

        Raises:
            TaemiError: There is none on this machine.
        """
        self.transcriber().prepare(rows)


@dataclass(frozen=True)
class MakingWorker:
    """Encodes clips and writes their files in a process of a cluster; see ``cluster.stages.Worker``.

    Args:
        encoders: The encoders, opened.
        transcriber: What finds transcripts.
        folder: The store.
        made_with: What the files say that they were made with.
    """

    encoders: FeatureEncoders
    transcriber: Transcriber
    folder: Path
    made_with: MadeWith

    def work(self, items: Sequence[tuple[Source, object]]) -> list[object]:
        """Make clips; a clip's outcome is its facts, its failure, or the error that ends the run."""
        # One for each call: what an error leaves of a batch must not get into the next one.
        maker = ClipMaker(self.encoders, self.transcriber)
        read = [cast("tuple[ClipRow, ReadClip]", content) for _, content in items]
        made = [made for row, clip in read for made in maker.take(row, clip)]
        outcomes = {clip.row.name: self._write(clip) for clip in [*made, *maker.rest()]}
        return [outcomes[row.name] for row, _ in read]

    def _write(self, made: Made) -> object:
        if made.error:
            return ClipFailure(made.row.name, made.error)
        try:
            write_clip(self.folder, made.row.name, made.arrays, self.made_with, made.facts)
        except WriteError as error:
            return error
        return made.facts


@dataclass
class ClusterEngine:
    """Extracts on a cluster; see ``taemi.extract.run.Engine``.

    Args:
        encoders: The encoders, which are sent to the machines through the store's folder.
        asr: What ``--asr`` says.
        decoder: What reads clips.
        address: Where the cluster is.
        corpus: The corpus's folder.
        device: ``auto``, ``cpu`` or ``cuda``.
        workers: Clips that are read at a time; ``None`` leaves it to the cluster's size.
        debug: Whether Ray's log is shown.
    """

    encoders: FeatureEncoders
    asr: str
    decoder: CorpusDecoder
    address: str
    corpus: Path
    device: str = "auto"
    workers: int | None = None
    debug: bool = False

    @contextlib.contextmanager
    def ready(self, rows: Sequence[ClipRow], store: StoreWriter) -> Iterator[Work]:
        """Join the cluster, and ask its machines for what the work needs.

        Raises:
            TaemiError: There is no cluster, or a machine of it lacks something.
        """
        with open_cluster(self.address, debug=self.debug) as cluster:
            shares = deal_out(cluster.nodes, self.device, 0, inputs=len(rows), decoders=self.workers)
            # Under this name a killed process's file is removed by the next one.
            with _kept(store.folder / f".encoders-{os.getpid()}.part", self.encoders) as weights:
                recipe = MakerRecipe(
                    weights.absolute(),
                    store.folder.absolute(),
                    self.encoders.preprocessing,
                    store.made_with,
                    self.asr,
                    self.encoders.frames_at_once,
                    shares.device,
                    shares.threads,
                )
                check_nodes(cluster.nodes, Needs.of(self._paths(weights)))
                ask_one(shares, partial(recipe.check_recogniser, tuple(rows)), debug=self.debug)
                reader = RowReader(self.decoder, tuple(rows))
                sources = [Source(index, row.name) for index, row in enumerate(rows)]

                def work() -> Iterator[Outcome]:
                    for parcel in run_stages(cluster, shares, sources, reader, recipe, debug=self.debug):
                        if parcel.source is not None:
                            yield _outcome(rows[parcel.source.index], parcel.content, store)

                yield work

    def _paths(self, weights: Path) -> list[Path]:
        found = [self.corpus, weights]
        if self.decoder.faces not in (None, "auto", "none"):
            found.append(Path(str(self.decoder.faces)))
        if Path(self.asr).exists():
            found.append(Path(self.asr))
        if not self.corpus.is_absolute():
            # Rows name their files from the folder that this process is in.
            found.append(Path.cwd())
        return found


@contextlib.contextmanager
def _kept(path: Path, encoders: FeatureEncoders) -> Iterator[Path]:
    """Keep the encoders in a file for as long as the block lasts."""
    packed = {
        name: {"description": encoder.describe(), "weights": encoder.state_dict()}
        for name in _ENCODERS
        if (encoder := getattr(encoders, name)) is not None
    }
    write_tensors(path, packed)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _outcome(row: ClipRow, content: object, store: StoreWriter) -> Outcome:
    if isinstance(content, WriteError):
        raise content
    if isinstance(content, ClipFacts):
        store.note(row.name, content)
        return Outcome(row, remarks=content.remarks)
    return Outcome(row, content.error if isinstance(content, ClipFailure) else str(content))
