"""A growing training store: at any moment whole, and taken up where it stopped."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from taemi.corpus import SPLITS, ClipRow
from taemi.store.files import Arrays, clip_path, write_clip
from taemi.store.index import listed_clips, read_index, require_same
from taemi.store.layout import INDEX_NAME, ClipFacts, MadeWith, SplitRow, StoreIndex
from taemi_runtime.atomic import explain_write, write_text
from taemi_runtime.closing import Closing
from taemi_runtime.errors import DataError
from taemi_runtime.feature_files.layout import SUFFIX
from taemi_runtime.strict import to_json
from taemi_runtime.working_folder import lock_folder


class StoreWriter(Closing):
    """Adds clips to a store, one process at a time.

    The index is written when work begins and when it ends, however large the store is: in between, each
    clip's own file says all there is to say of it.

    Args:
        folder: The store; created where there is none.
        made_with: What everything in it is made with.

    Raises:
        DataError: The folder is no store, was made with something else, or another process adds to it.
        WriteError: The folder cannot be made.
    """

    def __init__(self, folder: Path, made_with: MadeWith) -> None:
        self.folder = folder
        self.made_with = made_with
        with explain_write(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._lock = self._take_lock()
        try:
            self.index = self._open()
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> int | None:
        try:
            return lock_folder(self.folder)
        except BlockingIOError:
            raise DataError(
                f"cannot add to the feature store {self.folder}",
                "another process is adding to it",
                "Wait for it, or extract into another folder",
            ) from None

    def _open(self) -> StoreIndex:
        for part in self.folder.glob(".*.part"):
            # Nobody else adds to this store: a killed process left it.
            part.unlink(missing_ok=True)
        if (self.folder / INDEX_NAME).exists():
            index = read_index(self.folder)
            require_same(self.folder, index.made_with, self.made_with)
            return index
        others = [path.name for path in self.folder.iterdir() if path.suffix != SUFFIX]
        if others:
            raise DataError(
                f"cannot make a feature store of {self.folder}",
                f"the folder holds other things ({others[0]}), and no {INDEX_NAME}",
                "Name a new folder, or an empty one",
            )
        index = StoreIndex(made_with=self.made_with)
        return replace(index, clips=listed_clips(self.folder, index))

    def begin(
        self,
        splits: Mapping[str, Sequence[ClipRow]],
        stale: Sequence[str],
        *,
        corpus: str = "",
        synthetic: bool = False,
    ) -> None:
        """Write down what the store is of, and drop what no longer holds.

        Args:
            splits: The rows of each split that is worked on; other splits stay as they are.
            stale: Clips that are to be made again.
            corpus: The name of the corpus.
            synthetic: Whether it is synthetic.

        Raises:
            DataError: One is synthetic and the other is not.
            WriteError: The disk is full, or the place cannot be written to.
        """
        index = self.index
        # A corpus may be moved and called otherwise, but what is synthetic stays so.
        if corpus and index.corpus and synthetic != index.synthetic:
            kind = {True: "synthetic", False: "real"}
            raise DataError(
                f"cannot add the {kind[synthetic]} corpus {corpus} to the feature store {self.folder}",
                f"it is of the {kind[index.synthetic]} corpus {index.corpus}",
                "Extract into another folder",
            )
        rows = {name: tuple(SplitRow.of(row.name, row.labels) for row in of) for name, of in splits.items()}
        gone = set(stale)
        self.index = replace(
            index,
            corpus=corpus or index.corpus,
            synthetic=synthetic if corpus else index.synthetic,
            splits={**index.splits, **rows},
            clips={name: facts for name, facts in index.clips.items() if name not in gone},
            failures={
                name: reason
                for name, reason in index.failures.items()
                if not any(row.name == name for of in splits.values() for row in of)
            },
        )
        # The index first: what it still lists is never a clip whose file is of another content.
        self._write_index()
        with explain_write(self.folder):
            for name in stale:
                clip_path(self.folder, name).unlink(missing_ok=True)

    def add(self, name: str, arrays: Arrays, facts: ClipFacts) -> None:
        """Write a clip.

        Raises:
            WriteError: The disk is full, or the place cannot be written to.
        """
        write_clip(self.folder, name, arrays, self.made_with, facts)
        self.index.clips[name] = facts

    def note(self, name: str, facts: ClipFacts) -> None:
        """Take note of a clip whose file another process wrote."""
        self.index.clips[name] = facts

    def finish(self, failures: Mapping[str, str], refreshed: Mapping[str, ClipFacts]) -> None:
        """Write the index.

        Args:
            failures: Why a clip is not there, by name.
            refreshed: Clips whose files were touched and hold what they held.

        Raises:
            WriteError: The disk is full, or the place cannot be written to.
        """
        self.index.failures.update(failures)
        self.index.clips.update(refreshed)
        self._write_index()

    def _write_index(self) -> None:
        ordered = replace(
            self.index,
            splits={name: self.index.splits[name] for name in SPLITS if name in self.index.splits},
            clips=dict(sorted(self.index.clips.items())),
            failures=dict(sorted(self.index.failures.items())),
        )
        write_text(self.folder / INDEX_NAME, to_json(ordered))

    def close(self) -> None:
        """Let others add to the store; closing twice does nothing."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(OSError):
                os.close(lock)
