"""What stands around a cluster and needs none: addresses, shares, stages and their ledger, shards."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import subprocess
import sys
import threading

import pytest
import typer
from typer.testing import CliRunner

from taemi_runtime.cluster.address import ClusterCommand, check_address, spell_out
from taemi_runtime.cluster.attempts import MOST_DEATHS, Attempts
from taemi_runtime.cluster.preflight import Needs, what_is_missing
from taemi_runtime.cluster.session import _Stdout
from taemi_runtime.cluster.shares import Node, deal_out
from taemi_runtime.cluster.stages import Finished, Parcel, Place, ReadStage, Source, WorkStage
from taemi_runtime.errors import DeviceError, EngineError, MediaError, UsageError
from taemi_runtime.results import ClipFailure
from taemi_runtime.shards import Shards, fold_shards, shard_folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("clip.mp4 --ray --engine X", "clip.mp4 --ray=local --engine X"),
        ("--ray clip.mp4 --engine X", "--ray=local clip.mp4 --engine X"),
        ("--ray folder/ b.mp4", "--ray=local folder/ b.mp4"),
        ("clip.mp4 --ray", "clip.mp4 --ray=local"),
        ("--ray auto clip.mp4", "--ray=auto clip.mp4"),
        ("--ray=auto clip.mp4", "--ray=auto clip.mp4"),
        ("--ray 10.0.0.1:6379 clip.mp4", "--ray=10.0.0.1:6379 clip.mp4"),
        ("--ray [::1]:6379 clip.mp4", "--ray=[::1]:6379 clip.mp4"),
        ("a --ray ray://head:10001 b", "a --ray=ray://head:10001 b"),
        ("a --engine X -- --ray auto", "a --engine X -- --ray auto"),
        ("a --rays auto", "a --rays auto"),
    ],
)
def test_the_option_takes_an_address_and_never_a_clip(words, expected):
    assert spell_out(words.split()) == expected.split()


def test_a_command_line_with_the_option_is_read_as_typed():
    app, seen = typer.Typer(), {}

    @app.command(cls=ClusterCommand)
    def command(inputs: list[str], ray: str | None = None, engine: str = "") -> None:
        seen.update(inputs=inputs, ray=ray, engine=engine)

    for words, ray in (
        ("clip.mp4 --ray --engine X", "local"),
        ("--ray clip.mp4 --engine X", "local"),
        ("clip.mp4 --ray ray://h:1 --engine X", "ray://h:1"),
        ("clip.mp4 --ray=auto --engine X", "auto"),
        ("clip.mp4 --engine X", None),
    ):
        assert CliRunner().invoke(app, words.split()).exit_code == 0
        assert seen == {"inputs": ["clip.mp4"], "ray": ray, "engine": "X"}


@pytest.mark.parametrize("address", ["", "clip.mp4", "host", "host:", ":1", "http://host:80", "host:123456"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UsageError, match="that is no address"):
        check_address(address)


def nodes(*cpus, gpus=0):
    return [Node(str(index), f"node{index}", count, gpus) for index, count in enumerate(cpus)]


@pytest.mark.parametrize("cpus", [(1,), (2,), (3,), (4, 4), (1, 1, 1), (16,), (64, 8)])
@pytest.mark.parametrize("threads", [0, 1])
def test_shares_fit_the_cluster_and_something_always_decodes(cpus, threads):
    shares = deal_out(nodes(*cpus), "cpu", threads, inputs=1000)
    assert shares.models >= 1
    assert shares.decoders >= 1
    assert 1 <= shares.threads <= max(cpus)
    assert (shares.gpus, shares.device) == (0, "cpu")
    if sum(cpus) > 1:
        assert shares.models * shares.threads + shares.decoders <= sum(cpus)
    # Half of the processors must do for every model's claim, so that it finds a place when machines are lost.
    assert shares.models * shares.cpus <= max(0.5, sum(cpus) / 2)


def test_each_device_gets_one_model_and_no_more_than_there_is_work_for():
    machines = nodes(8, 8, gpus=2)
    shares = deal_out(machines, "auto", 0, inputs=1000)
    assert (shares.models, shares.gpus, shares.device, shares.decoders) == (4, 1, "auto", 16)
    assert deal_out(machines, "cuda", 0, inputs=1000).device == "cuda"
    assert deal_out(machines, "cpu", 0, inputs=1000).gpus == 0
    assert deal_out(machines, "auto", 0, inputs=9, batch=8).models == 2
    assert deal_out(nodes(16), "cpu", 1, inputs=1).models == 1
    assert deal_out(nodes(16), "cpu", 0, inputs=100, decoders=3).decoders == 3
    with pytest.raises(UsageError, match="Give --workers 1 or more"):
        deal_out(nodes(16), "cpu", 0, inputs=100, decoders=0)


@pytest.mark.parametrize(
    ("device", "threads", "kind", "words"),
    [
        ("cuda", 0, DeviceError, r"its 2 machine\(s\) offer 8 CPUs and no GPU\. Give --device cpu"),
        ("cuda:1", 0, UsageError, "Give --device cuda"),
        ("cpu", 5, UsageError, "the largest machine of the cluster offers 4 CPUs"),
    ],
)
def test_what_the_cluster_does_not_have_is_refused(device, threads, kind, words):
    with pytest.raises(kind, match=words):
        deal_out(nodes(4, 4), device, threads, inputs=10)


def test_what_a_machine_lacks_is_named(tmp_path):
    assert what_is_missing(Needs.of([tmp_path])) == ""
    missing = what_is_missing(Needs.of([tmp_path, tmp_path / "engine"]))
    assert missing == f"it cannot read {tmp_path / 'engine'}"
    assert "taemi 0.0 here" not in what_is_missing(Needs((), "0.0"))
    assert what_is_missing(Needs((), "0.0")).endswith("is installed there, and 0.0 here")


class Reader:
    def read(self, source):
        if source.name == "bad":
            raise MediaError("cannot read bad", "it is bad", "Give another")
        if source.name == "known":
            return Finished("known already")
        return f"read {source.name}"


class Worker:
    """Works on batches; some names are too much for it."""

    def __init__(self):
        self.calls = []

    def work(self, items):
        names = [source.name for source, _ in items]
        self.calls.append(names)
        if "fails" in names:
            raise ValueError("no")
        if "kills" in names:
            raise SystemExit  # what a test can survive of a process that dies
        return [content.upper() for _, content in items]


class Recipe:
    def __init__(self, worker=None, error=None):
        self.worker, self.error = worker or Worker(), error

    def open(self):
        logging.getLogger("taemi_runtime.engine").info("opened")
        if self.error:
            raise self.error
        return self.worker


def parcels(*names):
    return [Parcel(Source(index, name), name) for index, name in enumerate(names)]


def test_a_reader_gives_every_input_and_an_error_is_its_input_s_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage = ReadStage(Reader(), Attempts(), Place(str(tmp_path)))
    found = list(stage([Source(0, "a"), Source(1, "bad"), Source(2, "known"), Source(3, "b")]))
    assert [parcel.done for parcel in found] == [False, True, True, False]
    assert [found[0].content, found[2].content] == ["read a", "known already"]
    assert found[1].content == ClipFailure("bad", "cannot read bad: it is bad. Give another")
    assert pickle.loads(pickle.dumps(found)) == found


def test_an_input_that_killed_its_reader_too_often_is_not_read_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ledger = Attempts()
    for _ in range(MOST_DEATHS):
        ledger.begin("read", [0])  # and then the process died
    (found,) = ReadStage(Reader(), ledger, Place(str(tmp_path)))([Source(0, "a")])
    assert found.done
    assert "cannot finish a: the process that reads it died 3 times" in found.content.error


def test_a_batch_is_worked_on_together_and_what_is_done_passes_by(tmp_path):
    worker = Worker()
    stage = WorkStage(Recipe(worker), Attempts(), Place(str(tmp_path)), "node")
    done = Parcel(Source(9, "x"), "done before", done=True)
    found = stage([*parcels("a", "b"), done])
    assert worker.calls == [["a", "b"]]
    assert {parcel.source.index: parcel.content for parcel in found} == {0: "A", 1: "B", 9: "done before"}
    assert [note.text for parcel in found for note in parcel.notes] == ["opened"]


def test_one_that_fails_takes_no_other_with_it(tmp_path):
    stage = WorkStage(Recipe(), Attempts(), Place(str(tmp_path)), "node")
    found = stage(parcels("a", "fails", "b"))
    assert [found[0].content, found[2].content] == ["A", "B"]
    assert found[1].content.error.startswith("ValueError: no")


def test_one_that_kills_its_process_ends_as_its_own_failure(tmp_path):
    ledger, deaths, found = Attempts(), 0, None
    while found is None:
        stage = WorkStage(Recipe(), ledger, Place(str(tmp_path)), "node")  # a new process each time
        try:
            found = stage(parcels("a", "kills", "b"))
        except SystemExit:
            deaths += 1
    assert deaths == MOST_DEATHS
    assert [found[0].content, found[2].content] == ["A", "B"]
    assert "cannot finish kills: the process that works on it died 3 times" in found[1].content.error


def test_a_model_that_cannot_be_opened_is_told_with_its_machine_and_tried_once(tmp_path):
    recipe = Recipe(error=EngineError("cannot open fp16.plan", "no GPU", "Use fusion.onnx"))
    stage = WorkStage(recipe, Attempts(), Place(str(tmp_path)), "10.0.0.7")
    for _ in range(2):
        (found,) = stage(parcels("a", "b"))
        assert found.source is None
        assert str(found.content) == "cannot open fp16.plan on node 10.0.0.7: no GPU. Use fusion.onnx"


def test_a_model_that_kills_whoever_opens_it_is_given_up(tmp_path):
    recipe, ledger = Recipe(error=SystemExit()), Attempts()
    place = Place(str(tmp_path), models=2)
    found, tries = None, 0
    while found is None:
        try:
            (found,) = WorkStage(recipe, ledger, place, "node")(parcels("a"))
        except SystemExit:
            tries += 1
    assert tries == 2 + MOST_DEATHS  # two may be at it at the same time without any being dead
    assert "3 processes died over it" in str(found.content)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_shards_become_one_file_in_the_order_of_the_inputs(tmp_path, monkeypatch):
    monkeypatch.setattr("taemi_runtime.shards._LINES_A_SHARD", 2)
    out = tmp_path / "scores.jsonl"
    out.write_text("of an earlier run\n")
    shards = Shards(out)
    for index in (4, 0, 3, 1, 2):
        shards.add(index, {"clip": f"{index}\udcff.mp4", "index": index})
    assert [len(lines(path)) for path in sorted(shard_folder(out).iterdir())] == [2, 2, 1]
    assert out.read_text() == "of an earlier run\n"  # nothing is lost before everything is there
    shards.merge()
    assert [line["index"] for line in lines(out)] == [0, 1, 2, 3, 4]
    assert not shard_folder(out).exists()


def test_kept_lines_take_their_place_and_those_of_other_inputs_stay_first(tmp_path):
    out = tmp_path / "scores.jsonl"
    kept = [{"clip": "other", "index": 1}, {"clip": "b", "index": 1}, {"clip": "d", "index": 3}]
    out.write_text("".join(json.dumps(line) + "\n" for line in kept))
    shards = Shards(out, kept=2)
    shards.add(2, {"clip": "c", "index": 2})
    shards.add(0, {"clip": "a", "index": 0})
    shards.merge()
    assert [line["clip"] for line in lines(out)] == ["other", "a", "b", "c", "d"]


def test_what_a_killed_run_left_is_folded_in_without_its_torn_line(tmp_path):
    out = tmp_path / "scores.jsonl"
    out.write_text('{"clip": "a"}\n')
    shards = Shards(out)
    shards.add(1, {"clip": "b"})
    shards.close()
    (part,) = shard_folder(out).iterdir()
    part.write_text(part.read_text() + '{"clip": "tor')
    assert fold_shards(out) == 1
    assert out.read_text() == '{"clip": "a"}\n{"clip": "b"}\n'
    assert not shard_folder(out).exists()
    assert fold_shards(out) == 0


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    out = tmp_path / "scores.jsonl"
    shard_folder(out).mkdir()
    (shard_folder(out) / "thesis.tex").write_text("years of work")
    for use in (Shards, fold_shards):
        with pytest.raises(UsageError, match=r"it holds thesis\.tex, which is no shard"):
            use(out)
    assert (shard_folder(out) / "thesis.tex").read_text() == "years of work"


def test_what_ray_s_threads_print_stays_out_of_the_results(capsys):
    def in_thread(text, wait=None):
        def run():
            if wait:
                wait.wait()
            print(text)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    stdout, later = _Stdout(sys.stdout, sys.stderr), threading.Event()
    with contextlib.redirect_stdout(stdout):
        in_thread("while it starts").join()
        listener = in_thread("a worker died", later)
        stdout.close_list()
        later.set()
        listener.join()
        in_thread("a result").join()
        print("another")
        stdout.silence()
        print("said at the end")
    found = capsys.readouterr()
    assert found.out.split("\n") == ["a result", "another", ""]
    assert found.err.split("\n") == ["while it starts", "a worker died", "said at the end", ""]


def run_command(before, after, *words):
    """Run the command in a process of its own, with a statement before and one after it."""
    program = (
        f"import sys, contextlib\n{before}\nfrom taemi_runtime.cli import main\n"
        f"sys.argv = ['taemi-infer', *{list(map(str, words))!r}]\n"
        f"try: main()\nfinally: {after}"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ,
    )


def test_without_the_option_ray_is_not_imported(bundle, clips):
    words = (clips.both, clips.broken, "--engine", bundle.folder, "--format", "json", "--quiet")
    tell = "print(*sorted({'ray', 'pyarrow', 'pandas'} & set(sys.modules)), file=sys.stderr, sep=',')"
    done = run_command("pass", tell, *words)
    assert done.returncode == 1
    assert json.loads(done.stdout)[0]["intensities"]
    assert done.stderr.splitlines()[-1] == ""


def test_without_the_extra_one_line_names_it(bundle, clips):
    words = (clips.both, "--engine", bundle.folder, "--ray")
    done = run_command("sys.modules['ray'] = None", "pass", *words)
    assert done.returncode == 1
    assert done.stderr == (
        'error: cannot spread work over a cluster: ray is not installed. pip install "taemi[ray]"\n'
    )
