"""From transcripts to the text encoder's inputs: the encoder's own tokenizer, without transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from taemi_runtime.errors import InputError, SpecError
from taemi_runtime.preprocessing import TextPreprocessing
from taemi_runtime.spec import Array


class Tokenizer:
    """A text encoder's tokenizer, read from a ``tokenizer.json``.

    Its ids equal those of the transformers tokenizer that the file belongs to, called with
    ``padding="longest", truncation=True, max_length=preprocessing.max_tokens``.

    Args:
        fast: The tokenizer of the ``tokenizers`` library. Truncation and padding that its file may
            carry are replaced by what ``preprocessing`` says.
        preprocessing: How long a sequence may be and what fills it up.

    Raises:
        SpecError: ``max_tokens`` leaves no room beside the special tokens.
    """

    def __init__(self, fast: FastTokenizer, preprocessing: TextPreprocessing) -> None:
        special = fast.num_special_tokens_to_add(False)
        if preprocessing.max_tokens <= special:
            raise SpecError(
                "text preprocessing is inconsistent",
                f"max_tokens {preprocessing.max_tokens}, of which {special} are special tokens",
                f"Give at least {special + 1} tokens",
            )
        fast.no_padding()
        fast.enable_truncation(preprocessing.max_tokens)
        self._fast = fast
        self._pad_id = preprocessing.pad_id

    @classmethod
    def from_bytes(cls, content: bytes, preprocessing: TextPreprocessing) -> Tokenizer:
        """Read a tokenizer from the content of a ``tokenizer.json``.

        Raises:
            SpecError: The content is no tokenizer.
        """
        try:
            fast = FastTokenizer.from_buffer(content)
        # The library raises plain ValueError or Exception, depending on what it trips over.
        except Exception as error:
            raise SpecError(
                "cannot read the tokenizer", str(error), "Give the tokenizer.json of the text encoder"
            ) from error
        return cls(fast, preprocessing)

    @classmethod
    def from_file(cls, path: Path, preprocessing: TextPreprocessing) -> Tokenizer:
        """Read a tokenizer from a ``tokenizer.json``.

        Raises:
            SpecError: The file is missing or no tokenizer.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise SpecError(
                f"cannot read the tokenizer {path}",
                error.strerror or str(error),
                "Give the tokenizer.json of the text encoder",
            ) from error
        return cls.from_bytes(content, preprocessing)

    def encode(self, texts: Sequence[str]) -> dict[str, Array]:
        """Turn transcripts into the text graph's inputs.

        Args:
            texts: [batch] transcripts, at least one; an empty one gives its special tokens only.

        Returns:
            ``input_ids`` int64 [batch, tokens], padded on the right to the longest, and
            ``attention_mask`` int64 [batch, tokens], 1 where a token is.

        Raises:
            InputError: There is no text.
        """
        if isinstance(texts, str) or not texts:
            raise InputError("cannot tokenize", f"got {texts!r}", "Give a list of at least one transcript")
        # One by one: encode_batch starts a thread pool, which makes a later fork print warnings.
        rows = [self._fast.encode(_well_formed(text)).ids for text in texts]
        shape = (len(rows), max(1, *(len(row) for row in rows)))
        ids = np.full(shape, self._pad_id, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def cut(self, text: str) -> int:
        """Return how many tokens of a transcript [Tokenizer.encode][] leaves out."""
        special = self._fast.num_special_tokens_to_add(False)
        return sum(len(part.ids) - special for part in self._fast.encode(_well_formed(text)).overflowing)


def _well_formed(text: str) -> str:
    """Replace lone surrogates, which JSON and damaged subtitles can hold and UTF-8 cannot."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
