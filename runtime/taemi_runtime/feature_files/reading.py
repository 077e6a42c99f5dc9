"""One clip's features, read from their file into the memory from which they are scored."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from taemi_runtime.errors import DataError
from taemi_runtime.feature_files.halves import first_unusable, widen
from taemi_runtime.feature_files.header import Damaged, Header, TensorEntry, open_regular, read_header
from taemi_runtime.feature_files.layout import (
    AUDIO,
    TEXT,
    TOKENS,
    VISION,
    WAVEFORM,
    FeatureFacts,
    from_metadata,
)
from taemi_runtime.feature_files.wanted import WantedInput
from taemi_runtime.input_checks import HALF_MAX
from taemi_runtime.spec import Array

_DTYPES: dict[str, np.dtype[Any]] = {"F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}
_TENSORS = (AUDIO, VISION, TEXT, TOKENS)
MAKE_ONE = "Make one from the clips: taemi-infer CLIP... --engine BUNDLE --save-features STORE"
_AGAIN = "Write it again from its clip: taemi-infer CLIP --engine BUNDLE --save-features STORE"


def refusal(path: Path, found: str, fix: str = _AGAIN) -> DataError:
    """Return the error for a feature file that cannot be scored."""
    return DataError(f"cannot read features from {path}", found, fix)


@dataclass(frozen=True)
class FeatureFile:
    """An open feature file whose header is known to fit.

    Args:
        path: The file.
        handle: Its descriptor.
        header: Its header.
        facts: What it says of its clip.
    """

    path: Path
    handle: int
    header: Header
    facts: FeatureFacts

    def length(self, item: WantedInput) -> int:
        """Return how many positions of an input the file has; 0 where the modality is missing."""
        entry = self.header.tensors.get(item.name)
        if entry is None:
            return 0
        return entry.shape[0] if item.is_sequence else 1

    def read_into(self, item: WantedInput, target: Array) -> None:
        """Read a modality that is there, and check every number of it.

        Args:
            item: The input.
            target: [length, width] or [width], float32 or float16, contiguous; float16 features go into
                float16 memory as they are.

        Raises:
            DataError: A number is not finite, or beyond half precision where ``target`` is; or the file
                shrank meanwhile.
        """
        entry = self.header.tensors[item.name]
        flat = target.reshape(-1)
        stored: np.dtype[Any] = _DTYPES[entry.dtype]
        source = flat if stored == flat.dtype else np.empty(flat.size, stored)
        self._read(entry, source)
        bad = first_unusable(source, half=flat.dtype == np.float16)
        if bad is not None:
            raise self._unusable(item, source, bad)
        if stored == np.float16 and flat.dtype == np.float32:
            widen(source, flat)
        elif source is not flat:
            flat[:] = source

    def _read(self, entry: TensorEntry, target: Array) -> None:
        view = target.view(np.uint8).data
        done = 0
        while done < entry.nbytes:
            count = os.preadv(self.handle, [view[done:]], entry.start + done)
            if count == 0:
                raise refusal(self.path, f"it ended at byte {entry.start + done:,} while it was read")
            done += count

    def _unusable(self, item: WantedInput, values: Array, place: int) -> DataError:
        row, column = divmod(place, item.width)
        where = f"row {row}, column {column}" if item.is_sequence else f"column {column}"
        value = float(values[place])
        if not np.isfinite(value):
            return refusal(self.path, f"{item.name} is not finite: {value} in {where}")
        return refusal(
            self.path,
            f"{item.name} is {value:g} in {where}, half precision, which this engine takes, ends at "
            f"{HALF_MAX:g}",
            "Check the feature's scale, or score it with the fp32 engine",
        )


@contextmanager
def open_features(path: Path, wanted: Sequence[WantedInput]) -> Iterator[FeatureFile]:
    """Open a feature file and compare what it claims with what an engine wants.

    Args:
        path: The file.
        wanted: The engine's inputs.

    Raises:
        DataError: The file is damaged, or does not hold what is wanted; nothing of its data was read.
    """
    try:
        with open_regular(path) as (handle, size):
            header = read_header(handle, size)
            try:
                facts = from_metadata(header.metadata)
            except ValueError as error:
                raise refusal(path, str(error)) from error
            for item in wanted:
                _check(path, header, item)
            # A clip of which nothing could be used is a clip, but only a file of ours can say so.
            if header.tensors.keys().isdisjoint(_TENSORS) and (header.tensors or not facts.clip):
                raise _nothing(path, header)
            yield FeatureFile(path, handle, header, facts)
    except Damaged as error:
        raise refusal(path, str(error)) from error
    except OSError as error:
        raise refusal(
            path, error.strerror or str(error), "Check the disk and the file's permissions"
        ) from error


def read_facts(path: Path) -> tuple[FeatureFacts, dict[str, int]]:
    """Read what a feature file says of its clip, and how long its tensors are.

    Raises:
        DataError: It is damaged.
    """
    with open_features(path, ()) as file:
        shapes = {name: item.shape for name, item in file.header.tensors.items() if name in _TENSORS}
        return file.facts, {name: shape[0] if len(shape) == 2 else 1 for name, shape in shapes.items()}


def _check(path: Path, header: Header, item: WantedInput) -> None:
    entry = header.tensors.get(item.name)
    if entry is None:
        _check_absence(path, header, item)
        return
    fits = len(entry.shape) == 1 + item.is_sequence and entry.shape[-1] == item.width
    if entry.dtype not in _DTYPES or not fits:
        got = f"{item.name} is {entry.dtype} {list(entry.shape)}"
        form = f"[{'rows, ' * item.is_sequence}{item.width}]"
        if entry.dtype not in _DTYPES:
            raise refusal(path, f"{got}, expected F16 or F32 {form}")
        raise refusal(
            path,
            f"{got}, this engine takes {form}",
            "Score it with the model whose encoders made it",
        )
    if item.is_sequence and entry.shape[0] == 0:
        raise refusal(
            path, f"{item.name} has no rows", f"Leave {item.name} out of the file where it is missing"
        )
    if item.is_sequence and item.most is not None and entry.shape[0] > item.most:
        raise refusal(
            path,
            f"{item.name} has {entry.shape[0]} rows, this engine takes at most {item.most}",
            "Cut it to the beginning of the clip that the model was trained on",
        )


def _check_absence(path: Path, header: Header, item: WantedInput) -> None:
    """Tell a modality that is missing from one that is there in another form."""
    other = {TEXT: TOKENS, TOKENS: TEXT}.get(item.name, "")
    if other in header.tensors:
        raise refusal(
            path,
            f"it has {other}, this engine takes {item.name}",
            f"Write it again with this model's bundle: {MAKE_ONE[len('Make one from the clips: ') :]}",
        )
    if item.name == AUDIO and WAVEFORM in header.tensors:
        raise refusal(
            path,
            f"it is of a training store: it has {WAVEFORM}, this engine takes {AUDIO} and text features, too",
            MAKE_ONE,
        )


def _nothing(path: Path, header: Header) -> DataError:
    names = ", ".join(sorted(name[:80] for name in header.tensors)[:8]) or "no tensor"
    if WAVEFORM in header.tensors:
        return refusal(path, f"it is of a training store and has only {names}", MAKE_ONE)
    return refusal(path, f"it has {names}, expected some of {', '.join(_TENSORS)}")
