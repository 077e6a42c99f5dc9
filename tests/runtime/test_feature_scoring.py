"""Features score as the network says: alone, in batches, padded, in half precision, and as their clips do."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from taemi_runtime.errors import BundleError, DataError, UsageError
from taemi_runtime.feature_files.halves import first_unusable, widen
from taemi_runtime.feature_files.planning import WINDOW_BATCHES
from taemi_runtime.feature_files.scorer import FeatureScorer
from taemi_runtime.results import ClipFailure
from tests.runtime.feature_stores import draw, draw_many, expected, origin_of_bundle, scores_of, write_store
from tests.runtime.tiny_bundle import fusion_model, fusion_spec, save_manifest

SAID = "I won the race today"
# Sums of up to 599 float32 numbers in another order.
TOLERANCE = 5e-6


@pytest.fixture(scope="module")
def clips_of_store():
    return draw_many(50)


@pytest.fixture(scope="module")
def store(bundle, clips_of_store, tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("stores") / "store", bundle, clips_of_store)


def score(engine, *inputs, **options):
    """Return the outcomes in order."""
    with FeatureScorer(engine, clip_scores=False, **options) as scorer:
        found = dict(scorer.score(inputs))
    assert sorted(found) == list(range(len(found)))
    return [found[place] for place in sorted(found)]


@pytest.mark.parametrize("batch", [1, 3, 16, 64])
def test_every_batch_gives_the_scores_of_the_formula(bundle, store, clips_of_store, batch):
    found = np.array([scores_of(outcome) for outcome in score(bundle.folder, store, batch=batch)])
    np.testing.assert_allclose(found, [expected(clip) for clip in clips_of_store], atol=TOLERANCE)


def test_results_say_what_the_file_knows(bundle, store, clips_of_store):
    for number, outcome in enumerate(score(bundle.folder, store)):
        features = clips_of_store[number]
        assert (outcome.clip, outcome.clip_seconds) == (f"{number:05}.mp4", 2.0 + number)
        assert outcome.missing == [name for name in ("audio", "vision", "text") if name not in features]
        assert outcome.audio.frames == len(features.get("audio", ()))
        assert outcome.vision.frames == len(features.get("vision", ()))
        if "text" in features:
            assert (outcome.text.source, outcome.text.tokens, outcome.text.transcript) == (
                "features",
                None,
                None,
            )
        else:
            assert (outcome.text.source, outcome.text.why) == ("none", "the feature file does not have it")
        if "audio" in features:
            assert outcome.audio.seconds_used is None
        assert outcome.timings_ms.fusion > 0


def test_tokens_and_fixed_lengths(make_bundle, tmp_path):
    rng = np.random.default_rng(1)
    for options in ({"tokens": True}, {"fixed": True}):
        made = make_bundle(f"{next(iter(options))}.taemi", **options)
        clips = []
        for number in range(6):
            clip = draw(number, text=False)
            if number % 3:
                tokens = rng.normal(0, 1, (1 + number, 2)).astype(np.float16)
                clip |= {"text_tokens": tokens} if "tokens" in options else {"text": tokens[0]}
            clips.append(clip)
        store = write_store(tmp_path / f"store-{next(iter(options))}", made, clips)
        alone = [{name.removesuffix("_tokens"): values for name, values in clip.items()} for clip in clips]
        outcomes = score(made.folder, store, batch=4)
        found = np.array([scores_of(outcome) for outcome in outcomes])
        np.testing.assert_allclose(found, [expected(clip) for clip in alone], atol=TOLERANCE)
    assert outcomes[0].text.tokens == 0


def test_a_store_of_clips_scores_as_the_clips_do(infer, bundle, clips, tmp_path):
    store = tmp_path / "kept"
    given = [clips.both, clips.sound, clips.silent]
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "both.txt").write_text(SAID)
    common = ("--engine", bundle.folder, "--format", "json", "--raw")
    code, out, err = infer(*given, *common, "--transcripts", texts, "--save-features", store)
    assert code == 0, err
    direct = {item["clip"].split("/")[-1]: item for item in json.loads(out)}
    assert sorted(path.name for path in store.iterdir()) == [
        "both.safetensors",
        "index.json",
        "silent.safetensors",
        "sound.safetensors",
    ]
    assert {str(array.dtype) for array in load_file(store / "both.safetensors").values()} == {"float16"}
    code, out, err = infer(store, *common)
    assert (code, "warning" in err) == (0, False)
    for item in json.loads(out):
        before = direct[item["clip"]]
        # Features of order 1 are rounded to 11 bits.
        np.testing.assert_allclose(scores_of(item), scores_of(before), atol=1e-3)
        for name, use in item["modalities"].items():
            source = {"source": "features"} if name == "text" and use["present"] else {}
            assert use == before["modalities"][name] | source
        assert item["clip_seconds"] == before["clip_seconds"]
    assert json.loads(out)[0]["modalities"]["text"]["transcript"] == SAID


def test_a_second_run_replaces_what_the_store_has_of_a_clip(infer, bundle, clips, tmp_path):
    common = ("--engine", bundle.folder, "--save-features", tmp_path / "kept", "--format", "json")
    infer(clips.both, *common)
    before = load_file(tmp_path / "kept" / "both.safetensors")
    assert "text" not in before
    code, _, err = infer(clips.both, *common, "--transcript", SAID)
    assert code == 0, err
    after = load_file(tmp_path / "kept" / "both.safetensors")
    np.testing.assert_allclose(after["text"], bundle.text_vector(SAID), atol=1e-3)
    assert len(json.loads((tmp_path / "kept" / "index.json").read_text())["clips"]) == 1


def test_formats_keep_the_order_and_json_lines_say_it(infer, bundle, store, clips_of_store, tmp_path):
    wanted = np.clip([expected(clip) for clip in clips_of_store], 0, 1)
    common = (store, "--engine", bundle.folder, "--batch", 4)
    _, out, _ = infer(*common, "--format", "json")
    assert [item["index"] for item in json.loads(out)] == list(range(50))
    np.testing.assert_allclose([scores_of(item) for item in json.loads(out)], wanted, atol=TOLERANCE)
    _, out, _ = infer(*common, "--format", "jsonl")
    lines = [json.loads(line) for line in out.splitlines()]
    places = [line["index"] for line in lines]
    assert places != sorted(places) == list(range(50))
    for line in lines:
        np.testing.assert_allclose(scores_of(line), wanted[line["index"]], atol=TOLERANCE)
    _, out, _ = infer(*common, "--format", "jsonl", "--ordered")
    assert [json.loads(line)["index"] for line in out.splitlines()] == list(range(50))
    _, out, _ = infer(*common, "--format", "csv")
    rows = out.splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == [f"{number:05}" for number in range(50)]
    code, out, err = infer(*common, "--out", tmp_path / "table.txt")
    assert (code, out) == (0, "")
    assert "00049.mp4" in (tmp_path / "table.txt").read_text()
    assert "50 clips" in err


def test_a_file_of_bare_tensors_is_scored_and_says_that_it_knows_nothing_else(infer, bundle, tmp_path):
    features = draw(5) | {}
    path = tmp_path / "bare.safetensors"
    save_file({name: values.astype(np.float32) for name, values in features.items()}, path)
    code, out, err = infer(path, "--engine", bundle.folder, "--format", "json", "--raw")
    found = json.loads(out)
    assert code == 0
    np.testing.assert_allclose(scores_of(found), expected(features), atol=TOLERANCE)
    assert (found["clip"], found["clip_seconds"]) == ("bare.safetensors", None)
    assert f"warning: the feature file {path} does not say which encoders made its features" in err
    code, out, _ = infer(path, "--engine", bundle.folder)
    assert code == 0
    assert f"audio: {len(features['audio'])} frames\n" in out
    code, out, _ = infer(path, "--engine", bundle.folder, "--format", "csv")
    assert out.splitlines()[1].startswith("bare,")


class TestEncoders:
    """Features of other encoders are refused, and what nobody can tell is said."""

    def test_a_store_of_another_encoder_is_refused_with_both_digests(self, infer, bundle, tmp_path):
        other = origin_of_bundle(bundle, audio="a" * 64, checkpoint="b" * 64)
        store = write_store(tmp_path / "other", bundle, [draw(1)], other)
        code, out, err = infer(store, "--engine", bundle.folder)
        here = origin_of_bundle(bundle).encoders["audio"].sha256
        assert (code, out) == (1, "")
        assert f"cannot score the feature store {store} with {bundle.folder}" in err
        assert f"its features are of other encoders: audio encoder {'a' * 64}, here {here}." in err
        assert f"--engine {bundle.folder} --save-features STORE" in err

    def test_one_file_of_another_encoder_fails_alone(self, bundle, tmp_path):
        clips = [draw(1), draw(2)]
        store = write_store(tmp_path / "store", bundle, clips)
        other = origin_of_bundle(bundle, text="c" * 64, checkpoint="b" * 64)
        foreign = write_store(tmp_path / "other", bundle, [draw(3)], other)
        (foreign / "00000.safetensors").rename(store / "00001.safetensors")
        good, bad = score(bundle.folder, store)
        np.testing.assert_allclose(scores_of(good), expected(clips[0]), atol=TOLERANCE)
        assert isinstance(bad, ClipFailure)
        assert f"text encoder {'c' * 64}" in bad.error

    def test_the_same_checkpoint_exported_twice_is_the_same(self, bundle, tmp_path):
        again = origin_of_bundle(bundle, audio="a" * 64)
        store = write_store(tmp_path / "again", bundle, [draw(1)], again)
        assert not isinstance(score(bundle.folder, store)[0], ClipFailure)

    def test_without_encoders_the_checkpoint_decides_and_else_a_warning_names_both(
        self, make_bundle, tmp_path, caplog
    ):
        made = make_bundle()
        same = write_store(tmp_path / "same", made, [draw(1)])
        other = write_store(tmp_path / "other", made, [draw(1)], origin_of_bundle(made, checkpoint="b" * 64))
        fusion = {"fusion": fusion_spec()}
        files = {"fusion.onnx": save_manifest(made.folder).files["fusion.onnx"]}
        save_manifest(made.folder, graphs=fusion, files=files)
        for name in ("audio", "vision", "text"):
            (made.folder / f"{name}.onnx").unlink()
        with caplog.at_level(logging.WARNING, logger="taemi_runtime"):
            np.testing.assert_allclose(
                scores_of(score(made.folder, same)[0]), expected(draw(1)), atol=TOLERANCE
            )
            assert not caplog.records
            score(made.folder, other)
        assert f"its features are of checkpoint {'b' * 64}, the engine is of {'0' * 64}" in caplog.text

    def test_other_preprocessing_is_said_with_both_values(self, bundle, tmp_path, caplog):
        store = write_store(tmp_path / "store", bundle, [draw(1)])
        index = json.loads((store / "index.json").read_text())
        index["preprocessing"]["vision"]["max_fps"] = 5.0
        (store / "index.json").write_text(json.dumps(index))
        score(bundle.folder, store)
        assert "vision.max_fps 5.0, here None" in caplog.text


class TestAlone:
    """An engine without a bundle takes features only."""

    @pytest.fixture
    def lone(self, tmp_path):
        import onnx

        from taemi_runtime.strict import to_plain

        model = fusion_model()
        facts = {
            "family": "taemi",
            "graph": to_plain(fusion_spec()),
            "precision": "fp32",
            "trained": True,
            "schema": 1,
        }
        onnx.helper.set_model_props(model, {"taemi": json.dumps(facts)})
        path = tmp_path / "elsewhere" / "fusion.onnx"
        path.parent.mkdir()
        onnx.save(model, path)
        return path

    def test_it_scores_features_and_says_that_it_takes_no_clips(self, infer, lone, store, clips_of_store):
        code, out, err = infer(store, "--engine", lone, "--format", "json", "--raw")
        assert code == 0
        found = np.array([scores_of(item) for item in json.loads(out)])
        np.testing.assert_allclose(found, [expected(clip) for clip in clips_of_store], atol=TOLERANCE)
        assert f"{lone} stands in no bundle: it takes feature files only, no clips\n" in err

    def test_clips_are_refused_and_the_message_says_what_it_takes(self, infer, lone, clips):
        code, _, err = infer(clips.both, "--engine", lone)
        assert code == 1
        assert err.endswith(
            "there is no preprocessing and no other graph beside it. Name the bundle that it belongs to: "
            "--bundle NAME.taemi. Alone it takes feature files only\n"
        )

    def test_a_graph_that_does_not_say_what_it_is(self, lone, store):
        import onnx

        onnx.save(fusion_model(), lone)
        with pytest.raises(BundleError, match="its metadata has no key 'taemi'"):
            FeatureScorer(lone)
        lone.write_bytes(b"\xff" * 100)
        with pytest.raises(BundleError, match="it is no ONNX file"):
            FeatureScorer(lone)


def test_widening_half_precision_is_exact_for_every_number():
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = np.tile(halves[np.isfinite(halves)], 3)
    found = np.empty(finite.size, np.float32)
    widen(finite, found)
    np.testing.assert_array_equal(found.view(np.uint32), finite.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize(
    ("values", "half", "place"),
    [
        (np.array([1, 65504, -65504], np.float16), False, None),
        (np.array([1, 2, np.nan, np.inf], np.float16), False, 2),
        (np.array([1, -np.inf], np.float16), True, 1),
        (np.array([1e30, -1e30], np.float32), False, None),
        (np.array([1, 7e4, 2], np.float32), True, 1),
        (np.array([1, 2, np.nan], np.float32), False, 2),
        (np.array([], np.float16), False, None),
    ],
)
def test_numbers_that_cannot_be_used_are_found(values, half, place):
    assert first_unusable(values, half=half) == place


def test_features_and_clips_in_one_run_are_refused(infer, bundle, store, clips):
    code, _, err = infer(store, clips.both, "--engine", bundle.folder)
    assert code == 2
    assert err == (
        f"error: cannot score clips and features in one run: {store} holds features, {clips.both} does not, "
        "or not alone. Run taemi-infer twice\n"
    )


@pytest.mark.parametrize(
    "option",
    [("--transcript", SAID), ("--max-fps", 5), ("--faces", "auto"), ("--asr", "tiny.en"), ("--workers", 2)],
)
def test_options_that_would_change_features_are_refused(infer, bundle, store, option):
    code, _, err = infer(store, "--engine", bundle.folder, *option)
    assert code == 2
    assert f"cannot score features with {option[0]}: features hold what clips were turned into" in err


def test_batches_that_the_engine_does_not_take_are_refused(make_bundle, store):
    made = make_bundle()
    with pytest.raises(UsageError, match=r"this process may open \d+ files"):
        FeatureScorer(made.folder, batch=10**6)
    with (
        pytest.raises(UsageError, match="there is no feature store and no feature file"),
        FeatureScorer(made.folder) as scorer,
    ):
        scorer.score(["nowhere"])
    with FeatureScorer(made.folder) as scorer, pytest.raises(DataError, match="it holds no clip"):
        empty = write_store(made.folder.parent / "empty", made, [])
        scorer.score([empty])


def test_results_stay_within_a_window_of_their_place(bundle, tmp_path):
    clips = [draw(seed, longest=0.02) for seed in range(3 * WINDOW_BATCHES)]
    store = write_store(tmp_path / "many", bundle, clips)
    with FeatureScorer(bundle.folder, batch=1) as scorer:
        places = [place for place, _ in scorer.score([store])]
    # Threads may finish a few batches out of turn.
    assert max(abs(place - position) for position, place in enumerate(places)) <= WINDOW_BATCHES + 8


@pytest.mark.parametrize("fixed", [False, True])
def test_attention_of_clips_and_of_their_features(infer, make_bundle, clips, tmp_path, fixed):
    made = make_bundle(attention=True, fixed=fixed)
    common = ("--engine", made.folder, "--format", "json", "--attention")
    code, out, err = infer(clips.both, clips.silent, *common, "--save-features", tmp_path / "store")
    assert code == 0, err
    direct = json.loads(out)
    frames = direct[0]["modalities"]["audio"]["frames"]
    assert direct[0]["attention"] == {"audio": [[pytest.approx(1 / frames, abs=1e-5)] * frames]}
    assert direct[1]["attention"] == {}
    code, out, _ = infer(tmp_path / "store", *common)
    assert [item["attention"] for item in json.loads(out)] == [item["attention"] for item in direct]
    assert "attention" not in json.loads(infer(clips.both, *common[:-1])[1])


def test_attention_that_the_graph_does_not_give(infer, bundle, clips, store):
    for given in (clips.both, store):
        code, _, err = infer(given, "--engine", bundle.folder, "--format", "json", "--attention")
        assert code == 1
        assert (
            f"cannot give the attention of {bundle.folder}: its fusion graph has only the outputs "
            "intensities. Export it with them: taemi-export onnx CKPT --attention --force\n"
        ) in err
