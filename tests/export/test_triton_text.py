from __future__ import annotations

import pytest
from google.protobuf import text_format

from taemi_export.triton_text import Word, format_message
from tests.export.triton_server import messages


def test_every_kind_of_field_comes_back_as_written():
    strange = 'quote " backslash \\ tab \t line \n umlaut ü null \0 digit after \x017'
    text = format_message(
        {
            "name": strange,
            "backend": None,
            "max_batch_size": -3,
            "input": [
                {"name": "a", "data_type": Word("TYPE_BOOL"), "dims": [-1, 7], "optional": True},
                {"name": "b", "reshape": {}, "optional": False},
            ],
            "output": [],
            "parameters": [{"key": "k", "value": {"string_value": strange}}],
            "dynamic_batching": {"preferred_batch_size": [], "max_queue_delay_microseconds": 2**40},
        }
    )
    config = text_format.Parse(text, messages().ModelConfig())
    assert config.name == strange
    assert config.parameters["k"].string_value == strange
    assert config.max_batch_size == -3
    assert [item.name for item in config.input] == ["a", "b"]
    assert list(config.input[0].dims) == [-1, 7]
    assert config.input[0].data_type == messages().DataType.Value("TYPE_BOOL")
    assert config.input[0].optional
    assert not config.input[0].HasField("reshape")
    assert config.input[1].HasField("reshape"), "an empty message says something"
    assert config.dynamic_batching.max_queue_delay_microseconds == 2**40
    assert not config.output


@pytest.mark.parametrize("value", [1.5, b"bytes", ["a", None]])
def test_what_the_format_has_no_words_for_is_refused(value):
    with pytest.raises(TypeError):
        format_message({"name": value})
