"""Which detector a model's preprocessing and the user ask for."""

from __future__ import annotations

from pathlib import Path

from taemi_runtime.errors import BundleError
from taemi_runtime.faces.cascade import CascadeDetector
from taemi_runtime.faces.finder import FaceDetector
from taemi_runtime.faces.yunet import YunetDetector
from taemi_runtime.preprocessing import FACES_AUTO, FACES_FILE, FACES_NONE


def open_detector(trained: str, asked: str | None = None) -> FaceDetector | None:
    """Open the detector that frames are cropped with.

    Args:
        trained: How the training features were made, as in ``VisionPreprocessing.faces``.
        asked: ``none``, ``auto``, or the path of a YuNet file; as trained when ``None``.

    Returns:
        The detector; ``None`` for whole frames.

    Raises:
        BundleError: The model was trained with a detector from a file, which must be given.
        EngineError: The file is no detector.
        MissingExtraError: OpenCV is missing.
    """
    if asked is None and trained.startswith(FACES_FILE):
        raise BundleError(
            "cannot crop faces as in training",
            f"the model was trained with a face detector from a file ({trained}), which is not given",
            "Give it: --faces FILE, or take another: --faces auto",
        )
    wanted = trained if asked is None else asked
    if wanted == FACES_NONE:
        return None
    if wanted == FACES_AUTO:
        return CascadeDetector()
    return YunetDetector(Path(wanted))


def faces_name(asked: str) -> str:
    """Return what ``VisionPreprocessing.faces`` calls a way that frames are to be cropped in.

    Args:
        asked: ``none``, ``auto``, or the path of a YuNet file.

    Raises:
        EngineError: The file is no detector.
        MissingExtraError: OpenCV is missing.
    """
    detector = open_detector(FACES_NONE, asked)
    return FACES_NONE if detector is None else detector.name


def describe_difference(trained: str, used: str) -> str:
    """Say that frames are cropped in another way than in training; empty when they are not."""
    if trained == used:
        return ""
    ways = {FACES_NONE: "whole frames", FACES_AUTO: "face crops of OpenCV's cascade"}
    was, now = (ways.get(name, f"face crops of detector {name}") for name in (trained, used))
    return f"the model was trained on {was} and looks at {now} here: its scores may suffer"
