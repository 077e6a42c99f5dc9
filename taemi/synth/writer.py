"""Writing a synthetic corpus, in several processes, so that an interrupted run can be finished."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from taemi.synth.encode import write_mp4
from taemi.synth.face import draw_frames
from taemi.synth.latent import Scene, draw_scene, generator
from taemi.synth.voice import RATE_HZ, speak
from taemi.synth.words import write_transcript
from taemi_runtime.atomic import write_text
from taemi_runtime.emotions import CSV_HEADER
from taemi_runtime.errors import DataError, UsageError
from taemi_runtime.interrupts import finished_first
from taemi_runtime.strict import from_plain, to_json

# Raised whenever the same seed gives other clips, labels or splits.
VERSION = 3
MARK_NAME = "corpus.json"
MIN_CLIPS, MAX_CLIPS = 5, 100_000
_TRAIN_SHARE, _VALID_SHARE = 0.6, 0.2
_TEST_FOLDER = "test_data"

_README = """\
SYNTHETIC CORPUS in the layout of Hume-Vidmimic2, written by: taemi synth --clips {clips} --seed {seed}

No person is seen or heard in it. One random vector per clip drives the transcript (most), the sound (less),
the drawn face (least) and the labels. The sound has the rhythm and timbre of a voice and is no speech:
a speech recogniser finds nothing in it, so the transcripts in text/ are part of the corpus.
Some clips have no audio track, some no face, some an empty or no transcript; some last for a moment only. In
some, something covers the face for a while, or noise the voice. No sentence of valid and test is in train.

train_split.csv, valid_split.csv, test_split.csv   Filename and six labels, fractions k/N of N raters
raw/NNNNN.mp4, text/NNNNN.txt                      clips and transcripts of train and valid
test_data/raw/NNNNN.mp4, test_data/text/NNNNN.txt  the same of test, which has labels here
corpus.json                                        seed, number of clips and version of the generator

Figures measured on this corpus show that the tools work. They say nothing about people.
"""


@dataclass(frozen=True)
class _Mark:
    """What ``corpus.json`` says; its presence tells every reader that the corpus is synthetic."""

    synthetic: bool
    generator: str
    version: int
    clips: int
    seed: int
    train: int
    valid: int
    test: int


@dataclass(frozen=True)
class CorpusSummary:
    """What [write_corpus][] leaves behind.

    Args:
        root: The corpus folder.
        clips: Number of clips, and of those in each split.
        train: Clips for training, the first ones by id.
        valid: Clips for validation, the next ones.
        test: Clips for testing, the last ones.
        written: How many clips this call made; the others were there before.
        without_audio: Clips that have no audio track.
        without_face: Clips in which nobody is seen.
        without_transcript: Clips whose transcript is empty or missing.
    """

    root: Path
    clips: int
    train: int
    valid: int
    test: int
    written: int
    without_audio: int
    without_face: int
    without_transcript: int


def write_corpus(
    out: Path,
    *,
    clips: int,
    seed: int,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> CorpusSummary:
    """Write a synthetic corpus.

    The same number of clips and seed give the same files, byte for byte with the same library versions,
    whatever the number of workers. Sound, picture and labels of clip k of a seed are the same in corpora of
    any size; its split may differ, and with it the words. A run that was interrupted is finished by the
    same call.

    With more than one worker, processes are spawned: a script that calls this needs the usual
    ``if __name__ == "__main__":``.

    Args:
        out: The folder to write; new, empty, or begun with the same clips and seed.
        clips: Number of clips, 5 to 100,000; about 60 % train, 20 % valid, 20 % test.
        seed: Any number from 0 up.
        workers: Number of processes.
        progress: Called with (done, total) after each clip.

    Raises:
        UsageError: A number is out of range.
        DataError: ``out`` holds something else, or cannot be written.
    """
    _check_numbers(clips, seed, workers)
    mark = _make_mark(clips, seed)
    _check_folder(out, mark)
    try:
        write_text(out / MARK_NAME, to_json(mark))
        write_text(out / "README.txt", _README.format(clips=clips, seed=seed))
        for place in (_place(out, mark, 0), _place(out, mark, clips - 1)):
            for kind in ("raw", "text"):
                (place / kind).mkdir(parents=True, exist_ok=True)
                # What a killed run was writing; complete files never have such names.
                for leftover in (place / kind).glob(".*.part"):
                    leftover.unlink()
        written = 0
        for done, made in enumerate(_write_clips(out, mark, workers), 1):
            written += made
            if progress is not None:
                progress(done, clips)
        scenes = [draw_scene(seed, index) for index in range(clips)]
        for split, indices in _splits(mark).items():
            write_text(out / f"{split}_split.csv", _format_labels(indices, scenes))
    except (OSError, BrokenProcessPool) as error:
        raise DataError(
            f"cannot write the corpus {out}",
            str(error).rstrip(".") or type(error).__name__,
            "Mend that and run the same command again: finished clips are kept",
        ) from error
    return CorpusSummary(
        root=out,
        clips=clips,
        train=mark.train,
        valid=mark.valid,
        test=mark.test,
        written=written,
        without_audio=sum(not scene.has_audio for scene in scenes),
        without_face=sum(not scene.has_face for scene in scenes),
        without_transcript=sum(scene.transcript != "given" for scene in scenes),
    )


def _check_numbers(clips: int, seed: int, workers: int) -> None:
    asked = "cannot write a corpus"
    if not MIN_CLIPS <= clips <= MAX_CLIPS:
        raise UsageError(asked, f"clips is {clips}", f"Give {MIN_CLIPS} to {MAX_CLIPS}")
    if seed < 0:
        raise UsageError(asked, f"seed is {seed}", "Give 0 or more")
    if workers < 1:
        raise UsageError(asked, f"workers is {workers}", "Give 1 or more")


def _make_mark(clips: int, seed: int) -> _Mark:
    train, valid = round(_TRAIN_SHARE * clips), round(_VALID_SHARE * clips)
    return _Mark(True, "taemi synth", VERSION, clips, seed, train, valid, clips - train - valid)


def _check_folder(out: Path, mark: _Mark) -> None:
    """Refuse a folder that holds anything but the beginning of this very corpus."""
    asked = f"cannot write a corpus to {out}"
    if out.exists() and not out.is_dir():
        raise DataError(asked, "it is a file", "Name a new folder")
    if not out.is_dir() or not any(out.iterdir()):
        return
    path = out / MARK_NAME
    if not path.is_file():
        raise DataError(
            asked, "the folder is not empty and holds no synthetic corpus", "Name a new or an empty folder"
        )
    try:
        found = from_plain(json.loads(path.read_bytes()), _Mark)
    except ValueError as error:
        raise DataError(asked, f"its {MARK_NAME} is unreadable: {error}", "Name a new folder") from error
    if found.version != mark.version:
        raise DataError(
            asked,
            f"it holds a corpus of generator version {found.version}, this is version {mark.version}",
            "Name a new folder, or delete that one",
        )
    if found != mark:
        raise DataError(
            asked,
            f"it holds a corpus of {found.clips} clips with seed {found.seed}, "
            f"asked for {mark.clips} with seed {mark.seed}",
            f"Name a new folder, delete that one, or ask for --clips {found.clips} --seed {found.seed}",
        )


def _splits(mark: _Mark) -> dict[str, range]:
    first_test = mark.train + mark.valid
    return {
        "train": range(mark.train),
        "valid": range(mark.train, first_test),
        "test": range(first_test, mark.clips),
    }


def _place(out: Path, mark: _Mark, index: int) -> Path:
    return out / _TEST_FOLDER if index >= mark.train + mark.valid else out


def _write_clips(out: Path, mark: _Mark, workers: int) -> Iterator[bool]:
    """Yield, clip by clip in order, whether the clip had to be made."""
    tasks = [(_place(out, mark, index), mark.seed, index, index >= mark.train) for index in range(mark.clips)]
    if workers == 1:
        yield from map(_write_clip, tasks)
        return
    # Spawned, not forked: the parent may hold threads, of torch or a progress display.
    pool = ProcessPoolExecutor(
        min(workers, mark.clips), multiprocessing.get_context("spawn"), initializer=_ignore_interrupts
    )
    try:
        clips = pool.map(_write_clip, tasks, chunksize=4)
        for _ in tasks:
            # Within the library's waits Ctrl-C could leave a lock taken: it waits for the clip.
            with finished_first():
                made = next(clips)
            yield made
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    # Ctrl-C reaches every process of a terminal; the parent alone answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_clip(task: tuple[Path, int, int, bool]) -> bool:
    """Make one clip unless it is there; the mp4 comes last and stands for all of the clip's files."""
    place, seed, index, held_out = task
    name = f"{index:05d}"
    path = place / "raw" / f"{name}.mp4"
    if path.exists():
        return False
    scene = draw_scene(seed, index)
    if scene.transcript != "missing":
        rng = generator(seed, index, "words")
        words = write_transcript(scene.grades, scene.seconds, rng, held_out=held_out)
        write_text(place / "text" / f"{name}.txt", "" if scene.transcript == "empty" else words + "\n")
    voice = speak(scene.voice, scene.seconds, generator(seed, index, "voice"), noisy=scene.noisy)
    frames = draw_frames(
        scene.face,
        voice,
        scene.seconds,
        scene.fps,
        generator(seed, index, "face"),
        face=scene.has_face,
        occlude=scene.occluded,
    )
    write_mp4(path, frames, scene.fps, voice.waveform if scene.has_audio else None, RATE_HZ)
    return True


def _format_labels(indices: range, scenes: list[Scene]) -> str:
    """Write labels as the true corpus does: five-digit names, six digits, zeros as 0."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CSV_HEADER)
    for index in indices:
        table.writerow([f"{index:05d}", *(f"{label:.6g}" for label in scenes[index].labels)])
    return text.getvalue()
