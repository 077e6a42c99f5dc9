"""Loading any encoder: missing parts, other kinds, checkpoints, and the hub."""

from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from taemi.encoders import load_audio_encoder, load_text_encoder, load_vision_encoder, rebuild
from taemi_runtime.errors import CheckpointError, TaemiError
from tests.taemi.encoder_folders import (
    frames,
    modernbert,
    old_gte,
    sound,
    tokens,
)


def test_missing_weights_are_never_filled_in_silently(tiny, tmp_path: Path) -> None:
    folder = tmp_path / "hole"
    shutil.copytree(tiny["audio"], folder)
    state = load_file(folder / "model.safetensors")
    del state["wav2vec2.encoder.layers.1.attention.k_proj.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing .*1 in all, .*layers\.1\.attention\.k_proj\.weight"):
        load_audio_encoder(folder)


@pytest.mark.parametrize("part", ["audio", "vision"])
def test_a_missing_processor_is_refused(tiny, tmp_path: Path, part: str) -> None:
    folder = tmp_path / part
    shutil.copytree(tiny[part], folder)
    (folder / "preprocessor_config.json").unlink()
    load = load_audio_encoder if part == "audio" else load_vision_encoder
    with pytest.raises(CheckpointError, match=r"no preprocessor_config\.json"):
        load(folder)


@pytest.mark.parametrize(("load", "other"), [("text", "vision"), ("text", "audio"), ("vision", "text")])
def test_an_encoder_of_another_kind_is_refused(tiny, load: str, other: str) -> None:
    loader = load_text_encoder if load == "text" else load_vision_encoder
    with pytest.raises(CheckpointError, match="is no encoder of"):
        loader(tiny[other])


@pytest.mark.parametrize("part", ["audio", "vision", "text", "modernbert", "old-gte"])
def test_an_encoder_survives_a_checkpoint_whole(tiny, tmp_path: Path, monkeypatch, part: str) -> None:
    folder = tiny.get(part) or tmp_path / part
    if part == "modernbert":
        modernbert(folder, tiny["text"])
    if part == "old-gte":
        old_gte(folder, tiny["text"])
    load = {"audio": load_audio_encoder, "vision": load_vision_encoder}.get(part, load_text_encoder)
    encoder = load(folder)
    file = io.BytesIO()
    torch.save({"description": encoder.describe(), "weights": encoder.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)

    monkeypatch.setattr("taemi.sources.resolve", None)
    monkeypatch.setattr("taemi.sources.cached_file", None)
    again = rebuild(saved["description"], saved["weights"])
    assert again.describe() == encoder.describe()
    assert not again.training
    assert str(folder.parent) not in json.dumps(again.describe())
    if part == "audio":
        inputs = sound(3_000, 900)
    elif part == "vision":
        inputs = (frames(2),)
    else:
        batch = tokens(folder)
        inputs = (batch["input_ids"], batch["attention_mask"])
        assert again.tokenizer_json == encoder.tokenizer_json
    with torch.inference_mode():
        expected, got = encoder(*inputs), again(*inputs)
    for one, other in zip(expected, got, strict=True):
        assert torch.equal(one, other)


def test_damaged_descriptions_are_refused(tiny) -> None:
    encoder = load_text_encoder(tiny["text"])
    plain, state = encoder.describe(), encoder.state_dict()
    with pytest.raises(CheckpointError, match="kind is 'smell'"):
        rebuild({**plain, "kind": "smell"}, state)
    with pytest.raises(ValueError, match="unknown field"):
        rebuild({**plain, "colour": 1}, state)
    unknown = {**plain["config"], "model_type": "own", "transformers_version": "9.9"}
    with pytest.raises(CheckpointError, match=r"pip install transformers==9\.9"):
        rebuild({**plain, "config": unknown}, state)
    with pytest.raises(RuntimeError, match="unexpected weight"):
        rebuild(plain, {"other": torch.zeros(1)})
    with pytest.raises(RuntimeError, match="Missing key"):
        rebuild(plain, {name: state[name] for name in list(state)[1:]})


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return cache


def test_an_unreachable_hub_fails_at_once_and_says_what_to_do(no_hub) -> None:
    start = time.perf_counter()
    with pytest.raises(TaemiError) as caught:
        load_vision_encoder("somebody/some-vit")
    assert time.perf_counter() - start < 2
    message = str(caught.value)
    for part in ("somebody/some-vit", "not reachable", "http://127.0.0.1:9", str(no_hub), "name the folder"):
        assert part in message


def test_offline_mode_is_respected(no_hub, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("socket.create_connection", None)
    with pytest.raises(TaemiError, match="HF_HUB_OFFLINE is set"):
        load_vision_encoder("somebody/some-vit")


@pytest.mark.parametrize("part", ["audio", "vision", "text"])
def test_a_cached_model_loads_without_the_hub(tiny, no_hub, part: str) -> None:
    repository = no_hub / f"models--somebody--tiny-{part}"
    shutil.copytree(tiny[part], repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    load = {"audio": load_audio_encoder, "vision": load_vision_encoder, "text": load_text_encoder}[part]
    encoder = load(f"somebody/tiny-{part}")
    assert encoder.hub_id == encoder.description.name == f"somebody/tiny-{part}"
    assert load(tiny[part]).hub_id is None
    assert load(f"somebody/tiny-{part}", random_weights=True).hub_id is None


def test_a_folder_that_is_none_is_not_sought_on_the_hub(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("socket.create_connection", None)
    for name in (tmp_path / "nowhere", "./nowhere", "a/b/c", "~/nowhere"):
        with pytest.raises(CheckpointError, match="no such folder"):
            load_text_encoder(name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_text_encoder(tmp_path / "empty")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is no JSON"):
        load_text_encoder(tmp_path / "broken")
