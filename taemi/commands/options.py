"""Options and notes that several commands share."""

from __future__ import annotations

import importlib.util
from typing import Annotated

import typer

from taemi.corpus import FACES, RAW, Corpus
from taemi_runtime.errors import MissingExtraError
from taemi_runtime.preprocessing import FACES_NONE

Preset = Annotated[str, typer.Option(help="paper, released, or a row of the ablation tables")]
Encoders = Annotated[str, typer.Option(help="paper: the published ones; tiny: small seeded ones")]
AudioId = Annotated[str | None, typer.Option(help="hub id or folder of another audio encoder")]
TextId = Annotated[str | None, typer.Option(help="hub id or folder of another text encoder")]
VisionId = Annotated[str | None, typer.Option(help="hub id or folder of another vision encoder")]
Masked = Annotated[bool, typer.Option(help="give the audio encoder the padding mask")]
Seed = Annotated[int, typer.Option(help="seed of weights, order and dropout")]
MaxFps = Annotated[
    float | None, typer.Option(help="frames a second for vision features; default: every frame")
]
_FACES = typer.Option(
    metavar="auto|none|FILE",
    help="auto: cut out each frame's largest face; FILE: with this YuNet model; none: whole frames or "
    "ready crops",
)
Faces = Annotated[str, _FACES]
FacesOrAsStored = Annotated[str | None, _FACES]
VisionFrom = Annotated[
    str | None,
    typer.Option(
        metavar="raw|face_images|FOLDER",
        help="where vision comes from: the clips, their face crops, or a folder of feature pickles; "
        "default: face crops where there are any",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="processes that read clips; 0: this one alone; default: as many as pays"),
]
TestFolder = Annotated[
    str | None, typer.Option(help="folder of the test clips; default: test_data or test, whichever is there")
]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress on stderr")]
Debug = Annotated[bool, typer.Option("--debug", help="show tracebacks")]


def names(text: str) -> tuple[str, ...]:
    """Read a list as the command line gives it, e.g. ``audio,text``."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def corpus_notes(corpus: Corpus, faces: str) -> list[str]:
    """Return what a user should know of how a corpus is used, one sentence each.

    Args:
        corpus: The corpus to train on.
        faces: How the model crops the frames of clips, as on the command line.
    """
    if corpus.vision == RAW:
        return []
    notes = [f"vision comes from {corpus.vision}/ of {corpus.root.name}, not from the clips' frames"]
    if corpus.vision == FACES and faces == FACES_NONE:
        notes.append(
            "the model is trained on face crops, and will be given whole frames of clips; with --faces auto "
            "it will be given their largest faces"
        )
    return notes


def need_torch(what: str) -> None:
    """Refuse where a package is missing that ``what`` needs, before anything is imported."""
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"cannot {what}", f"{package} is not installed", 'pip install "taemi[train]"'
            )
