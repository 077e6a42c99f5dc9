"""OpenCV, imported when a face is looked for and not before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from taemi_runtime.errors import MissingExtraError

_INSTALL = 'pip install "opencv-python-headless>=4.10,<5"'
_WITHOUT = "or score whole frames: --faces none"


def import_opencv() -> Any:
    """Return the module ``cv2``.

    Raises:
        MissingExtraError: It is not installed, or does not import.
    """
    try:
        import cv2
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == "cv2"
        found = "OpenCV is not installed" if missing else f"OpenCV does not import ({error})"
        raise MissingExtraError(
            "cannot look for faces", found, f"Install it: {_INSTALL}, {_WITHOUT}"
        ) from error
    return cv2


def require(cv2: Any, name: str, what: str) -> Any:
    """Return a member of ``cv2`` that some of its versions lack.

    Raises:
        MissingExtraError: This version has none.
    """
    member = getattr(cv2, name, None)
    if member is None:
        version = getattr(cv2, "__version__", "without a version")
        raise MissingExtraError(
            "cannot look for faces",
            f"OpenCV {version} has no {what} ({name}), which versions from 4.10 up to 5 have",
            f"Install one of them: {_INSTALL}, {_WITHOUT}",
        )
    return member


@contextlib.contextmanager
def quiet(cv2: Any) -> Iterator[None]:
    """Keep OpenCV's own log from stderr: what goes wrong is raised, and said once."""
    # The function has moved between releases: 4.10 has it in the first place, 4.14 in the second.
    places: tuple[Any, ...] = (cv2, getattr(cv2.utils, "logging", None))
    setters = [place.setLogLevel for place in places if hasattr(place, "setLogLevel")]
    levels = [(setter, setter(0)) for setter in setters]
    try:
        yield
    finally:
        for setter, level in levels:
            setter(level)
