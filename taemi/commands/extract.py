"""``taemi extract``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from taemi.choice import EncoderChoice
from taemi.commands.options import (
    AudioId,
    Debug,
    Encoders,
    Faces,
    Masked,
    MaxFps,
    Preset,
    Quiet,
    Seed,
    TestFolder,
    TextId,
    VisionFrom,
    VisionId,
    Workers,
    corpus_notes,
    need_torch,
)
from taemi.config import variant as named_variant
from taemi.corpus import ClipRow, Corpus, Layout, read_corpus
from taemi.extract import DEFAULT_ASR
from taemi_runtime.cluster.address import OPTION, check_address
from taemi_runtime.cluster.shares import check_options
from taemi_runtime.console import Step, progress, say
from taemi_runtime.errors import UsageError
from taemi_runtime.host import parse_device


def extract(
    corpus: Annotated[Path, typer.Argument(help="a corpus in the Hume-Vidmimic2 layout")],
    store: Annotated[Path, typer.Argument(help="the store's folder; taken up where it is there")],
    variant: Preset = "paper",
    encoders: Encoders = "paper",
    audio_encoder: AudioId = None,
    text_encoder: TextId = None,
    vision_encoder: VisionId = None,
    mask_in_encoder: Masked = True,
    seed: Seed = 3407,
    splits: Annotated[str | None, typer.Option(help="e.g. train,valid; default: all that there are")] = None,
    max_fps: MaxFps = None,
    faces: Faces = "none",
    vision_from: VisionFrom = None,
    test_folder: TestFolder = None,
    audio_features: Annotated[
        bool, typer.Option("--audio-features", help="keep what the audio encoder gives, too")
    ] = False,
    text_features: Annotated[
        bool, typer.Option("--text-features", help="keep what the text encoder gives, too")
    ] = False,
    asr: Annotated[
        str,
        typer.Option(
            metavar="NAME_OR_PATH|none",
            help="who transcribes clips that have no transcript file, a model of openai-whisper or "
            "faster-whisper; none: these clips have no words",
        ),
    ] = DEFAULT_ASR,
    workers: Workers = None,
    batch: Annotated[
        int, typer.Option(min=1, help="frames of any clips in a call of the vision encoder")
    ] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    ray: Annotated[
        str | None,
        typer.Option(
            OPTION,
            metavar="[ADDRESS]",
            help="spread the work over a Ray cluster: one of this machine, or auto or HOST:PORT",
        ),
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Turn a corpus's media into a feature store that training reads; goes on where it stopped."""
    choice = EncoderChoice(
        encoders, audio_encoder, text_encoder, vision_encoder, mask_in_encoder=mask_in_encoder
    )
    named_variant(variant)
    parse_device(device)
    if ray is not None:
        check_address(ray)
        check_options(device, workers)
    need_torch("extract features")
    from taemi.extract.transcripts import Transcriber
    from taemi_runtime.faces.choice import faces_name

    found = read_corpus(corpus, Layout(test_folder, vision_from))
    chosen = _choose_splits(found, splits)
    crops = faces_name(faces)
    transcriber = Transcriber(asr, device=device)
    if ray is None:
        # Before models are loaded or fetched; on a cluster its own machines are asked.
        transcriber.prepare(_without_words(chosen, store))
    from taemi.assemble import assemble, encoder_notes
    from taemi.devices import torch_device
    from taemi.extract.decoding import CorpusDecoder
    from taemi.extract.encoders import FeatureEncoders
    from taemi.extract.run import Engine, LocalEngine
    from taemi.extract.run import extract as run
    from taemi.extract.summary import describe, sum_up

    step = Step("extract")
    system = assemble(variant, choice, seed=seed, max_fps=max_fps, faces=crops)
    for note in [*encoder_notes(system), *corpus_notes(found, crops)]:
        say(f"note: {note}", quiet=quiet)
    features = FeatureEncoders(
        system.vision_encoder,
        system.preprocessing,
        system.audio_encoder if audio_features else None,
        system.text_encoder if text_features else None,
        frames_at_once=batch,
    )
    decoder = CorpusDecoder(system.preprocessing, faces)
    engine: Engine
    if ray is not None:
        from taemi.extract.cluster import ClusterEngine

        engine = ClusterEngine(features, asr, decoder, ray, found.root, device, workers, debug=debug)
    else:
        features.device = torch_device(device)
        say(f"note: encoders run on {features.device}", quiet=quiet)
        engine = LocalEngine(features, transcriber, decoder, workers)
    with progress(quiet=quiet) as tick:
        done = run(
            store,
            chosen,
            features.made_with(found.vision),
            transcriber,
            engine,
            corpus=found.name,
            synthetic=found.synthetic,
            progress=lambda at, of: tick("extract", at, of),
            warn=lambda text: say(f"warning: {text}"),
        )
    rows = [row for of in chosen.values() for row in of]
    for line in sum_up(done.failures, rows):
        say(line)
    say(step.done(store, describe(done)), quiet=quiet)
    say(f"next: taemi train {store} --out run", quiet=quiet)
    if done.failures:
        raise typer.Exit(1)


def _choose_splits(corpus: Corpus, asked: str | None) -> dict[str, tuple[ClipRow, ...]]:
    if asked is None:
        return dict(corpus.splits)
    names = [name.strip() for name in asked.split(",") if name.strip()]
    if not names:
        raise UsageError("cannot extract no split", f"--splits {asked!r}", "Give e.g. --splits train,valid")
    return {name: corpus.split(name) for name in names}


def _without_words(splits: dict[str, tuple[ClipRow, ...]], store: Path) -> list[ClipRow]:
    """Return the clips that are still to be extracted, as far as names tell."""
    from taemi.store.files import clip_path

    return [row for of in splits.values() for row in of if not clip_path(store, row.name).exists()]
