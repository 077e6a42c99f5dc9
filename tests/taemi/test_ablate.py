"""taemi ablate: the table against the runs it is made of, going on after a kill, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from taemi.ablation import study as study_module
from taemi.ablation.rows import ROWS, chosen_rows, chosen_seeds, row_to_train
from taemi.ablation.runs import RESULT_NAME, read_failures, read_results, run_folder
from taemi.ablation.study import Listeners, Study, run_study
from taemi.checkpoint import load_system
from taemi.choice import EncoderChoice
from taemi.cli import app
from taemi.config import VARIANTS
from taemi.corpus import read_corpus
from taemi.recipe import Recipe
from taemi_runtime.emotions import EMOTIONS
from taemi_runtime.errors import DataError, SpecError, UsageError

# One step at the full rate: the least that changes every weight.
RECIPE = Recipe(epochs=1, batch_size=12, warmup_epochs=0, pad="longest")
OPTIONS = ["--encoders", "tiny", "--epochs", "1", "--batch-size", "12", "--warmup-epochs", "0"]
OPTIONS += ["--pad", "longest", "--max-fps", "1", "--workers", "0", "--no-tensorboard", "--device", "cpu"]


def plan(corpus, out, rows, seeds=(1, 2), **changes) -> Study:
    made = Study(
        read_corpus(corpus), out, chosen_rows(rows), seeds, RECIPE, EncoderChoice("tiny"), max_fps=1.0
    )
    return replace(made, **changes)


def run(made: Study, **listeners):
    return run_study(made, lambda protocol: None, Listeners(**listeners))


def with_features_of(done, made: Study) -> Study:
    """Give a study what it would extract first."""
    for folder in ("encoders", "features"):
        shutil.copytree(done[0] / folder, made.out / folder)
    return made


def ablate(corpus, out, *arguments):
    return CliRunner().invoke(app, ["ablate", str(corpus), "--out", str(out), *OPTIONS, *map(str, arguments)])


@pytest.fixture(scope="module")
def done(demo_corpus, tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation")
    result = ablate(demo_corpus, out, "--rows", "full,text", "--seeds", "1,2")
    assert result.exit_code == 0, result.output
    return out, result


def rho_of(out, row, seed):
    """What a run's own history says of its best epoch."""
    history = json.loads((run_folder(out, row, seed) / "history.json").read_text())
    return max(history, key=lambda epoch: epoch["rho"])


def test_figures_are_those_of_the_runs_histories(done):
    out, _ = done
    rho = {row: [rho_of(out, row, seed)["rho"] for seed in (1, 2)] for row in ("full", "text")}
    table = {line["row"]: line for line in csv.DictReader((out / "ablation.csv").open())}
    assert list(table) == list(ROWS)
    for row, values in rho.items():
        assert float(table[row]["rho_mean"]) == pytest.approx(sum(values) / 2, abs=1e-12)
        assert float(table[row]["rho_sd"]) == pytest.approx(statistics.stdev(values), abs=1e-12)
        assert table[row]["seeds"] == "2"
        for column, emotion in enumerate(EMOTIONS):
            each = [rho_of(out, row, seed)["rho_by_output"][column] for seed in (1, 2)]
            assert float(table[row][emotion]) == pytest.approx(sum(each) / 2, abs=1e-12)
    paired = [text - full for text, full in zip(rho["text"], rho["full"], strict=True)]
    assert float(table["text"]["difference_mean"]) == pytest.approx(sum(paired) / 2, abs=1e-12)
    assert float(table["text"]["difference_sd"]) == pytest.approx(statistics.stdev(paired), abs=1e-12)
    assert table["text"]["difference_seeds"] == "2"
    assert table["full"]["difference_mean"] == ""
    assert (table["concat"]["state"], table["concat"]["rho_mean"]) == ("not run", "")


def test_the_papers_figures_stand_beside_ours_and_none_is_invented(done):
    out, result = done
    table = {line["row"]: line for line in csv.DictReader((out / "ablation.csv").open())}
    assert (table["vision-anchored"]["paper_rho"], table["vision-anchored"]["paper_place"]) == (
        "0.39;0.49",
        "Table 4;text",
    )
    assert table["text"]["paper_rho"] == ""
    assert "0.39 (Table 4), 0.49 (text)" in result.stdout
    text = (out / "ablation.md").read_text()
    assert "synthetic" in text.splitlines()[0]
    assert "nothing about people" in text
    assert "12 clips for training, 4 for validation" in text
    assert text.count("not run") == len(ROWS) - 2


def test_the_json_holds_the_protocol_every_run_and_its_weights(done, demo_corpus):
    out, _ = done
    report = json.loads((out / "ablation.json").read_text())
    assert report["synthetic"] is True
    assert report["seeds"] == [1, 2]
    assert report["protocol"]["recipe"]["batch_size"] == 12
    assert not {"seed", "modalities"} & set(report["protocol"]["recipe"])
    assert report["versions"]["torch"] == [torch.__version__]
    rows = {row["row"]: row for row in report["rows"]}
    assert [item["seed"] for item in rows["full"]["runs"]] == [1, 2]
    system, _ = load_system(run_folder(out, "full", 1) / "best.pt")
    sizes = {
        name: sum(weight.numel() for weight in part.parameters()) for name, part in system.named_children()
    }
    assert rows["full"]["fusion_weights"] == rows["text"]["fusion_weights"] == sizes["fusion"]
    assert rows["text"]["trained_weights"] == sizes["fusion"] + sizes["text_encoder"]
    assert rows["full"]["trained_weights"] - rows["text"]["trained_weights"] == sizes["audio_encoder"]


def test_the_picture_is_one(done):
    pytest.importorskip("matplotlib")
    with Image.open(done[0] / "ablation.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(pixels) > 500_000
    # Our marks, the paper's and the baselines' have a colour each.
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x00, 0x9E, 0x73)):
        assert (pixels == colour).all(1).sum() > 50


def test_all_runs_have_one_set_of_encoders_and_of_features(done, demo_corpus):
    out, _ = done
    assert len(list((out / "features").glob("*.safetensors"))) == 16
    assert not list(out.glob("runs/*/*/features"))
    # Frozen in the row text, and so as it was written.
    written = load_file(out / "encoders" / "audio" / "model.safetensors")
    for seed in (1, 2):
        state = load_system(run_folder(out, "text", seed) / "best.pt")[0].audio_encoder.model.state_dict()
        assert all(np.array_equal(state[name].numpy(), values) for name, values in written.items())
    assert not list(out.rglob("last.pt"))


def snapshot(out: Path):
    return {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in (out / "runs").rglob("*")
        if path.is_file() and (path.parent / RESULT_NAME).exists()
    }


@pytest.mark.slow
def test_after_a_kill_finished_runs_stay_and_the_table_is_the_same(demo_corpus, tmp_path, done):
    rows = ("text", "vision")
    whole, killed = (
        with_features_of(done, plan(demo_corpus, tmp_path / name, rows)).out for name in ("whole", "killed")
    )
    arguments = ("--rows", "text,vision", "--seeds", "1,2")
    assert ablate(demo_corpus, whole, *arguments).exit_code == 0

    seen = []

    def die_in_the_second(report):
        seen.append(report)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan(demo_corpus, killed, rows), report=die_in_the_second)
    before = snapshot(killed)
    assert {path.parent for path in before} == {run_folder(killed, "text", 1)}
    assert (run_folder(killed, "vision", 1) / "best.pt").exists()

    again = ablate(demo_corpus, killed, *arguments)
    assert again.exit_code == 0, again.output
    assert "run 1/4: text, seed 1: finished before" in again.stderr
    assert "left for 2" in again.stderr
    # The run that died after its only epoch is not trained again.
    assert again.stderr.count("epoch  1/1") == 2
    assert {path: snapshot(killed)[path] for path in before} == before
    for name in ("ablation.md", "ablation.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_another_protocol_is_refused_with_what_differs(done, demo_corpus, tmp_path):
    out, _ = done
    before = snapshot(out)
    for changes, said in (
        ({"recipe": replace(RECIPE, epochs=2)}, "recipe.epochs was 1, now 2"),
        ({"max_fps": 2.0}, "preprocessing.vision.max_fps was 1.0, now 2.0"),
        (
            {"choice": EncoderChoice("tiny", mask_in_encoder=False)},
            "preprocessing.audio.padded_samples was null, now 192000",
        ),
    ):
        with pytest.raises(DataError, match=said):
            run(plan(demo_corpus, out, ("full",), **changes))
    corpus = read_corpus(demo_corpus)
    first, *others = corpus.split("train")
    relabelled = {**corpus.splits, "train": (replace(first, labels=(1.0,) * 6), *others)}
    with pytest.raises(DataError, match=r"data\.digest was [0-9a-f]{12}, now"):
        run(replace(plan(demo_corpus, out, ("full",)), corpus=replace(corpus, splits=relabelled)))
    other = study_module.tiny_encoders(tmp_path, seed=9)
    with pytest.raises(DataError, match=r"encoders\.vision\.weights was"):
        run(plan(demo_corpus, out, ("full",), choice=EncoderChoice("tiny", vision=str(other["vision"]))))
    assert snapshot(out) == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rows", "full,ful"), "there is no row 'ful'. Choose from: full, concat, self-attention"),
        (("--rows", ","), "no row is named"),
        (("--seeds", "1,x"), "cannot use 'x' as a seed"),
        (("--epochs", "0"), "epochs is 0"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, options, said):
    command = [sys.executable, "-m", "taemi.cli", "ablate", "nowhere", "--out", "out", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_every_row_is_a_variant_and_train_takes_each_name():
    assert {row.variant for row in ROWS.values()} <= set(VARIANTS)
    assert row_to_train("audio+vision").modalities == ("audio", "vision")
    assert row_to_train("audio", ("audio",)) == ROWS["audio"]
    assert row_to_train("released", ("text",)).modalities == ("text",)
    assert row_to_train("full", ("vision",)).variant == "full"
    with pytest.raises(UsageError, match="that row sees audio and nothing else"):
        row_to_train("audio", ("audio", "text"))
    with pytest.raises(SpecError, match=r"Choose from: paper, full, .*audio\+vision"):
        row_to_train("everything")
    assert chosen_seeds(("3", "1", "3")) == (3, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "unseen"), [("text", ("waveform", "vision")), ("vision", ("waveform", "words"))]
)
def test_a_baseline_never_sees_the_others(demo_corpus, tmp_path, done, row, unseen):
    corpus = read_corpus(demo_corpus)
    studies = [with_features_of(done, plan(demo_corpus, tmp_path / name, (row,), (1,))) for name in "ab"]
    if "words" in unseen:
        splits = {
            split: tuple(replace(clip, transcript="something else was said") for clip in rows)
            for split, rows in corpus.splits.items()
        }
        studies[1] = replace(studies[1], corpus=replace(corpus, splits=splits))
    for path in (studies[1].out / "features").glob("*.safetensors"):
        noise = np.random.default_rng(0)
        changed = {
            name: noise.standard_normal(values.shape).astype(values.dtype) if name in unseen else values
            for name, values in load_file(path).items()
        }
        save_file(changed, path)
    assert run(studies[0]) == run(studies[1]) == []
    states = [load_system(run_folder(one.out, row, 1) / "best.pt")[0].state_dict() for one in studies]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_a_run_that_fails_is_its_rows_failure_and_the_others_go_on(demo_corpus, tmp_path, done, monkeypatch):
    with_features_of(done, plan(demo_corpus, tmp_path, ("concat",)))
    trained = study_module.train

    def out_of_memory(system, *arguments, **named):
        if system.config.pooling == "mean":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2.00 GiB")
        return trained(system, *arguments, **named)

    rows = ("--rows", "concat,vision", "--seeds", "1")
    with monkeypatch.context() as patch:
        patch.setattr(study_module, "train", out_of_memory)
        failed = ablate(demo_corpus, tmp_path, *rows)
    assert failed.exit_code == 1
    reason = "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert f"failed: concat, seed 1: {reason}" in failed.stderr
    assert [result.row for result in read_results(tmp_path)] == ["vision"]
    text = (tmp_path / "ablation.md").read_text()
    assert f"* concat, seed 1: {reason}" in text
    (failure,) = read_failures(tmp_path)
    assert "out_of_memory" in failure.traceback

    mended = ablate(demo_corpus, tmp_path, *rows)
    assert mended.exit_code == 0, mended.output
    assert [result.row for result in read_results(tmp_path)] == ["concat", "vision"]
    assert read_failures(tmp_path) == []
    assert "failed" not in (tmp_path / "ablation.md").read_text()


def test_a_training_that_diverges_has_no_figure(demo_corpus, tmp_path, done):
    wild = plan(demo_corpus, tmp_path, ("text",), (1,), recipe=replace(RECIPE, learning_rate=1e30))
    (failure,) = run(with_features_of(done, wild))
    assert "training diverged" in failure.reason
    assert read_results(tmp_path) == []


def test_a_damaged_result_is_named_with_what_to_do(tmp_path):
    folder = run_folder(tmp_path, "full", 1)
    folder.mkdir(parents=True)
    (folder / RESULT_NAME).write_text("{}")
    with pytest.raises(DataError, match=f"rm -r {folder}"):
        read_results(tmp_path)


def test_several_processes_are_told_to_take_rows_of_their_own(demo_corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"2 processes were launched.*other --rows or --seeds"):
        run(plan(demo_corpus, tmp_path, ("text",)))
    assert not list(tmp_path.iterdir())
