"""``taemi-infer``: clips in, scores out."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from taemi_runtime.cluster.address import ClusterCommand, check_address
from taemi_runtime.console import run_app, say
from taemi_runtime.errors import UsageError
from taemi_runtime.host import parse_device
from taemi_runtime.limits import DecodeLimits

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_INTERRUPTED = 130
_LIMITS = "Limits beyond which a file is refused"
_OVER_TIME = "Scores over time"


class CudaBackend(StrEnum):
    """Device layers under TensorRT; the names of ``taemi_runtime.cuda.registry``."""

    CUDA_PYTHON = "cuda-python"
    PYCUDA = "pycuda"


class Format(StrEnum):
    """Forms of the results; the keys of ``writers.FORMATS``."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def _print_version(asked: bool) -> None:
    if asked:
        import taemi_runtime

        typer.echo(f"taemi {taemi_runtime.__version__}")
        raise typer.Exit


@app.command(cls=ClusterCommand)
def infer(
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT...",
            help="Clips: files, folders (searched below), glob patterns. Or feature files and stores.",
        ),
    ] = None,
    engine: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Bundle folder, TensorRT plan, ONNX graph or checkpoint.", show_default=False
        ),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Bundle of an --engine file that stands elsewhere.")
    ] = None,
    transcript: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What is said in the clip (one clip only).")
    ] = None,
    transcripts: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with NAME.txt, NAME.vtt or NAME.srt for each clip NAME.*."),
    ] = None,
    asr: Annotated[
        str,
        typer.Option(
            metavar="NAME_OR_PATH|none",
            help="Speech recognition for clips without transcript: a Whisper model's name, .pt file or "
            "CTranslate2 folder; none; auto takes what is on this machine and downloads nothing.",
        ),
    ] = "auto",
    asr_seconds: Annotated[
        float, typer.Option("--asr-seconds", metavar="N", help="How much of a clip it listens to.")
    ] = 60.0,
    device: Annotated[
        str, typer.Option(metavar="DEV", help="auto, cpu, cuda or cuda:N; only auto falls back.")
    ] = "auto",
    cuda_backend: Annotated[
        CudaBackend,
        typer.Option(help="What drives the GPU under a TensorRT plan; only cuda-python has graphs."),
    ] = CudaBackend.CUDA_PYTHON,
    threads: Annotated[
        int, typer.Option(min=0, help="Threads on the CPU; 0 is every core that may be used.")
    ] = 0,
    output_format: Annotated[Format, typer.Option("--format", help="Form of the results.")] = Format.TABLE,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write results there, not to stdout.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Processes that decode; 0 decodes in this one. Default: by cores and clips.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Clips scored together at most, with workers; default: by device.",
            show_default=False,
        ),
    ] = None,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="JSON lines in the order of the inputs, not as they are done.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what the JSON lines of --out hold, and score the rest.")
    ] = False,
    max_fps: Annotated[
        float | None,
        typer.Option("--max-fps", metavar="FPS", help="Frames a second to look at; default: as trained."),
    ] = None,
    faces: Annotated[
        str | None,
        typer.Option(
            metavar="auto|none|FILE",
            help="Cut out the largest face: OpenCV's cascade, no, or a YuNet model; default: as trained.",
        ),
    ] = None,
    hop: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Score every window of 12 s of a long clip, one beginning every so many seconds.",
            rich_help_panel=_OVER_TIME,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Draw the windows' scores: .svg or .png.", rich_help_panel=_OVER_TIME
        ),
    ] = None,
    live: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            help="Score a source at its own pace: a file, a URL, a device such as /dev/video0 or "
            "alsa:default, or - for raw PCM on stdin; a window every 2 s unless --hop says otherwise.",
            rich_help_panel=_OVER_TIME,
        ),
    ] = None,
    live_pcm: Annotated[
        str | None,
        typer.Option(
            "--live-pcm",
            metavar="FORMAT:RATE",
            help="Raw PCM of --live -: s16le, s32le or f32le, one channel; default s16le:16000.",
            rich_help_panel=_OVER_TIME,
        ),
    ] = None,
    live_option: Annotated[
        list[str] | None,
        typer.Option(
            "--live-option",
            metavar="NAME=VALUE",
            help="An option for FFmpeg, e.g. framerate=30 for a camera; may be repeated.",
            rich_help_panel=_OVER_TIME,
        ),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(metavar="N", help="Largest frame, width times height.", rich_help_panel=_LIMITS)
    ] = DecodeLimits.max_pixels,
    max_streams: Annotated[
        int, typer.Option(metavar="N", help="Most streams in a file.", rich_help_panel=_LIMITS)
    ] = DecodeLimits.max_streams,
    max_seconds: Annotated[
        float,
        typer.Option(metavar="S", help="Longest clip that a file may claim to be.", rich_help_panel=_LIMITS),
    ] = DecodeLimits.max_seconds,
    max_decode_seconds: Annotated[
        float, typer.Option(metavar="S", help="Longest time to read a clip for.", rich_help_panel=_LIMITS)
    ] = DecodeLimits.max_decode_seconds,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Spread the work over a Ray cluster: one of this machine, started for it, or the one at "
            "ADDRESS (auto or HOST:PORT).",
            show_default=False,
        ),
    ] = None,
    save_features: Annotated[
        Path | None,
        typer.Option(metavar="STORE", help="Keep the encoders' features of every clip, to be scored again."),
    ] = None,
    attention: Annotated[
        bool,
        typer.Option(
            "--attention", help="JSON: what every head attended to, where the engine was exported with it."
        ),
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Leave scores unclipped, below 0 and above 1.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors on stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and the libraries' logs.")] = False,
    doctor: Annotated[
        bool, typer.Option("--doctor", help="Say what works on this machine and what mends the rest.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Score clips: six emotional mimicry intensities each, from audio, video and transcript.

    Exit code: 0 all clips scored, 1 some were not (each failure is a row with its error), 2 usage.
    """
    del version
    with _log_to_stderr(quiet=quiet, debug=debug), _leave_on_interrupt():
        if doctor:
            _print_checks(as_json=output_format is Format.JSON)
            return
        if not inputs and live is None:
            raise UsageError(
                "nothing to score", "no INPUT was given", "Try: taemi-infer clip.mp4 --engine PATH"
            )
        if engine is None:
            raise UsageError(
                "cannot score clips", "no --engine was given", "Name a bundle: --engine NAME.taemi"
            )
        if transcript is not None and transcripts is not None:
            raise UsageError(
                "cannot take two transcripts", "--transcript and --transcripts", "Give one of them"
            )
        if max_fps is not None and not max_fps > 0:
            raise UsageError(f"cannot sample {max_fps} frames a second", "", "Give --max-fps above 0")
        if not 0 < asr_seconds < float("inf"):
            raise UsageError(
                f"cannot listen to {asr_seconds:g} s of a clip", "", "Give --asr-seconds above 0"
            )
        limits = DecodeLimits(max_pixels, max_streams, max_seconds, max_decode_seconds)
        if faces is not None and faces not in ("auto", "none") and not Path(faces).is_file():
            raise UsageError(
                f"cannot look for faces with {faces}",
                "there is no such file",
                "Give --faces auto, --faces none or a YuNet model's file",
            )
        if attention and output_format not in (Format.JSON, Format.JSONL):
            raise UsageError(
                "cannot write attention as a " + output_format.value,
                "it is thousands of numbers a clip",
                "Give --format json or jsonl",
            )
        parse_device(device)
        if ray is not None:
            check_address(ray)
        if not engine.exists():
            raise UsageError(
                f"cannot open engine {engine}",
                "there is no such file or folder",
                "Check the path of --engine",
            )
        from taemi_runtime.engine import EngineOptions
        from taemi_runtime.job import Job, run_job
        from taemi_runtime.over_time.options import OverTime

        code = run_job(
            Job(
                inputs=tuple(inputs or ()),
                engine=engine,
                bundle=bundle,
                transcript=transcript,
                transcripts=transcripts,
                asr=asr,
                asr_seconds=asr_seconds,
                options=EngineOptions(device=device, threads=threads, cuda_backend=cuda_backend.value),
                format=output_format.value,
                out=out,
                max_fps=max_fps,
                faces=faces,
                clip_scores=not raw,
                limits=limits,
                quiet=quiet,
                workers=workers,
                batch=batch,
                ordered=ordered,
                resume=resume,
                attention=attention,
                save_features=save_features,
                over_time=OverTime.asked(hop, plot, live, live_pcm, live_option),
                ray=ray,
            )
        )
        if code == _INTERRUPTED:
            _leave_at_once()
    if code:
        raise typer.Exit(code)


def _leave_at_once() -> None:
    """End the process where a thread is in a library that cannot be hurried, as while it opens an engine.

    Everything is written and closed by now; waiting would take seconds, and ending in the ordinary way would
    take the library's own objects away under it.
    """
    from taemi_runtime.threads import left_behind

    if left_behind():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(_INTERRUPTED)


@contextlib.contextmanager
def _leave_on_interrupt() -> Iterator[None]:
    # While clips are scored the job itself catches Ctrl-C; this is for what comes before.
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted: no clip was scored")
        raise typer.Exit(_INTERRUPTED) from None


def _print_checks(*, as_json: bool) -> None:
    import json

    from taemi_runtime.doctor import examine, format_checks, to_objects

    checks = examine()
    typer.echo(json.dumps(to_objects(checks), indent=2) if as_json else format_checks(checks))


class _StderrHandler(logging.Handler):
    """Prints the toolkit's log; stderr is looked up at each line, as a progress bar replaces it."""

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        mark = {logging.WARNING: "warning: ", logging.ERROR: "error: "}.get(record.levelno, "")
        say(mark + text)


@contextlib.contextmanager
def _log_to_stderr(*, quiet: bool, debug: bool) -> Iterator[None]:
    log = logging.getLogger("taemi_runtime")
    handler = _StderrHandler()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def main() -> None:
    """Run the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
