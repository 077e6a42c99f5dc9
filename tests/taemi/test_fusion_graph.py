"""The fusion graph's description, and that PyTorch's reference obeys it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from taemi.config import VARIANTS, variant
from taemi.fusion_graph import fusion_graph, fusion_spec
from taemi.model import Taemi
from taemi_runtime.draw import draw_inputs

SMALL = {
    "audio_dim": 19,
    "vision_dim": 16,
    "text_dim": 12,
    "hidden": 32,
    "feed_forward": 48,
    "head_hidden": 24,
}


def test_the_contract_of_the_default_graph():
    spec = fusion_spec(variant("paper"))
    assert [(item.name, item.dtype, item.shape) for item in spec.inputs] == [
        ("audio", "float32", ("batch", "audio_len", 1027)),
        ("audio_mask", "bool", ("batch", "audio_len")),
        ("vision", "float32", ("batch", "vision_len", 768)),
        ("vision_mask", "bool", ("batch", "vision_len")),
        ("text", "float32", ("batch", 768)),
        ("present", "bool", ("batch", 3)),
    ]
    (output,) = spec.outputs
    assert (output.name, output.shape, len(output.labels)) == ("intensities", ("batch", 6), 6)
    assert all(symbol.minimum == 1 for symbol in spec.symbols)


def test_anchored_variants_take_tokens_and_flatten_is_static():
    tokens = fusion_spec(variant("vision-anchored"))
    assert tokens.input("text_tokens").shape == ("batch", "text_len", 768)
    assert tokens.mask_of("text_tokens").name == "text_mask"
    flat = fusion_spec(variant("concat-flatten"))
    assert flat.input("audio").shape == ("batch", 599, 1027)
    assert [symbol.name for symbol in flat.symbols] == ["batch"]


@pytest.mark.parametrize("name", VARIANTS)
def test_module_and_reference_agree_for_every_presence_with_poisoned_padding(name):
    torch.manual_seed(1)
    graph = fusion_graph(Taemi(variant(name, **SMALL)).eval(), attention=True)
    sizes = {symbol.name: size for symbol, size in zip(graph.spec.free_symbols, (8, 9, 7, 5), strict=False)}
    arrays = draw_inputs(graph.spec, sizes, seed=3, present=list(itertools.product([False, True], repeat=3)))
    tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
    expected = graph.reference(tensors)
    with torch.inference_mode():
        found = graph.module(*tensors.values())
    assert [item.name for item in graph.spec.outputs] == list(expected)
    for tensor, (key, wanted) in zip(found, expected.items(), strict=True):
        assert np.isfinite(wanted.numpy()).all(), key
        torch.testing.assert_close(tensor, wanted, atol=1e-6, rtol=0)
