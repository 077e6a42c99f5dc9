"""Everything that can be named as engine, and everything that cannot."""

from __future__ import annotations

import logging
import re
import shutil

import onnx
import pytest

from taemi_runtime.draw import draw_inputs
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import BundleError, CheckpointError, EngineError, MissingExtraError, UsageError
from taemi_runtime.loading import open_model
from taemi_runtime.manifest import describe_file, read_manifest
from tests.runtime.tiny_bundle import fusion_model, save_manifest

CPU = EngineOptions(device="cpu", threads=1)


def test_a_folder_gives_every_graph_and_names_its_engine_once(bundle, caplog):
    with caplog.at_level(logging.INFO), open_model(bundle.folder, options=CPU) as model:
        for name in ("fusion", "audio", "text", "vision", "fusion"):
            engine = model.engine(name)
            engine.run(draw_inputs(engine.spec, seed=1))
        assert model.asset("tokenizer.json").startswith(b"{")
    lines = [record.message for record in caplog.records if "engine:" in record.message]
    path = bundle.folder / "fusion.onnx"
    assert lines == [f"engine: {path} (onnxruntime-cpu, fp32, cpu, 1 thread)"]


def test_engines_are_opened_once_and_closed_with_the_model(bundle):
    model = open_model(bundle.folder, options=CPU)
    engine = model.engine("fusion")
    assert model.engine("fusion") is engine
    model.close()
    model.close()
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.run(draw_inputs(engine.spec))


def test_opening_reads_no_graph_before_it_is_needed(make_bundle):
    made = make_bundle()
    (made.folder / "audio.onnx").write_bytes(b"damaged")
    with open_model(made.folder, options=CPU) as model:
        model.engine("fusion")
        with pytest.raises(BundleError, match=r"audio\.onnx: it has 7 bytes"):
            model.engine("audio")


def test_a_damaged_file_is_never_given_to_the_library(make_bundle):
    # The right size and another content: the digest must speak, and not the library's parser.
    made = make_bundle()
    path = made.folder / "fusion.onnx"
    path.write_bytes(b"x" * path.stat().st_size)
    for engine in (made.folder, path):
        with pytest.raises(BundleError, match="its SHA-256 is"):
            open_model(engine, options=CPU).engine("fusion")


def test_an_unknown_graph_is_refused(bundle):
    with open_model(bundle.folder) as model, pytest.raises(BundleError, match="it has fusion, audio, text"):
        model.engine("smell")


def test_a_file_inside_a_bundle_uses_that_bundle(bundle):
    path = bundle.folder / "fusion.onnx"
    with open_model(path, options=CPU) as model:
        assert model.engine("fusion").info.path == str(path)
        assert model.engine("audio").info.path == str(bundle.folder / "audio.onnx")


def test_a_file_elsewhere_needs_a_bundle_and_says_so(bundle, tmp_path):
    path = shutil.copy(bundle.folder / "fusion.onnx", tmp_path / "mine.onnx")
    with pytest.raises(EngineError) as caught:
        open_model(path)
    assert str(caught.value) == (
        f"cannot run {path}: it stands in no bundle: there is no preprocessing and no other graph beside "
        "it. Name the bundle that it belongs to: --bundle NAME.taemi. Alone it takes feature files only"
    )
    with open_model(path, bundle=bundle.folder, options=CPU) as model:
        assert model.engine("fusion").info.path == str(path)
        assert model.engine("audio").info.path == str(bundle.folder / "audio.onnx")


def test_a_file_that_the_manifest_does_not_list_is_taken_with_a_warning(bundle, tmp_path, caplog):
    path = tmp_path / "fusion.fp16.onnx"
    onnx.save(fusion_model(bias=[9, 9, 9, 9, 9, 9]), path)
    with open_model(path, bundle=bundle.folder, options=CPU) as model:
        info = model.engine("fusion").info
    assert (info.path, info.precision) == (str(path), "fp16")
    assert "is not listed in the manifest" in caplog.text
    assert "taken as graph fusion, digest not checked" in caplog.text


def test_a_file_that_is_another_graph_is_refused(bundle, tmp_path):
    path = shutil.copy(bundle.folder / "audio.onnx", tmp_path / "fusion.onnx")
    made = onnx.load(path)
    made.doc_string = "no longer the listed bytes"
    onnx.save(made, path)
    with (
        open_model(path, bundle=bundle.folder, options=CPU) as model,
        pytest.raises(EngineError, match="it is not the graph that the manifest describes"),
    ):
        model.engine("fusion")


def test_fp32_is_chosen_before_other_precisions(make_bundle):
    made = make_bundle()
    for precision in ("int8", "fp16"):
        shutil.copy(made.folder / "fusion.onnx", made.folder / f"fusion.{precision}.onnx")
    extra = {
        f"fusion.{precision}.onnx": describe_file(
            made.folder / f"fusion.{precision}.onnx", graph="fusion", precision=precision
        )
        for precision in ("int8", "fp16")
    }
    files = read_manifest(made.folder).files
    save_manifest(made.folder, files={**extra, **files})
    with open_model(made.folder, options=CPU) as model:
        assert model.engine("fusion").info.path.endswith("/fusion.onnx")
    del files["fusion.onnx"]
    save_manifest(made.folder, files={**extra, **files})
    with open_model(made.folder, options=CPU) as model:
        assert model.engine("fusion").info.path.endswith("/fusion.fp16.onnx")
    save_manifest(made.folder, files=files)
    with (
        open_model(made.folder, options=CPU) as model,
        pytest.raises(BundleError, match=r"none of its engine files runs here \(it has none\)"),
    ):
        model.engine("fusion")


@pytest.mark.parametrize("name", ["model.safetensors", "weights", "clip.mp4"])
def test_unknown_files_are_refused_with_what_is_taken(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"?")
    with pytest.raises(UsageError, match=r"--engine takes a bundle folder \(NAME\.taemi\), an ONNX graph"):
        open_model(path)


def test_engines_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"cannot open engine .*none.*: there is no such file or folder"):
        open_model(tmp_path / "none.taemi")


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match=r"there is no manifest\.json"):
        open_model(tmp_path)


def test_two_bundles_contradict_each_other(bundle, tmp_path):
    with pytest.raises(UsageError, match="it is a folder, and --bundle names"):
        open_model(bundle.folder, bundle=tmp_path)
    open_model(bundle.folder, bundle=bundle.folder)


def test_a_device_without_meaning_is_refused_first(tmp_path):
    with pytest.raises(UsageError, match="cannot use device 'gpu'"):
        open_model(tmp_path / "none", options=EngineOptions(device="gpu"))


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "bad.pt"
    path.write_bytes(b"no checkpoint")
    with pytest.raises((CheckpointError, MissingExtraError, UsageError), match=re.escape(str(path))):
        open_model(path)
