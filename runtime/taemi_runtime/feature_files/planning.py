"""Which clips are scored together: those of nearly the same length, so that little is padded.

Lengths are known from the store's index or from the files' headers before anything is read, so that a
large part of a store can be sorted at the cost of a few numbers a clip.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from taemi_runtime.errors import DataError
from taemi_runtime.feature_files.find import FeatureInput
from taemi_runtime.feature_files.reading import read_facts
from taemi_runtime.feature_files.wanted import WantedInput

Indexed = tuple[int, FeatureInput]

WINDOW_BATCHES = 64
"""Batches whose clips are sorted together: results come back within this many batches of their place."""


def plan_batches(
    inputs: Iterable[Indexed], wanted: Sequence[WantedInput], batch: int, window: int = WINDOW_BATCHES
) -> Iterator[list[Indexed]]:
    """Yield the clips of each batch.

    Clips with the same modalities come together, then those of similar size, both within a window.

    Args:
        inputs: Every clip with its place among all.
        wanted: The engine's inputs.
        batch: Clips a batch.
        window: Batches whose clips are sorted together.
    """
    remaining = iter(inputs)
    while part := list(itertools.islice(remaining, batch * window)):
        part.sort(key=_by_size(wanted))
        for start in range(0, len(part), batch):
            yield part[start : start + batch]


def _by_size(wanted: Sequence[WantedInput]) -> Callable[[Indexed], tuple[tuple[bool, ...], int]]:
    def size(item: Indexed) -> tuple[tuple[bool, ...], int]:
        lengths = item[1].lengths
        if lengths is None:
            lengths = _read_lengths(item[1])
        present = tuple(bool(lengths.get(one.name)) for one in wanted)
        return present, sum(lengths.get(one.name, 0) * one.width for one in wanted)

    return size


def _read_lengths(item: FeatureInput) -> dict[str, int]:
    if item.error:
        return {}
    try:
        return read_facts(item.path)[1]
    except DataError:
        # Said when it is scored, as a result of its own.
        return {}
