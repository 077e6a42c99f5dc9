"""``taemi-bench store``: a store is drawn and measured, and every rate is of the same clips."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from taemi_bench import cli
from taemi_bench.store_throughput import ROWS
from taemi_runtime.feature_files.index import read_index
from taemi_runtime.feature_files.reading import read_facts
from tests.runtime.tiny_bundle import make_bundle


@pytest.fixture
def bench(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["taemi-bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        return caught.value.code or 0, said.out, said.err

    return run


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny.taemi").folder


def test_a_drawn_store_is_measured(bench, bundle, tmp_path):
    store, out = tmp_path / "store", tmp_path / "report.json"
    command = ("store", bundle, store, "--rounds", 3, "--clips", 20, "--json", out, "--threads", 1, "-q")
    code, said, err = bench(*command, "--draw", 30, "--longest", "vision=100")
    assert code == 0, err
    entries = read_index(store).clips
    assert len(entries) == 30
    audio = np.array([entry.lengths["audio"] for entry in entries.values()])
    vision = np.array([entry.lengths["vision"] for entry in entries.values()])
    # From 2/12 of the longest to all of it, the same share for both.
    assert 99 <= audio.min() < audio.max() <= 599
    np.testing.assert_allclose(audio / 599, vision / 100, atol=0.006)
    assert read_facts(store / "000000.safetensors")[0].origin == read_index(store).origin
    report = json.loads(out.read_text())
    assert set(report["clips_a_second"]) == set(ROWS)
    assert {len(rates) for rates in report["clips_a_second"].values()} == {3}
    shares = [
        whole / min(engine, read)
        for engine, read, whole in zip(*(report["clips_a_second"][row] for row in ROWS), strict=True)
    ]
    assert report["share"] == pytest.approx(np.median(shares), abs=1e-3)
    assert (report["clips"], report["clips_a_round"], report["batch"]) == (30, 20, 8)
    assert f"{report['share']:.1%} of the slower of engine and read" in said
    # The store is there now.
    code, _, _ = bench(*command, "--cold")
    assert code == 0
    assert json.loads(out.read_text())["cold"] is True


def test_what_cannot_be_measured_is_said(bench, bundle, tmp_path):
    code, _, err = bench("store", bundle, tmp_path / "store", "-q")
    assert (code, "there is no feature store and no feature file" in err) == (2, True)
    code, _, err = bench("store", bundle, tmp_path / "store", "--draw", 3, "--longest", "smell=9", "-q")
    assert (code, "the engine takes audio, vision" in err) == (2, True)
    code, _, err = bench("store", bundle, tmp_path / "store", "--draw", 3, "--longest", "audio", "-q")
    assert (code, "cannot read --longest audio" in err) == (2, True)
    code, _, err = bench("store", bundle, tmp_path / "store", "--draw", 3, "-q")
    assert code == 0
    (tmp_path / "store" / "000001.safetensors").write_bytes(b"damaged")
    code, _, err = bench("store", bundle, tmp_path / "store", "--clips", 3, "-q")
    assert code == 1
    assert "000001.safetensors" in err
