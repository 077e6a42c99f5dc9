"""The vision encoder against the transformers class it wraps, and the folders that it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    ViTForImageClassification,
    ViTModel,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from taemi.encoders import load_vision_encoder
from taemi_runtime.errors import CheckpointError
from tests.taemi.encoder_folders import (
    copy_with,
    frames,
)


def test_vision_is_the_mean_over_all_tokens_of_the_normalised_frame(tiny) -> None:
    encoder = load_vision_encoder(tiny["vision"])
    processor = ViTImageProcessorPil.from_pretrained(tiny["vision"])
    pixels = frames()
    inputs = processor(list(pixels.numpy()), input_data_format="channels_first", return_tensors="pt")
    stock = ViTModel.from_pretrained(tiny["vision"]).eval()
    with torch.inference_mode():
        expected = stock(**inputs).last_hidden_state
        got = encoder(pixels)
    assert expected.shape == (3, 197, 48)
    torch.testing.assert_close(got, expected.mean(dim=1), rtol=0, atol=1e-5)


def test_a_frame_does_not_depend_on_its_neighbours(tiny) -> None:
    encoder = load_vision_encoder(tiny["vision"])
    pixels = frames()
    with torch.inference_mode():
        torch.testing.assert_close(encoder(pixels)[1:2], encoder(pixels[1:2]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [127.0] * 3, "image_std": [64.0] * 3},
        {"size": 224, "image_processor_type": None},
    ],
)
def test_the_image_processor_is_honoured(tiny, tmp_path: Path, changes) -> None:
    folder = copy_with(tiny["vision"], tmp_path / "v", "preprocessor_config.json", **changes)
    encoder = load_vision_encoder(folder)
    processor = ViTImageProcessorPil.from_pretrained(folder)
    pixels = frames(1)
    expected = processor(list(pixels.numpy()), input_data_format="channels_first", return_tensors="pt")
    torch.testing.assert_close(encoder.normalise(pixels), expected["pixel_values"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resample": 3}, "resample 'bicubic'"),
        ({"do_resize": False}, "do_resize False"),
        ({"size": {"height": 256, "width": 256}}, "size {'height': 256"),
        ({"size": {"shortest_edge": 224}}, "size {'shortest_edge': 224}"),
        ({"image_processor_type": "BitImageProcessor"}, "size"),
    ],
)
def test_image_processors_that_are_refused(tiny, tmp_path: Path, changes, message: str) -> None:
    folder = copy_with(tiny["vision"], tmp_path / "v", "preprocessor_config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_vision_encoder(folder)


def test_a_classifier_gives_its_backbone(tiny, tmp_path: Path) -> None:
    backbone = ViTModel.from_pretrained(tiny["vision"], add_pooling_layer=False)
    classifier = ViTForImageClassification(backbone.config)
    classifier.vit.load_state_dict(backbone.state_dict())
    classifier.save_pretrained(tmp_path / "fer")
    shutil.copy(tiny["vision"] / "preprocessor_config.json", tmp_path / "fer")
    with torch.inference_mode():
        got = load_vision_encoder(tmp_path / "fer")(frames(1))
        assert torch.equal(got, load_vision_encoder(tiny["vision"])(frames(1)))
