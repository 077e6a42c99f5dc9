"""What a command's DATA is: a corpus, or a feature store that was extracted from one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from taemi.corpus import ClipRow, Corpus, Layout, read_corpus
from taemi.split_files import UNLABELLED
from taemi.store.index import is_store, read_index
from taemi.store.layout import StoreIndex
from taemi_runtime.errors import DataError, UsageError


@dataclass(frozen=True)
class StoredCorpus(Corpus):
    """A corpus of which only the features are there.

    Args:
        index: The store's index; ``root`` is its folder.
    """

    index: StoreIndex = field(kw_only=True)

    @property
    def name(self) -> str:
        """What the corpus is called."""
        return self.index.corpus or self.root.name

    @property
    def max_fps(self) -> float | None:
        """Frames a second that were looked at; ``None`` is every frame."""
        found: float | None = self.index.made_with.preprocessing["vision"]["max_fps"]
        return found

    @property
    def faces(self) -> str:
        """How frames were cropped, as in ``VisionPreprocessing.faces``."""
        return str(self.index.made_with.preprocessing["vision"]["faces"])

    def split(self, name: str) -> tuple[ClipRow, ...]:
        """Return the rows of a split.

        Raises:
            DataError: The store has no such split.
        """
        if name not in self.splits:
            raise DataError(
                f"feature store {self.root} has no {name} split",
                f"found: {', '.join(self.splits) or 'none'}",
                f"Add it: taemi extract CORPUS {self.root} --splits {name}",
            )
        return self.splits[name]

    def missing(self, rows: Collection[ClipRow]) -> dict[str, str]:
        """Return why clips of the store's splits are not in it, by name."""
        return {
            row.name: self.index.failures.get(row.name, "it is not in the store: extract again")
            for row in rows
            if row.name not in self.index.clips
        }


def read_data(path: Path, layout: Layout | None = None) -> Corpus:
    """Read a corpus, or open a feature store.

    Args:
        path: Either's folder.
        layout: Where things are in a corpus. A store keeps what it was extracted with.

    Raises:
        DataError: It is neither, or damaged.
        UsageError: ``layout`` contradicts the store.
    """
    if not is_store(path):
        return read_corpus(path, layout)
    index = read_index(path)
    vision = index.made_with.vision_from
    if layout is not None and layout.vision not in (None, vision):
        raise _contradiction(path, "vision-from", vision, layout.vision)
    if layout is not None and layout.test_folder is not None:
        raise UsageError(
            f"cannot look for test clips in {layout.test_folder}",
            f"{path} is a feature store, which keeps the clips that it was made of",
            "Leave --test-folder out",
        )
    splits = {
        name: tuple(
            ClipRow(
                row.name,
                path / row.name,
                index.clips[row.name].transcript if row.name in index.clips else "",
                row.labels or UNLABELLED,
                vision=vision,
            )
            for row in rows
        )
        for name, rows in index.splits.items()
    }
    return StoredCorpus(path, splits, index.synthetic, vision, index=index)


def settle_frames(corpus: Corpus, max_fps: float | None, faces: str | None) -> tuple[float | None, str]:
    """Return how frames are sampled and cropped: as asked for a corpus, as in the store for a store.

    Args:
        corpus: The data.
        max_fps: What the command line says; ``None`` where it says nothing.
        faces: The name of the way that it says, see ``faces_name``; ``None`` where it says nothing.

    Raises:
        UsageError: It contradicts the store.
    """
    if not isinstance(corpus, StoredCorpus):
        return max_fps, faces or "none"
    if max_fps not in (None, corpus.max_fps):
        raise _contradiction(corpus.root, "max-fps", corpus.max_fps or "every frame", max_fps)
    if faces not in (None, corpus.faces):
        raise _contradiction(corpus.root, "faces", corpus.faces, faces)
    return corpus.max_fps, corpus.faces


def _contradiction(store: Path, option: str, stored: object, asked: object) -> UsageError:
    return UsageError(
        f"cannot use the feature store {store} with --{option} {asked}",
        f"it was extracted with {stored}",
        f"Leave --{option} out, or extract again into another folder",
    )
