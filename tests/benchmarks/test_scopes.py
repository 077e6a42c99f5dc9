"""From features, and from a clip's file, to scores: the tiny model, side by side with PyTorch."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from taemi_bench import sweep as sweeps
from taemi_bench.chains import open_chains
from taemi_bench.clip_scope import ClipCalls, with_rho
from taemi_bench.feature_scope import draw_clips
from taemi_bench.further import Further
from taemi_bench.parity import rank_correlation
from taemi_bench.report import read_report, write_report
from taemi_bench.row_report import RowReport
from taemi_bench.rows import RowChoice
from taemi_bench.run import run_bundle
from taemi_bench.schedule import Schedule
from taemi_bench.setting import Setting
from taemi_runtime.bundle import Bundle
from taemi_runtime.engine import EngineOptions
from taemi_runtime.whole_way import WholeModel, share_left, words_beside

QUICK = Schedule(rounds=6, seconds=0, warmup_calls=1, warmup_seconds=0, settle_seconds=0.001, block_calls=1)
PLAIN = RowChoice(rows=("eager fp32", "ONNX Runtime"))
SHORT = {"fusion": {"audio_len": 20, "vision_len": 12}}
SCOPES = ("fusion", "features to scores", "file to scores: spoken.mp4", "file to scores: silent.mp4")


@pytest.fixture(scope="module")
def clips(demo_clip, tmp_path_factory):
    """A clip with its words beside it, and the same one without."""
    folder = tmp_path_factory.mktemp("clips")
    spoken, silent = folder / "spoken.mp4", folder / "silent.mp4"
    shutil.copy(demo_clip, spoken)
    shutil.copy(demo_clip, silent)
    spoken.with_suffix(".srt").write_text("1\n00:00:00,000 --> 00:00:02,000\nI won the race today\n")
    return SimpleNamespace(spoken=spoken, silent=silent, folder=folder)


@pytest.fixture(scope="module")
def source(demo_checkpoint):
    from taemi.checkpoint_backend import open_shared

    return open_shared(demo_checkpoint)


@pytest.fixture(scope="module")
def report(demo_bundle, source, clips):
    """Everything but sweeps."""
    return measure(demo_bundle, source, Further(clips=(clips.spoken, clips.silent)), rounds=6)


@pytest.fixture(scope="module")
def quick_points():
    with pytest.MonkeyPatch.context() as patch:
        quick = replace(
            sweeps.POINT, rounds=1, warmup_calls=0, settle_seconds=0.001, warmup_seconds=0, block_seconds=0
        )
        patch.setattr(sweeps, "POINT", quick)
        yield


def measure(folder, source, further, rounds=1, choice=PLAIN):
    """Measure the first graph, at short lengths, and what is asked for beside it."""
    return run_bundle(
        Bundle.open(folder),
        source,
        source_note="name it",
        graphs=["fusion"],
        sizes=SHORT["fusion"],
        schedule=replace(QUICK, rounds=rounds),
        threads=1,
        device="cpu",
        choice=choice,
        further=further,
    )


def rows_of(report, scope):
    """The rows of a scope, less those that nobody asked for and engines that the bundle lacks."""
    others = ("left out", "the bundle has none")
    rows = [row for row in report.rows if row.scope == scope]
    return {row.name: row for row in rows if not any(why in row.why for why in others)}


def test_every_scope_stands_by_itself_with_pytorch_in_it(report):
    assert tuple(scope.name for scope in report.scopes) == SCOPES
    assert [scope.kind for scope in report.scopes] == ["graph", "features", "file", "file"]
    for scope in SCOPES:
        rows = rows_of(report, scope)
        assert list(rows) == ["PyTorch eager fp32", "ONNX Runtime CPU fp32"]
        assert {row.state for row in rows.values()} == {"ran"}
        engine = rows["ONNX Runtime CPU fp32"]
        assert engine.baseline == "PyTorch eager fp32"
        assert engine.times_faster.rounds == 6
        assert engine.latency_ms.count == 6


def test_scores_are_compared_with_pytorchs_and_wholly_loaded_apart(report):
    for scope in SCOPES[1:]:
        eager, engine = rows_of(report, scope).values()
        assert (eager.max_abs, eager.rho) == (0.0, pytest.approx(1.0))
        assert 0 < engine.max_abs < 1e-5
        assert engine.rho > 0.99
        assert engine.load_ms > 0
        assert engine.cold_ms > 0


def test_a_files_row_says_what_every_stage_took(report):
    spoken, silent = (rows_of(report, scope) for scope in SCOPES[2:])
    for rows, text in ((spoken, True), (silent, False)):
        for row in rows.values():
            assert set(row.stages_ms) == {"decode", "audio", "vision", "fusion"} | (
                {"text"} if text else set()
            )
            assert all(spent_ms > 0 for spent_ms in row.stages_ms.values())
    eager = spoken["PyTorch eager fp32"]
    # One after the other: together they are no more than the whole.
    assert sum(eager.stages_ms.values()) < 1.2 * eager.latency_ms.mean


def test_a_files_scope_says_what_was_used_of_it(report, clips):
    spoken, silent = report.scopes[2:]
    assert spoken.sizes["text"] > 0
    assert silent.sizes["text"] == 0
    assert spoken.sizes["vision"] == silent.sizes["vision"] > 0
    assert spoken.sizes["clip_ms"] > 1000
    assert spoken.inputs_sha256 == silent.inputs_sha256


def test_it_comes_back_from_its_file(report, tmp_path):
    write_report(tmp_path / "report.json", report)
    assert read_report(tmp_path / "report.json") == report
    assert json.loads((tmp_path / "report.json").read_text())["scopes"][1]["kind"] == "features"


def test_an_engine_with_other_weights_fails_in_every_scope(demo_bundle, source, clips, tmp_path):
    import onnx
    from onnx import numpy_helper

    from taemi_runtime.manifest import MANIFEST_NAME, describe_file, format_manifest

    folder = tmp_path / "wrong.taemi"
    shutil.copytree(demo_bundle, folder)
    model = onnx.load(folder / "fusion.onnx")
    for item in model.graph.initializer:
        values = numpy_helper.to_array(item)
        if values.dtype == np.float32 and values.ndim == 2:
            item.CopyFrom(numpy_helper.from_array(values * np.float32(1.3), item.name))
    onnx.save(model, folder / "fusion.onnx")
    manifest = Bundle.open(folder).manifest
    files = dict(manifest.files)
    files["fusion.onnx"] = describe_file(folder / "fusion.onnx", graph="fusion", precision="fp32")
    (folder / MANIFEST_NAME).write_text(format_manifest(replace(manifest, files=files)))
    found = measure(folder, source, Further(clips=(clips.silent,)))
    assert [row.scope for row in found.failures] == ["fusion", "features to scores", SCOPES[3]]


def test_without_a_clip_or_a_checkpoint_rows_say_so(demo_bundle):
    found = measure(demo_bundle, None, Further(sweeps=("max_fps",)))
    eager, engine = rows_of(found, "file to scores").values()
    assert (eager.why, engine.state) == ("name it", "not run")
    assert "--clip FILE" in engine.why
    eager, engine = rows_of(found, "features to scores").values()
    assert eager.state == "not run"
    assert (engine.state, engine.max_abs, engine.rho) == ("ran", None, None)
    assert "no --clip" in found.sweeps[0].why
    assert not found.failures


def test_a_clip_that_is_none_fails_its_rows_and_no_others(demo_bundle, source, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"this is no media file" * 50)
    found = measure(demo_bundle, source, Further(clips=(broken,)))
    assert {row.scope for row in found.failures} == {"file to scores: broken.mp4"}
    assert all("cannot read" in row.why for row in found.failures)


def test_another_graph_alone_measures_no_whole_model(demo_bundle, source, clips):
    found = run_bundle(
        Bundle.open(demo_bundle),
        source,
        graphs=["text"],
        schedule=replace(QUICK, rounds=1),
        threads=1,
        device="cpu",
        choice=PLAIN,
        further=Further(clips=(clips.spoken,)),
    )
    assert [scope.name for scope in found.scopes] == ["text"]


def test_presence_is_swept_in_every_scope(demo_bundle, source, clips, quick_points):
    engines = RowChoice(rows=("ONNX Runtime",))
    asked = Further(clips=(clips.spoken,), sweeps=("presence",))
    found = measure(demo_bundle, source, asked, choice=engines)
    assert [(sweep.scope, sweep.axis) for sweep in found.sweeps] == [
        ("features to scores", "presence"),
        ("file to scores: spoken.mp4", "presence"),
        ("fusion", "presence"),
    ]
    for sweep in found.sweeps:
        labels = [point.label for point in sweep.points]
        assert len(set(labels)) == 8
        assert (labels[0], labels[-1]) == ("audio+vision+text", "nothing")
        # What was left out has said so in its scope.
        assert all([row.name for row in point.rows] == ["ONNX Runtime CPU fp32"] for point in sweep.points)
    files = {point.label: point.rows[0].latency_ms.mean for point in found.sweeps[1].points}
    # Neither a decoded frame nor an encoder: of the work next to nothing is left.
    assert files["text"] < 0.6 * files["audio+vision+text"]


@pytest.mark.slow
def test_the_correlation_with_labels_stands_beside_each_frame_rate(
    demo_bundle, source, clips, demo_corpus, quick_points
):
    found = measure(
        demo_bundle, source, Further(clips=(clips.spoken,), sweeps=("max_fps",), data=demo_corpus)
    )
    (rates,) = found.sweeps
    assert rates.scope == "file to scores: spoken.mp4"
    assert [point.value for point in rates.points] == [1.0, 2.0, 5.0, 10.0, 15.0]
    for point in rates.points:
        eager, engine = point.rows
        assert -1 <= eager.rho <= 1
        assert engine.rho == pytest.approx(eager.rho, abs=1e-3)
    assert "synthetic" in rates.notes["rho"]


def test_what_is_missing_is_not_read_and_scores_are_the_clips_own(demo_bundle, clips):
    with WholeModel(demo_bundle, options=EngineOptions(device="cpu", threads=1)) as model:
        said = words_beside(clips.spoken)
        whole = model.score_file(clips.spoken, said)
        in_turn = model.score_file(clips.spoken, said, in_turn=True)
        np.testing.assert_allclose(in_turn.scores, whole.scores, atol=1e-5)
        for present in ((False, True, True), (True, False, True), (True, True, False), (False, False, False)):
            found = model.score_file(clips.spoken, said, present)
            assert [name not in found.result.missing for name in ("audio", "vision", "text")] == list(present)
            kept = {"audio", "vision", "text"} - set(found.result.missing)
            assert {"audio", "vision", "text"} & set(found.stages_ms) == kept
        slow = model.score_file(clips.spoken, said, max_fps=1.0)
        assert 0 < slow.facts["vision"] < whole.facts["vision"]
        # A later call is not at an earlier one's rate.
        assert model.score_file(clips.spoken, said).facts == whole.facts


def test_features_score_as_the_graph_does(demo_bundle):
    spec = Bundle.open(demo_bundle).manifest.graphs["fusion"]
    clips = draw_clips(spec, SHORT["fusion"], 2)
    with WholeModel(demo_bundle, options=EngineOptions(device="cpu", threads=1)) as model:
        engine = model.open_first()
        both = model.score_features(clips)
        for clip, found in zip(clips, both, strict=True):
            feeds = {name: values[None] for name, values in clip.items()}
            feeds |= {f"{name}_mask": np.ones((1, len(clip[name])), bool) for name in ("audio", "vision")}
            feeds["present"] = np.ones((1, 3), bool)
            expected = engine.run(feeds)["intensities"][0]
            np.testing.assert_allclose(found.scores, expected, atol=1e-6)
        partial = model.score_features([{"text": clips[0]["text"]}])[0]
        assert partial.result.missing == ["audio", "vision"]


def test_faces_are_a_stage_of_their_own(demo_bundle, clips):
    pytest.importorskip("cv2")
    with WholeModel(demo_bundle, options=EngineOptions(device="cpu", threads=1)) as model:
        scorer = model._scorer
        scorer.decoder = replace(
            scorer.decoder,
            preprocessing=replace(
                scorer.preprocessing, vision=replace(scorer.preprocessing.vision, faces="auto")
            ),
        )
        scorer.preprocessing = scorer.decoder.preprocessing
        stages = model.score_file(clips.silent, words_beside(clips.silent)).stages_ms
    assert stages["faces"] > 0
    assert stages["decode"] > 0
    assert list(stages)[:2] == ["decode", "faces"]


def test_the_share_that_is_left_follows_the_stages():
    stages = {"decode": 10.0, "faces": 10.0, "audio": 5.0, "vision": 60.0, "text": 10.0, "fusion": 5.0}
    assert share_left(stages, (True, True, True)) == 1.0
    assert share_left(stages, (True, False, True)) == pytest.approx(0.2)
    assert share_left(stages, (False, False, False)) == pytest.approx(0.05)
    assert share_left({}, (True, True, True)) == 1.0


def test_rank_correlation_is_of_ranks_and_none_where_there_are_none():
    expected = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    assert rank_correlation(np.exp(expected), expected) == pytest.approx(1.0)
    assert rank_correlation(-expected, expected) == pytest.approx(-1.0)
    assert rank_correlation(np.zeros_like(expected), expected) is None
    assert rank_correlation(np.full_like(expected, np.nan), expected) is None


def test_rho_of_files_is_over_all_of_them(tmp_path):
    one, two = ClipCalls(tmp_path / "1.mp4"), ClipCalls(tmp_path / "2.mp4")
    for calls, base in ((one, 0.0), (two, 1.0)):
        calls.scores["eager"] = np.array([[base + 0.1, base + 0.2]])
        calls.scores["engine"] = np.array([[base + 0.2, base + 0.1]])
    row = RowReport("file", "engine", "x", "fp32", "cpu", "ran", max_abs=0.1)
    (found,) = with_rho([row], [one, two], "eager")
    # Ranks 2 1 4 3 against 1 2 3 4; of either clip alone it would be -1.
    assert found.rho == pytest.approx(0.6)


def test_what_cannot_be_opened_is_a_reason_and_the_rest_is_open(demo_bundle, source, tmp_path):
    folder = tmp_path / "damaged.taemi"
    shutil.copytree(demo_bundle, folder)
    path = folder / "fusion.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    setting = Setting(Bundle.open(folder), source, "", ["cpu"], 1)
    with open_chains(setting, WholeModel.open_first) as chains:
        eager, engine = chains
        assert eager.model is not None
        assert (engine.model, engine.row.failed) == (None, True)
        assert "SHA-256" in engine.row.why
