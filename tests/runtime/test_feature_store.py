"""A growing store: whole at every moment, found again after a kill, never of two kinds."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from taemi_runtime.errors import DataError
from taemi_runtime.feature_files.index import read_index
from taemi_runtime.feature_files.layout import FeatureFacts
from taemi_runtime.feature_files.reading import read_facts
from taemi_runtime.feature_files.scorer import FeatureScorer
from taemi_runtime.feature_files.store import FeatureStoreWriter
from taemi_runtime.manifest import file_sha256
from tests.runtime.feature_stores import draw, expected, origin_of_bundle, scores_of, write_store

ROOT = Path(__file__).parents[2]
PREPROCESSING = {"vision": {"max_fps": None, "convs": ((1, 2),)}}
FACTS = FeatureFacts("a.mp4", 1.0, "a" * 64)


@pytest.fixture
def origin(bundle):
    return origin_of_bundle(bundle)


def opened(folder, origin, preprocessing=PREPROCESSING):
    return FeatureStoreWriter(folder, origin, preprocessing)


def scored(bundle, store):
    with FeatureScorer(bundle.folder, clip_scores=False) as scorer:
        return {outcome.clip: scores_of(outcome) for _, outcome in scorer.score([store])}


def test_the_index_lists_files_digests_and_lengths(origin, tmp_path):
    features = draw(4)
    with opened(tmp_path / "store", origin) as writer:
        stored = writer.add("a", features, FACTS)
    index = read_index(tmp_path / "store")
    entry = index.clips["a"]
    assert index.origin == origin
    assert stored.path == tmp_path / "store" / "a.safetensors"
    assert entry.file == "a.safetensors"
    assert entry.clip_sha256 == "a" * 64
    assert entry.sha256 == file_sha256(stored.path)
    assert entry.lengths == {"audio": len(features["audio"]), "vision": len(features["vision"]), "text": 1}
    assert read_facts(stored.path)[0].origin == origin


def test_a_store_goes_on_where_it_stopped_without_its_last_index(bundle, origin, tmp_path):
    folder = tmp_path / "store"
    with opened(folder, origin) as writer:
        writer.add("a", draw(1), FACTS)
    before = (folder / "index.json").read_bytes()
    with opened(folder, origin) as writer:
        writer.add("b", draw(2), FeatureFacts("b.mp4", 1.0, "b" * 64))
    # As after a kill: the file is there, the index does not list it yet.
    (folder / "index.json").write_bytes(before)
    writer = opened(folder, origin)
    assert writer.find("a", "a" * 64).path == folder / "a.safetensors"
    assert writer.find("b", "b" * 64).path == folder / "b.safetensors"
    assert writer.find("b", "c" * 64) is None
    assert writer.find("c", "b" * 64) is None
    found = scored(bundle, folder)
    np.testing.assert_allclose(found["b.mp4"], expected(draw(2)), atol=5e-6)


def test_a_damaged_file_is_added_again(origin, tmp_path):
    folder = tmp_path / "store"
    with opened(folder, origin) as writer:
        stored = writer.add("a", draw(1), FACTS)
    os.truncate(stored.path, 100)
    (folder / "index.json").write_text(
        json.dumps({**json.loads((folder / "index.json").read_text()), "clips": {}})
    )
    with opened(folder, origin) as writer:
        assert writer.find("a", "a" * 64) is None
        assert writer.add("a", draw(1), FACTS).path == stored.path
    assert read_facts(stored.path)[0].clip == "a.mp4"


def test_clips_of_one_name_are_kept_apart(origin, tmp_path):
    with opened(tmp_path / "store", origin) as writer:
        first = writer.add("a", draw(1), FACTS)
        other = writer.add("a", draw(2), FeatureFacts("a.mp4", 2.0, "b" * 64))
        again = writer.add("a", draw(3), FeatureFacts("a.mp4", 2.0, "b" * 64))
        assert (first.name, other.name) == ("a", f"a-{'b' * 12}")
        assert again == other == writer.find("a", "b" * 64)
        with pytest.raises(DataError, match="it has one of that name, and without a digest"):
            writer.add("a", draw(4), FeatureFacts("a.mp4", 2.0))
        hidden = writer.add("../.b/c", draw(5), FeatureFacts("c.mp4", 2.0, "c" * 64))
    assert hidden.path.parent == tmp_path / "store"
    assert hidden.path.name == "_.b_c.safetensors"


def test_other_encoders_and_preprocessing_are_not_mixed(bundle, origin, tmp_path):
    folder = tmp_path / "store"
    with opened(folder, origin) as writer:
        writer.add("a", draw(1), FACTS)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = origin_of_bundle(bundle, vision="d" * 64, checkpoint="e" * 64)
    with pytest.raises(DataError) as caught:
        opened(folder, other)
    assert str(caught.value) == (
        f"cannot add to the feature store {folder}: it was made otherwise: vision encoder "
        f"{origin.encoders['vision'].sha256}, here {'d' * 64}. Give --save-features another folder"
    )
    with pytest.raises(DataError, match=r"preprocessing vision.max_fps None, here 5"):
        opened(folder, origin, {"vision": {"max_fps": 5, "convs": [[1, 2]]}})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_of_other_things_is_no_store(origin, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"the folder holds other things, and no index.json"):
        opened(tmp_path, origin)
    with pytest.raises(DataError, match="it is a file"):
        opened(tmp_path / "notes.txt", origin)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"vision_encoder": "x", "preprocessing": {}}, "it is a training store: it holds the waveform"),
        ({"format": "taemi-features", "version": 2, "clips": {}}, "version 2; this taemi reads"),
        ({"format": "others", "version": 1, "clips": {}}, "is of format 'others', version 1"),
        ({"format": "taemi-features", "version": 1, "clips": {}}, "breaks version 1"),
        (
            {
                "format": "taemi-features",
                "version": 1,
                "origin": {},
                "preprocessing": {},
                "clips": {"a": {"file": "../../secret.safetensors"}},
            },
            r"file '../../secret.safetensors' would leave the store",
        ),
    ],
)
def test_an_index_that_cannot_be_used_is_refused(bundle, tmp_path, index, message):
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / "index.json").write_text(json.dumps(index))
    with FeatureScorer(bundle.folder) as scorer, pytest.raises(DataError, match=message):
        scorer.score([folder])


def test_a_large_store_is_known_by_the_beginning_of_its_index(bundle, tmp_path):
    folder = write_store(tmp_path / "store", bundle, [draw(1)])
    index = json.loads((folder / "index.json").read_text())
    entry = index["clips"]["00000"]
    # Entries of files that are gone: their rows say so, the index is read all the same.
    index["clips"] |= {
        f"gone{number:04}": {**entry, "file": f"gone{number:04}.safetensors"} for number in range(900)
    }
    (folder / "index.json").write_text(json.dumps(index))
    assert (folder / "index.json").stat().st_size > 1 << 17
    with FeatureScorer(bundle.folder) as scorer:
        outcomes = dict(scorer.score([folder]))
    assert [place for place, outcome in outcomes.items() if not hasattr(outcome, "error")] == [0]
    assert len(outcomes) == 901
    index["clips"]["00000"]["colour"] = "red"
    (folder / "index.json").write_text(json.dumps(index))
    with (
        FeatureScorer(bundle.folder) as scorer,
        pytest.raises(DataError, match="unknown field colour of clip"),
    ):
        scorer.score([folder])


def test_a_store_without_its_index_says_how_to_score_its_files(bundle, origin, tmp_path):
    folder = write_store(tmp_path / "store", bundle, [draw(1)])
    (folder / "index.json").unlink()
    with FeatureScorer(bundle.folder, clip_scores=False) as scorer:
        with pytest.raises(DataError, match=r"Name its files: .*store/\*.safetensors"):
            scorer.score([folder])
        ((_, outcome),) = scorer.score([folder / "*.safetensors"])
    np.testing.assert_allclose(scores_of(outcome), expected(draw(1)), atol=5e-6)


ADDING = """
import sys
from pathlib import Path
import numpy as np
from taemi_runtime.feature_files import store
from taemi_runtime.feature_files.layout import FeatureFacts, Origin
store._INDEX_SECONDS = 0.05
writer = store.FeatureStoreWriter(Path(sys.argv[1]), Origin("0" * 64), {})
for number in range(100_000):
    name = f"{number:05}"
    if writer.find(name, f"{number:064x}") is None:
        values = np.full((1 + number % 50, 3), number % 1000, np.float16)
        writer.add(name, {"audio": values}, FeatureFacts(name, 1.0, f"{number:064x}"))
        print(number, flush=True)
"""


def test_nothing_is_lost_or_torn_by_kills_at_any_moment(tmp_path):
    folder = tmp_path / "store"
    rng = np.random.default_rng(3)
    said: list[int] = []
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", ADDING, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
        )
        # It has begun when it says so; then it is killed at any moment.
        said.append(int(process.stdout.readline()))
        time.sleep(rng.uniform(0, 0.25))
        process.send_signal(signal.SIGKILL)
        said += [int(line) for line in process.stdout.read().split("\n")[:-1]]
        process.wait()
    # What was said to be done was never done again by a later process.
    assert len(set(said)) == len(said) > 20
    writer = FeatureStoreWriter(folder, read_index(folder).origin, {})
    assert len(writer.index.clips) >= len(said)
    # A kill may fall between a file and the line that says so.
    for number in range(max(said) + 1):
        stored = writer.find(f"{number:05}", f"{number:064x}")
        facts, lengths = read_facts(stored.path)
        assert facts.clip == f"{number:05}"
        assert lengths == {"audio": 1 + number % 50}


def test_a_full_disk_keeps_the_scores_and_says_what_is_not_kept(bundle, clips, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    # With this transcript beside them, the second clip's features do not fit into a file of that size.
    (texts / "second.txt").write_text("I won the race today " * 300)
    command = [sys.executable, "-m", "taemi_runtime.cli", *map(str, (clips.sound, clips.second, clips.both))]
    command += ["--engine", str(bundle.folder), "--format", "jsonl", "--transcripts", str(texts), "--quiet"]
    done = subprocess.run(
        [*command, "--save-features", str(tmp_path / "kept")],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)),
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, len(lines)) == (1, 3), done.stderr
    kept = [
        not any("its features were not kept" in note for note in line.get("warnings", ())) for line in lines
    ]
    assert kept == [True, False, False]
    assert f"error: cannot write {tmp_path / 'kept' / 'second.safetensors'}: File too large." in done.stderr
    assert [path.name for path in (tmp_path / "kept").glob("*.safetensors")] == ["sound.safetensors"]
