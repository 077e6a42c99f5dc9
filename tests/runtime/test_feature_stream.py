"""Features through plans on a simulated GPU, and what happens when a call or the user breaks off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from taemi_runtime.backends import open_engine
from taemi_runtime.engine import EngineOptions
from taemi_runtime.errors import BundleError, EngineError, UsageError
from taemi_runtime.feature_files.find import FeatureInput, find_features
from taemi_runtime.feature_files.planning import plan_batches
from taemi_runtime.feature_files.scorer import FeatureScorer
from taemi_runtime.feature_files.stream import FeatureStream
from taemi_runtime.feature_files.wanted import wanted_inputs
from taemi_runtime.results import ClipFailure
from tests.runtime.engine_places import widest
from tests.runtime.fake_tensorrt import write_plan
from tests.runtime.feature_stores import draw, draw_many, expected, scores_of, write_store
from tests.runtime.plan_bundles import add_plan
from tests.runtime.tiny_bundle import fusion_model, fusion_spec

ROOT = Path(__file__).parents[2]
SPEC = fusion_spec()
# Memory on the device and on the host for each of six inputs and one output, and scratch memory.
BLOCKS_OF_A_LANE = 15
SECONDS = 20  # Within which threads must have met.


def half_model() -> onnx.ModelProto:
    """The fusion graph with features in half precision."""
    model = fusion_model()
    for item in model.graph.input:
        if item.name in ("audio", "vision", "text"):
            item.type.tensor_type.elem_type = TensorProto.FLOAT16
            cast = onnx.helper.make_node("Cast", [item.name], [f"{item.name}_single"], to=TensorProto.FLOAT)
            for node in model.graph.node:
                node.input[:] = [cast.output[0] if name == item.name else name for name in node.input]
            model.graph.node.insert(0, cast)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.fixture
def stored(bundle, tmp_path):
    clips = draw_many(70)
    return clips, write_store(tmp_path / "store", bundle, clips)


def run(engine, store, **options):
    stream = FeatureStream(engine, Path("engine"), **options)
    done = sorted(stream.run(find_features([str(store)]).inputs), key=lambda item: item.index)
    assert [item.index for item in done] == list(range(len(done)))
    return [item.scored for item in done]


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("graphs", [False, True], ids=["enqueued", "graphs"])
def test_a_plan_scores_a_store(place, stored, tmp_path, half, graphs):
    clips, store = stored
    path = place.write(tmp_path, "fusion", half_model() if half else fusion_model(), SPEC)
    with open_engine(path, SPEC, EngineOptions(cuda_graphs=graphs)) as engine:
        assert set(engine.info.inputs) == ({"audio", "vision", "text"} if half else set())
        held = place.gpu.allocations
        for _ in range(3):
            found = run(engine, store, batch=8)
            scores = np.array([item.outputs["intensities"] for item in found])
            np.testing.assert_allclose(scores, [expected(clip) for clip in clips], atol=5e-6)
        # One lane was there; two more calls may be under way, and however long the store is, no more.
        assert place.gpu.allocations - held <= 2 * BLOCKS_OF_A_LANE
    assert place.gpu.is_clean


def test_half_precision_goes_up_as_it_lies_in_the_file(place, bundle, tmp_path, monkeypatch):
    clips = [draw(1), draw(2)]
    store = write_store(tmp_path / "store", bundle, clips)
    path = place.write(tmp_path, "fusion", half_model(), SPEC)
    with open_engine(path, SPEC) as engine:
        seen = []
        plain = engine.run
        monkeypatch.setattr(
            engine, "run", lambda inputs, **more: (seen.append(inputs), plain(inputs, **more))[1]
        )
        run(engine, store)
    (arrays,) = seen
    assert {name: str(array.dtype) for name, array in arrays.items() if array.dtype != bool} == {
        "audio": "float16",
        "vision": "float16",
        "text": "float16",
    }
    lengths = sorted(arrays["audio_mask"].sum(1))
    assert lengths == sorted(len(clip["audio"]) for clip in clips)


def test_the_lengths_are_those_of_the_plans_buckets(place, bundle, tmp_path, monkeypatch):
    """What is padded is padded once: the plan's own buckets get calls that fill them."""
    clips = [
        {name: values[:100] for name, values in draw(seed).items() if name != "text"} for seed in (1, 2, 5)
    ]
    store = write_store(tmp_path / "store", bundle, clips)
    path = place.write(tmp_path, "fusion", fusion_model(), SPEC)
    longest = {name: max(len(clip[name]) for clip in clips) for name in ("audio", "vision")}
    with open_engine(path, SPEC) as engine:
        wanted = engine.padded_lengths(
            {"batch": 3, "audio_len": longest["audio"], "vision_len": longest["vision"]}
        )
        seen = []
        plain = engine.run
        monkeypatch.setattr(
            engine,
            "run",
            lambda inputs, **more: (seen.append(inputs["audio"].shape), plain(inputs, **more))[1],
        )
        run(engine, store)
    assert seen == [(3, wanted["audio_len"], 3)]
    assert wanted["audio_len"] in (16, 64, 128)
    with open_engine(path, SPEC, EngineOptions(cuda_graphs=False)) as engine:
        assert engine.padded_lengths({"batch": 3, "audio_len": 99, "vision_len": 7})["audio_len"] == 99


def test_copies_of_the_next_batch_go_up_while_one_is_computed(place, stored, tmp_path, monkeypatch):
    """The first call's wait ends only when another stream has queued its copies and its call."""
    clips, store = stored
    path = place.write(tmp_path, "fusion", fusion_model(), SPEC)
    with open_engine(path, SPEC, EngineOptions(cuda_graphs=False)) as engine:
        queued: list[tuple[str, int]] = []
        met = threading.Event()
        first: list[int] = []
        plain_upload, plain_wait = place.gpu.upload, place.gpu.synchronise

        def upload(handle, *more):
            queued.append(("copy", handle))
            if first and handle != first[0]:
                met.set()
            plain_upload(handle, *more)

        def wait(handle):
            if not first:
                first.append(handle)
                if any(other != handle for _, other in queued):
                    met.set()
                met.wait(SECONDS)
                queued.append(("computed", handle))
            plain_wait(handle)

        monkeypatch.setattr(place.gpu, "upload", upload)
        monkeypatch.setattr(place.gpu, "synchronise", wait)
        found = run(engine, store, batch=8)
        assert met.is_set()
    computed = queued.index(("computed", first[0]))
    others = {handle for _, handle in queued[:computed]} - {first[0]}
    assert others, "no copy of another batch was queued before the first one was computed"
    scores = np.array([item.outputs["intensities"] for item in found])
    np.testing.assert_allclose(scores, [expected(clip) for clip in clips], atol=5e-6)


def test_clips_that_share_no_profile_are_run_one_by_one(place, bundle, tmp_path):
    """A plan for one long clip or many short ones takes a batch of long ones apart."""
    ranges = {
        "one": widest(SPEC) | {"batch": (1, 1, 1)},
        "many": {"batch": (1, 8, 16), "audio_len": (1, 20, 50), "vision_len": (1, 20, 50)},
    }
    path = tmp_path / "fusion.plan"
    write_plan(path, SPEC, fusion_model().SerializeToString(), ranges)
    clips = draw_many(20)
    store = write_store(tmp_path / "store", bundle, clips)
    with open_engine(path, SPEC) as engine:
        found = run(engine, store)
    scores = np.array([item.outputs["intensities"] for item in found])
    np.testing.assert_allclose(scores, [expected(clip) for clip in clips], atol=5e-6)


def test_a_plan_that_stands_alone_scores_a_store(place, bundle, stored, tmp_path):
    clips, store = stored
    path = tmp_path / "elsewhere" / "fp16.plan"
    path.parent.mkdir()
    write_plan(path, SPEC, half_model().SerializeToString(), {"one": widest(SPEC)})
    with FeatureScorer(path, clip_scores=False, batch=16) as scorer:
        found = dict(scorer.score([store]))
    np.testing.assert_allclose(
        [scores_of(found[place]) for place in range(len(found))],
        [expected(clip) for clip in clips],
        atol=5e-6,
    )
    assert found[0].engine.precision == "fp16"
    with pytest.raises(UsageError, match=r"takes at most 32\. Give --batch 32 or less"):
        FeatureScorer(path, batch=33)
    path.with_name("fp16.plan.json").unlink()
    with pytest.raises(BundleError, match="cannot read the sidecar"):
        FeatureScorer(path)


def test_a_plan_of_a_bundle_scores_a_store(place, make_bundle, tmp_path):
    made = make_bundle()
    name = add_plan(made, "fusion")
    clips = draw_many(9)
    store = write_store(tmp_path / "store", made, clips)
    with FeatureScorer(made.folder / name, clip_scores=False) as scorer:
        found = dict(scorer.score([store]))
        assert scorer.stream.batch == 32
    np.testing.assert_allclose(
        [scores_of(found[place]) for place in range(9)], [expected(clip) for clip in clips], atol=5e-6
    )


def test_batches_hold_clips_of_one_kind_and_of_similar_length():
    rng = np.random.default_rng(2)
    wanted = wanted_inputs(SPEC, {}, Path("engine"))
    items = []
    for number in range(1000):
        seconds = rng.uniform(2, 12)
        lengths = {"audio": round(50 * seconds) - 1, "vision": min(400, round(rng.uniform(25, 30) * seconds))}
        if number % 10 == 3:
            del lengths["vision"]
        items.append(FeatureInput(Path(f"{number}"), lengths=lengths))

    def waste(batches):
        """Positions that are computed by positions that are there."""
        padded = there = 0
        for part in batches:
            for name in ("audio", "vision"):
                found = [item.lengths.get(name, 0) for _, item in part]
                padded += len(part) * max(1, *found)
                there += sum(found)
        return padded / there

    whole = list(enumerate(items))
    batches = list(plan_batches(whole, wanted, 16, window=20))
    assert sorted(index for part in batches for index, _ in part) == list(range(1000))
    assert waste(batches) < 1.1
    assert waste(whole[start : start + 16] for start in range(0, 1000, 16)) > 1.5
    mixed = sum(len({"vision" in item.lengths for _, item in part}) > 1 for part in batches)
    # One border between the kinds in each of the four windows.
    assert mixed <= 4
    for number, part in enumerate(batches):
        start = number // 20 * 320
        assert all(start <= index < start + 320 for index, _ in part)


class Failing:
    """An engine that fails for some rows, or gives no number for them."""

    def __init__(self, engine, refuses):
        self.engine, self.refuses = engine, refuses

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def run(self, inputs, **more):
        if self.refuses(inputs):
            raise EngineError("cannot run fusion", "out of memory")
        return self.engine.run(inputs, **more)


def test_what_spoils_a_call_fails_alone(bundle, tmp_path):
    clips = draw_many(20)
    clips[7]["vision"] = np.full((5, 3), 99, np.float16)
    store = write_store(tmp_path / "store", bundle, clips)
    with open_engine(bundle.folder / "fusion.onnx", SPEC) as engine:
        failing = Failing(engine, lambda inputs: bool((inputs["vision"] == 99).any()))
        found = run(failing, store, batch=6)
    for number, item in enumerate(found):
        if number == 7:
            assert str(item) == "cannot run fusion: out of memory"
        else:
            np.testing.assert_allclose(item.outputs["intensities"], expected(clips[number]), atol=5e-6)


def test_scores_that_are_no_numbers_are_a_failure(make_bundle, tmp_path):
    made = make_bundle(bias=np.array([np.nan, 0, 0, 0, 0, 0], np.float32))
    store = write_store(tmp_path / "store", made, [draw(1)])
    with FeatureScorer(made.folder) as scorer:
        ((_, outcome),) = scorer.score([store])
    assert isinstance(outcome, ClipFailure)
    assert "they are not finite: [nan," in outcome.error


def test_integer_graphs_take_one_clip_a_call(bundle, stored, monkeypatch):
    """They round by the range of a whole call, so that clips would change each other's scores."""
    _, store = stored
    with open_engine(bundle.folder / "fusion.onnx", SPEC, precision="int8") as engine:
        rows = set()
        plain = engine.run
        monkeypatch.setattr(
            engine, "run", lambda inputs, **more: (rows.add(len(inputs["present"])), plain(inputs, **more))[1]
        )
        run(engine, store, batch=16)
    assert rows == {1}


def test_a_caller_that_wants_no_more_leaves_no_thread(bundle, stored):
    _, store = stored
    before = threading.active_count()
    with FeatureScorer(bundle.folder, batch=2) as scorer:
        outcomes = scorer.score([store])
        next(outcomes)
        outcomes.close()
    assert threading.active_count() == before


def test_ctrl_c_ends_at_once_with_whole_lines(bundle, tmp_path):
    clips = draw_many(60)
    store = write_store(tmp_path / "store", bundle, clips)
    out = tmp_path / "scores.jsonl"
    # The same clips again and again by other names, so that the run lasts.
    index = json.loads((store / "index.json").read_text())
    for copy in range(100):
        for number in range(60):
            os.link(store / f"{number:05}.safetensors", store / f"{copy:03}-{number:05}.safetensors")
            index["clips"][f"{copy:03}-{number:05}"] = {
                **index["clips"][f"{number:05}"],
                "file": f"{copy:03}-{number:05}.safetensors",
            }
    (store / "index.json").write_text(json.dumps(index))
    command = [sys.executable, "-m", "taemi_runtime.cli", str(store), "--engine", str(bundle.folder)]
    process = subprocess.Popen(
        [*command, "--format", "jsonl", "--out", str(out), "--batch", "1"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
    )
    limit = time.monotonic() + SECONDS
    while not (out.exists() and out.stat().st_size) and time.monotonic() < limit:
        time.sleep(0.01)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS)
    assert time.monotonic() - start < 2
    assert process.returncode == 130
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert 0 < len(lines) < 6060
    assert f"interrupted: {len(lines)} of 6060 clips done" in err
